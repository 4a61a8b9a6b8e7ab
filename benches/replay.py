"""Fills a store with calls and replays them: replay.py WEIR FOLDER ROWS. `benches/replay` calls it.

A gateway serves the policy's first calls, so that rows, facts and costs are its own; they are copied under new ids until
there are enough. The replay must decide all of them alike, at the same cost.
"""
import json
import os
import pathlib
import resource
import sqlite3
import subprocess
import sys
import time
import urllib.request

WEIR, FOLDER, ROWS = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
POLICY = """
models:
  small: { as: gpt-5-nano, price: { input: 1, output: 2 }, quality: 0.5 }
  large: { as: gpt-5, price: { input: 10, output: 20 }, quality: 0.9 }
routes:
  - { name: important, when: importance == "high", use: large }
  - { name: tagged, when: '"app" in tag && tag["app"] == "chat"', use: small }
  - { name: long, when: tokens.prompt > 1000, use: large }
  - { name: auto, when: 'request.model == "auto"', cheapest: { of: [small, large], min_quality: 0.4 } }
  - { name: split, when: 'request.model == "split"', split: { small: 60, large: 40 }, sticky: user }
"""


def serve():
    """Some hundred calls of each kind by a real gateway."""
    (FOLDER / "policies").mkdir()
    (FOLDER / "policies/main.yaml").write_text(POLICY)
    data, control = 18311, 18312
    (FOLDER / "weir.yaml").write_text(f"listen: 127.0.0.1:{data}\ncontrol: {{ listen: 127.0.0.1:{control} }}\n")
    gateway = subprocess.Popen([WEIR, "serve", "--simulate"], cwd=FOLDER, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{control}/readyz").read()
                break
            except OSError:
                time.sleep(0.05)
        for n in range(500):
            headers = {"authorization": "Bearer sk-bench", "content-type": "application/json",
                       "x-weir-importance": ("normal", "high")[n % 5 == 0], "x-weir-capture": "metadata"}
            if n % 3 == 0:
                headers["x-weir-tag-app"] = "chat"
            body = {"model": ("auto", "split", "small")[n % 7 % 3], "user": f"user-{n}", "max_tokens": 20 + n,
                    "messages": [{"role": "user", "content": "word " * (n % 11 * 150)}]}
            url = f"http://127.0.0.1:{data}/v1/chat/completions"
            urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
        time.sleep(1)
    finally:
        gateway.terminate()
        gateway.wait()


def fill():
    """Copies the calls, each under an id of its own: one that decides chance, and is as random."""
    store = sqlite3.connect(FOLDER / "data/weir.db")
    store.execute("pragma synchronous = off")
    names = [row[1] for row in store.execute("pragma table_info(interactions)")]
    rest = ", ".join(name for name in names if name != "id")
    have = store.execute("select count(*) from interactions").fetchone()[0]
    # Not the last digits: splits without stickiness draw by them, and these rows were decided with theirs.
    store.execute(f"""with recursive n(i) as (select 1 union all select i + 1 from n where i < {ROWS // have - 1})
        insert into interactions (id, {rest})
        select substr(id, 1, 15) || printf('%03x-8%03x-%06x', i & 4095, (i >> 12) & 4095, i) || substr(id, 31), {rest}
        from interactions, n where true""")
    store.commit()
    return store.execute("select count(*) from interactions").fetchone()[0]


def main():
    serve()
    rows = fill()
    began = time.monotonic()
    done = subprocess.run([WEIR, "policy", "replay", "--json"], cwd=FOLDER, capture_output=True, text=True)
    took = time.monotonic() - began
    if done.returncode:
        sys.exit(done.stderr)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    report = json.loads(done.stdout)
    total = report["total"]
    print(f"{rows} calls in {took:.1f} s, at most {most} MB; {report['reproduced']} of {report['own']} decided alike, "
          f"recorded {total['recorded_cost_usd']}, projected {total['projected_cost_usd']} USD")
    if report["reproduced"] != rows or total["difference_usd"] != "0":
        sys.exit("replay: not all calls are decided alike")


main()
