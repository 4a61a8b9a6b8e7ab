"""Measures one gateway's cold start and resident memory: memory.py BENCH_FOLDER GATEWAY_FILE OUT_FILE.

`benches/memory` sets it up. The gateway has a core of its own; upstream and load share another.
"""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True  # the bench folder may be read-only
import bench  # noqa: E402

REQUESTS = int(os.environ.get("REQUESTS", "100000"))
STREAMS = int(os.environ.get("STREAMS", "5000"))
MINUTES = float(os.environ.get("MINUTES", "10"))
STARTS = 5
STREAM_SECONDS = 20
RATE = int(os.environ.get("RATE", "0"))
EVERY = 15  # seconds between two looks in the soak


def gateway_of(file):
    """The gateway, allowed as many connections and calls at once as the streams need."""
    gateway = bench.Gateway(file, 18101)
    files = gateway.d.get("files", {})
    if "policies/upstreams.yaml" in files:
        files["policies/upstreams.yaml"] += "    max_in_flight: 20000\n"
    if "nginx.conf" in files:
        files["nginx.conf"] = files["nginx.conf"].replace("worker_connections 4096", "worker_connections 19000")
    return gateway


def load(gateway, mode, body, *options):
    """Starts gwload on the load core."""
    command = [os.path.join(bench.BIN, "gwload"), mode, "--url", gateway.url(), "--body", body, *map(str, options)]
    for header in gateway.headers:
        command += ["--header", header]
    return subprocess.Popen(bench.pin(bench.CPU_LOAD) + command, stdout=subprocess.PIPE, text=True)


def result(process):
    out, _ = process.communicate()
    if process.returncode:
        sys.exit(f"memory: the load generator failed: {out}")
    return json.loads(out)


def rss(gateway):
    pids = gateway.pids()
    if not any(os.path.exists(f"/proc/{pid}") for pid in pids):
        sys.exit(f"memory: {gateway.name} is gone; see {gateway.work}/log")
    return bench.rss_mb(pids)


def open_files(gateway):
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in gateway.pids())


def cold_starts(gateway):
    """Milliseconds from the start of the process to the first answer."""
    taken = []
    for _ in range(STARTS):
        taken.append(round(gateway.start() * 1000, 1))
        gateway.stop()
    return taken


def many_requests(gateway):
    body = bench.body(os.path.join(gateway.work, "small.json"), "small", gateway.model)
    done = result(load(gateway, "closed", body, "--conns", 32, "--secs", 3600, "--limit", REQUESTS))
    at_once = rss(gateway)
    time.sleep(5)
    return {
        "requests": done["ok"], "failed": done["err"], "statuses": done["statuses"],
        "per_second": round(done["rps"]), "rss_mb": at_once, "rss_5s_later_mb": rss(gateway),
    }


def open_streams(gateway):
    """RSS in the middle of streams that give one chunk a second."""
    knobs = {"chunks": STREAM_SECONDS, "delay_us": 1_000_000}
    body = bench.body(os.path.join(gateway.work, "streams.json"), "small", gateway.model, **knobs)
    before, files = rss(gateway), open_files(gateway)
    streams = load(gateway, "stream", body, "--conns", STREAMS, "--secs", 5, "--expect", STREAM_SECONDS)
    time.sleep(STREAM_SECONDS / 2)
    during, more_files = rss(gateway), open_files(gateway) - files
    done = result(streams)
    time.sleep(5)
    return {
        "streams": done["ok"], "failed": STREAMS - done["ok"] + done["streams_undone"], "statuses": done["statuses"],
        "short": done["streams_short"],
        "more_open_files": more_files, "rss_before_mb": before, "rss_mb": during, "rss_5s_later_mb": rss(gateway),
        "kb_per_stream": round((during - before) * 1024 / max(1, STREAMS), 1),
    }


def slope(points):
    """Least squares over (seconds, MB), in MB an hour; None for fewer than three points."""
    if len(points) < 3:
        return None
    return round(statistics.linear_regression(*zip(*points)).slope * 3600, 2)


def soak(gateway, per_second):
    """Half of what the gateway did in `many_requests`, or RATE, for MINUTES."""
    body = os.path.join(gateway.work, "small.json")
    rate, seconds = RATE or max(1, per_second // 2), MINUTES * 60
    print(f"soak: {rate} requests/s for {MINUTES:g} minutes", flush=True)
    running = load(gateway, "rate", body, "--conns", 64, "--rate", rate, "--secs", seconds)
    began, points = time.monotonic(), []
    cpu, busy = bench.cpu_of(gateway.pids()), bench.core_busy()[bench.CPU_GW][0]
    while running.poll() is None and time.monotonic() - began < seconds:
        points.append((round(time.monotonic() - began, 1), rss(gateway)))
        print(f"  {points[-1][0]:7.1f} s  {points[-1][1]:7.1f} MB", flush=True)
        time.sleep(min(EVERY, max(0.1, began + seconds - time.monotonic())))
    wall = time.monotonic() - began
    own = (bench.cpu_of(gateway.pids()) - cpu) / wall
    all_of_it = (bench.core_busy()[bench.CPU_GW][0] - busy) / wall
    done = result(running)
    points.append((round(time.monotonic() - began, 1), rss(gateway)))
    return {
        "requests_per_second": rate, "minutes": MINUTES, "requests": done["ok"], "failed": done["err"],
        "statuses": done["statuses"], "p50_us": done["lat_us"]["p50"], "p99_us": done["lat_us"]["p99"],
        "core_share": round(own, 2), "others_share": round(max(0, all_of_it - own), 2),
        "rss_mb": [mb for _, mb in points], "slope_mb_per_hour": slope(points),
        "slope_second_half_mb_per_hour": slope(points[len(points) // 2:]),
    }


def main():
    gateway, out = gateway_of(sys.argv[2]), pathlib.Path(sys.argv[3])
    figures = {"gateway": gateway.name}

    def keep(name, value):
        if mock.proc.poll() is not None:
            sys.exit(f"memory: the upstream (gwmock) ended during {name}: nothing of it counts")
        figures[name] = value
        out.write_text(json.dumps(figures, indent=1) + "\n")
        print(f"{name}: {json.dumps(value)}", flush=True)

    with bench.Mock() as mock:
        try:
            keep("cold_start_ms", cold_starts(gateway))
            gateway.start()
            time.sleep(5)
            keep("idle_rss_mb", rss(gateway))
            keep("after_requests", many_requests(gateway))
            if MINUTES:  # before the streams, whose memory would hide a slow leak
                keep("soak", soak(gateway, figures["after_requests"]["per_second"]))
            if STREAMS:
                keep("open_streams", open_streams(gateway))
        finally:
            gateway.stop()
    broken = [name for name, part in figures.items() if isinstance(part, dict) and part["failed"]]
    if broken:
        sys.exit(f"memory: {gateway.name} failed requests in: {', '.join(broken)}")


main()
