"""Restarts and upgrades under load: rolling.py WEIR OUT_FILE. `benches/rolling` sets it up."""
import asyncio
import contextlib
import decimal
import glob
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

WEIR, OUT = sys.argv[1:]
RATE = int(os.environ.get("RATE", "500"))
SECS = int(os.environ.get("SECS", "60"))
# A stream of 25 chunks lasts half a second.
STREAM = "[[simulate chunks=25 chunk_delay_ms=20]]"
# USD per million tokens of gpt-4.1-mini.
INPUT, CACHED, OUTPUT = (decimal.Decimal(rate) for rate in ("0.40", "0.10", "1.60"))
PATIENCE = 60


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@contextlib.contextmanager
def postgres():
    """A server of our own; yields its URL."""
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    program = lambda name: os.path.join(programs[-1], name) if programs else name
    folder, [port] = tempfile.mkdtemp(), free_ports(1)
    user = []
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    run = lambda *command: subprocess.run(user + list(command), check=True, stdout=subprocess.DEVNULL,
                                          stderr=subprocess.DEVNULL, cwd=folder)
    data = os.path.join(folder, "data")
    run(program("initdb"), "-U", "weir", "--auth=trust", "-E", "UTF8", "-D", data)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    run(program("pg_ctl"), "-D", data, "-o", options, "-w", "-l", os.path.join(folder, "log"), "start")
    try:
        yield f"postgres://weir@127.0.0.1:{port}/postgres?sslmode=disable"
    finally:
        run(program("pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def get(port, path):
    with contextlib.suppress(OSError):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return json.load(answer)
    return None


class Gateway:
    def __init__(self, folder, name, store, upstream):
        self.folder = pathlib.Path(folder, name)
        (self.folder / "policies").mkdir(parents=True)
        policy = f"upstreams: {{ openai: {{ base_url: 'http://127.0.0.1:{upstream}/v1', api_key: sk-bench }} }}\n"
        (self.folder / "policies" / "main.yaml").write_text(policy)
        self.port, self.control = free_ports(2)
        self.env = {"WEIR_LISTEN": f"127.0.0.1:{self.port}", "WEIR_CONTROL_LISTEN": f"127.0.0.1:{self.control}",
                    "WEIR_STORE": store, "WEIR_USER_SECRET": "bench", "WEIR_LOG_LEVEL": "warn"}
        self.process, self.ready, self.pinned = None, False, False

    def start(self, *arguments):
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen([WEIR, "serve", *arguments], cwd=self.folder, env=self.env, stdout=log, stderr=log)

    async def until_ready(self):
        until = time.monotonic() + PATIENCE
        while not (await asyncio.to_thread(get, self.control, "/readyz") or {}).get("status") == "ready":
            if time.monotonic() > until or self.process.poll() is not None:
                sys.exit(f"a gateway is not ready:\n{(self.folder / 'log').read_text()[-2000:]}")
            await asyncio.sleep(0.02)

    @staticmethod
    async def end_of(process):
        code = await asyncio.to_thread(process.wait, PATIENCE)
        if code != 0:
            sys.exit(f"a gateway ended with {code}")


class Balancer:
    """The gateways in turn, those left out that say that they are not ready."""

    def __init__(self, gateways):
        self.gateways, self.turn = gateways, 0
        self.served = self.streams = self.running = self.most_running = 0
        self.failures, self.cost = [], decimal.Decimal(0)

    async def check(self):
        while True:
            for gateway in self.gateways:
                told = await asyncio.to_thread(get, gateway.control, "/readyz")
                gateway.ready = gateway.pinned or bool(told) and told["status"] == "ready"
            await asyncio.sleep(0.02)

    async def connect(self):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            self.turn += 1
            gateway = self.gateways[self.turn % len(self.gateways)]
            if gateway.ready:
                with contextlib.suppress(OSError):
                    return await asyncio.open_connection("127.0.0.1", gateway.port)
            await asyncio.sleep(0.001)
        raise OSError("no gateway takes the call")

    async def call(self, streams):
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            self.note(streams, await asyncio.wait_for(self.answer(streams), PATIENCE))
        except (OSError, ValueError, KeyError, TypeError, asyncio.TimeoutError) as error:
            self.failures.append(f"stream {streams}: {error!r}")
        self.running -= 1

    async def answer(self, streams):
        body = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": STREAM if streams else "hi"}]}
        if streams:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(body).encode()
        reader, writer = await self.connect()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
                     b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        answer = await reader.read(-1)
        writer.close()
        return answer

    def note(self, streams, answer):
        head, _, rest = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(answer[:300])
        if streams:
            if b"data: [DONE]" not in rest:
                raise ValueError(f"cut: {rest[-300:]}")
            events = [line[6:] for line in rest.split(b"\n") if line.startswith(b"data: {")]
            usage = json.loads(events[-1])["usage"]
        else:
            usage = json.loads(rest[rest.index(b"{"):rest.rindex(b"}") + 1])["usage"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        self.cost += ((usage["prompt_tokens"] - cached) * INPUT + cached * CACHED + usage["completion_tokens"] * OUTPUT) / 10**6
        self.served += 1
        self.streams += streams

    async def load(self, over):
        """A call when it is due, whatever became of those before."""
        began, calls = time.monotonic(), set()
        for number in range(10**9):
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
            if over.is_set():
                break
            task = asyncio.create_task(self.call(number % 3 == 0))
            calls.add(task)
            task.add_done_callback(calls.discard)
        if calls:
            await asyncio.wait(calls)
        return number / (time.monotonic() - began)


async def restart_all(balancer):
    for gateway in balancer.gateways:
        await asyncio.sleep(SECS / 2 / len(balancer.gateways))
        gateway.process.send_signal(signal.SIGTERM)
        await gateway.end_of(gateway.process)
        gateway.start()
        await gateway.until_ready()


async def hand_over(balancer):
    """The first gateway gives its socket to its successor; the balancer sends everything there meanwhile."""
    first = balancer.gateways[0]
    # Two processes answer for their readiness there for a while, and one of them takes calls at any time.
    balancer.gateways, first.pinned = [first], True
    await asyncio.sleep(SECS / 6)
    old, socket_file = first.process, first.folder / "data/upgrade.sock"
    first.start("--upgrade")
    until = time.monotonic() + PATIENCE
    while not socket_file.exists() and time.monotonic() < until:
        await asyncio.sleep(0.02)
    old.send_signal(signal.SIGQUIT)
    await first.end_of(old)
    await first.until_ready()
    await asyncio.sleep(SECS / 6)


async def spend(balancer):
    """What the ledger says once it has all calls."""
    until = time.monotonic() + PATIENCE
    while True:
        told = (await asyncio.to_thread(get, balancer.gateways[0].control, "/api/spend"))["data"][0]
        if told["requests"] >= balancer.served or time.monotonic() > until:
            return told
        await asyncio.sleep(0.2)


async def main():
    upstream = free_ports(1)[0]
    with tempfile.TemporaryDirectory() as folder, postgres() as store:
        simulator = subprocess.Popen([WEIR, "simulate", "--listen", f"127.0.0.1:{upstream}"],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        gateways = [Gateway(folder, name, store, upstream) for name in ("a", "b", "c")]
        try:
            for gateway in gateways:
                gateway.start()
                await gateway.until_ready()
                gateway.ready = True
            balancer, results = Balancer(gateways), {}
            check = asyncio.create_task(balancer.check())
            for name, happens in (("three restarts", restart_all), ("socket handed over", hand_over)):
                over, before = asyncio.Event(), balancer.served
                load = asyncio.create_task(balancer.load(over))
                await happens(balancer)
                over.set()
                rate = await load
                results[name] = {"requests": balancer.served - before, "rate": round(rate), "failed or cut": len(balancer.failures)}
                print(f"{name}: {results[name]}", flush=True)
            told = await spend(balancer)
            check.cancel()
            results |= {"streams": balancer.streams, "most at the same time": balancer.most_running,
                        "calls answered": balancer.served, "rows": told["requests"],
                        "cost answered": str(balancer.cost.normalize()), "spend": told["cost_usd"]}
        finally:
            for process in [gateway.process for gateway in gateways] + [simulator]:
                if process and process.poll() is None:
                    process.kill()
                    process.wait()
    pathlib.Path(OUT).write_text(json.dumps(results, indent=1))
    print(json.dumps(results, indent=1))
    equal = told["requests"] == balancer.served and decimal.Decimal(told["cost_usd"]) == balancer.cost
    if balancer.failures or not equal:
        print(*balancer.failures[:10], sep="\n", file=sys.stderr)
        sys.exit("a call failed, a stream was cut, or the spend is not what was answered")


asyncio.run(main())
