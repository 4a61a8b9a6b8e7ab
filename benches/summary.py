"""Reads the runs that `compare` kept and prints the median of each figure with its ratio to nginx."""
import json
import pathlib
import statistics
import sys


def at(run, *path):
    """The figure at this path, None where a run has none."""
    for key in path:
        run = run.get(key) if isinstance(run, dict) else None
    return run


# workload prefix -> (what, where in a run, factor, whether the direct way to the upstream is taken off)
FIGURES = {
    "small": [("requests/s", ("rps",), 1, False), ("CPU us/request", ("cpu_ms_per_req",), 1000, False)],
    "large": [("requests/s", ("rps",), 1, False), ("CPU us/request", ("cpu_ms_per_req",), 1000, False)],
    "conv": [("requests/s", ("rps",), 1, False), ("CPU us/request", ("cpu_ms_per_req",), 1000, False)],
    "embed": [("requests/s", ("rps",), 1, False), ("CPU us/request", ("cpu_ms_per_req",), 1000, False)],
    "rate": [
        ("added p50 us", ("lat_us", "p50"), 1, True),
        ("added p99 us", ("lat_us", "p99"), 1, True),
        ("CPU us/request", ("cpu_ms_per_req",), 1000, False),
    ],
    "burst": [("chunks/s", ("chunks_per_s",), 1, False), ("CPU us/chunk", ("cpu_us_per_chunk",), 1, False)],
    "paced": [
        ("added first-chunk p50 us", ("ttft_us", "p50"), 1, True),
        ("added chunk p50 us", ("chunk_us", "p50"), 1, True),
        ("added chunk p99 us", ("chunk_us", "p99"), 1, True),
        ("CPU us/chunk", ("cpu_us_per_chunk",), 1, False),
    ],
}


def values(runs, gateway, workload, path, factor, added):
    floor = 0
    if added:
        direct = [at(run, *path) for run in runs.get(f"direct/{workload}", [])]
        floor = statistics.median([value for value in direct if value is not None] or [0])
    found = [at(run, *path) for run in runs.get(f"{gateway}/{workload}", [])]
    return [None if value is None else (value - floor) * factor for value in found]


def median(found):
    found = [value for value in found if value is not None]
    return statistics.median(found) if found else None


def ratio(ours, theirs):
    """None where noise has made one of them vanish: a wait below zero has no ratio."""
    return round(ours / theirs, 2) if ours > 0 and theirs > 0 else None


def rows_of(gateway, runs):
    """One row per figure: the medians here and at nginx in the same rounds."""
    workloads = dict.fromkeys(key.split("/", 1)[1] for key in runs if key.startswith(f"{gateway}/"))
    for workload in workloads:
        kind = next((kind for kind in FIGURES if workload.startswith(kind)), None)
        own = runs[f"{gateway}/{workload}"]
        failed = sum(sum(run.get(key, 0) for key in ("err", "streams_short", "streams_undone")) for run in own)
        others = max(run.get("noise_gw") or 0 for run in own + runs.get(f"nginx/{workload}", []))
        for what, path, factor, added in FIGURES.get(kind, []):
            ours = median(values(runs, gateway, workload, path, factor, added))
            theirs = median(values(runs, "nginx", workload, path, factor, added))
            if ours is not None and theirs is not None:
                yield {
                    "gateway": gateway, "workload": workload, "figure": what,
                    "value": round(ours, 2), "nginx": round(theirs, 2), "ratio": ratio(ours, theirs),
                    "failed": failed, "others": others,
                }


def shown(key, value):
    if value is None:
        return "-"
    if key == "others":
        return f"{value:.0%}"
    if isinstance(value, str) or key in ("ratio", "failed"):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def main():
    folder = pathlib.Path(sys.argv[1])
    rows = []
    for file in sorted(folder.glob("*.json")):
        if file.name != "summary.json":
            rows += rows_of(file.stem, json.loads(file.read_text()))
    if not rows:
        sys.exit("compare: no gateway gave a figure; see what it said above")
    (folder / "summary.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("| " + " | ".join(rows[0]) + " |\n|---|---|---" + "|---:" * 5 + "|")
    for row in rows:
        print("| " + " | ".join(shown(key, value) for key, value in row.items()) + " |")
    print("\nothers: the most that other processes took of the gateway's core in any of these runs;")
    print("figures with more than a few percent of it are not worth keeping.")


main()
