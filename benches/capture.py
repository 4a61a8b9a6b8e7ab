"""Measures capture at a fixed rate: capture.py BENCH_FOLDER WEIR_FILE BARE_FILE STORE OUT_FILE.

`benches/capture` sets it up. The gateway has a core of its own; upstream, load and Postgres share another.
"""
import contextlib
import glob
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True  # the bench folder may be read-only
import bench  # noqa: E402

RATE = int(os.environ.get("RATE", "2000"))
SECS = int(os.environ.get("SECS", "60"))
ROUNDS = int(os.environ.get("ROUNDS", "6"))
WINDOW = 10  # seconds
BYTES = 4096
PATIENCE = 300  # seconds for the spool to drain


@contextlib.contextmanager
def postgres():
    """A server of our own; yields its URL."""
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    program = lambda name: os.path.join(programs[-1], name) if programs else name
    folder = tempfile.mkdtemp()
    port = bench.MOCK_PORT + 1
    user = []
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    run = lambda *command: subprocess.run(user + list(command), check=True, stdout=subprocess.DEVNULL,
                                          stderr=subprocess.DEVNULL, cwd=folder)
    data = os.path.join(folder, "data")
    run(program("initdb"), "-U", "weir", "--auth=trust", "-E", "UTF8", "-D", data)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    start = bench.pin(bench.CPU_LOAD) + user + [program("pg_ctl"), "-D", data, "-o", options, "-w", "-l",
                                                os.path.join(folder, "log"), "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    try:
        yield f"postgres://weir@127.0.0.1:{port}/postgres?sslmode=disable"
    finally:
        run(program("pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def gateway_of(file, port, store=None):
    gateway = bench.Gateway(file, port)
    if store:
        files = gateway.d["files"]
        files["weir.yaml"] = re.sub(r"(?m)^store: .*$", f"store: {store}", files["weir.yaml"])
    shutil.rmtree(gateway.work, ignore_errors=True)
    os.makedirs(gateway.work)
    return gateway


def metrics(gateway):
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.vars['port2']}/metrics") as answer:
        text = answer.read().decode()
    records = dict(re.findall(r'weir_capture_records_total\{outcome="(\w+)"\} (\d+)', text))
    spool = re.search(r"^weir_capture_spool_bytes (\S+)", text, re.M)
    return {name: int(count) for name, count in records.items()}, float(spool.group(1))


def pair(path, model):
    """A request of BYTES bytes."""
    empty = {"model": model, "messages": [{"role": "user", "content": ""}]}
    empty["messages"][0]["content"] = bench.prose(BYTES - len(json.dumps(empty)))
    pathlib.Path(path).write_text(json.dumps(empty))
    return path


def load(gateway, seconds):
    body = pair(os.path.join(gateway.work, "pair.json"), gateway.model)
    command = [os.path.join(bench.BIN, "gwload"), "rate", "--url", gateway.url(), "--body", body, "--conns", "64",
               "--rate", str(RATE), "--secs", str(seconds)]
    for header in gateway.headers:
        command += ["--header", header]
    return subprocess.Popen(bench.pin(bench.CPU_LOAD) + command, stdout=subprocess.PIPE, text=True)


def run(gateway, seconds):
    """Latency and memory under the load."""
    before, cpu, began = bench.rss_mb(gateway.pids()), bench.cpu_of(gateway.pids()), time.monotonic()
    process, most, spooled = load(gateway, seconds), 0.0, 0.0
    while process.poll() is None:
        most = max(most, bench.rss_mb(gateway.pids()))
        with contextlib.suppress(OSError):
            spooled = max(spooled, metrics(gateway)[1])
        time.sleep(1)
    wall = time.monotonic() - began
    done = json.loads(process.communicate()[0])
    return {
        "requests": done["ok"], "failed": done["err"], "p50_us": done["lat_us"]["p50"], "p99_us": done["lat_us"]["p99"],
        "core_share": round((bench.cpu_of(gateway.pids()) - cpu) / wall, 3),
        "rss_before_mb": before, "rss_most_mb": most, "spool_most_bytes": spooled,
    }


def drained(gateway):
    """Waits until all that was appended is in the store."""
    began = time.monotonic()
    while True:
        records, spool = metrics(gateway)
        if spool == 0 and records["stored"] >= records["appended"]:
            return records
        if time.monotonic() - began > PATIENCE:
            sys.exit(f"capture: the spool does not drain: {records}, {spool} bytes")
        time.sleep(0.2)


def in_turn(bare_file, file, store):
    """Latency without and with a store in windows that take turns: what the machine does meanwhile hits both."""
    gateways = {"without": gateway_of(bare_file, 18102), "with": gateway_of(file, 18101, store)}
    runs = {name: [] for name in gateways}
    try:
        for gateway in gateways.values():
            gateway.start()
        time.sleep(2)
        for _ in range(ROUNDS):
            for name, gateway in gateways.items():
                runs[name].append(run(gateway, WINDOW))
            drained(gateways["with"])
    finally:
        for gateway in gateways.values():
            gateway.stop()
    figures = {}
    for name, rows in runs.items():
        for key in ("p50_us", "p99_us"):
            figures[f"{key}_{name}"] = [row[key] for row in rows]
            figures[f"{key}_{name}_median"] = statistics.median(row[key] for row in rows)
    return figures


def captured(file, store):
    gateway = gateway_of(file, 18101, store)
    try:
        gateway.start()
        time.sleep(2)
        first = metrics(gateway)[0]["appended"]  # of the request that asked whether it is ready
        figures = run(gateway, SECS)
        ended = time.monotonic()
        records = drained(gateway)
        figures["drained_after_s"] = round(time.monotonic() - ended, 1)
        figures["stored"] = records["stored"] - first
        figures["lost"] = figures["requests"] + figures["failed"] - figures["stored"]
        figures["records"] = records
        figures["rss_after_mb"] = bench.rss_mb(gateway.pids())
        return figures
    finally:
        gateway.stop()


def bare(file):
    gateway = gateway_of(file, 18102)
    try:
        gateway.start()
        time.sleep(2)
        return run(gateway, min(SECS, 20))
    finally:
        gateway.stop()


def main():
    with contextlib.ExitStack() as stack:
        stack.enter_context(bench.Mock())
        store = stack.enter_context(postgres()) if sys.argv[4] == "postgres" else "sqlite:{work}/weir.db"
        figures = {"store": sys.argv[4], "rate": RATE, "without": bare(sys.argv[3]), "with": captured(sys.argv[2], store)}
        figures["without_again"] = bare(sys.argv[3])
    with contextlib.ExitStack() as stack:
        stack.enter_context(bench.Mock())
        store = stack.enter_context(postgres()) if sys.argv[4] == "postgres" else "sqlite:{work}/weir.db"
        figures["in_turn"] = in_turn(sys.argv[3], sys.argv[2], store)
    pathlib.Path(sys.argv[5]).write_text(json.dumps(figures, indent=1) + "\n")
    for name in ("without", "with", "without_again", "in_turn"):
        print(f"{name}: {json.dumps(figures[name])}", flush=True)
    if figures["with"]["failed"] or figures["with"]["lost"]:
        sys.exit("capture: something was lost")


main()
