"""Puts gateways under load, one after another: profile.py BENCH_FOLDER SECONDS GATEWAY_FILE…

`benches/profile` sets it up. What is measured is of no interest; that nothing fails is.
"""
import sys

sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True  # the bench folder may be read-only
import bench  # noqa: E402

WORKLOADS = ["small_c32", "large_c32", "conv_c32", "embed_c32", "rate500", "burst50", "paced50"]

seconds = float(sys.argv[2])
with bench.Mock() as mock:
    for number, file in enumerate(sys.argv[3:]):
        gateway = bench.Gateway(file, 18301 + number)
        gateway.start()
        try:
            for workload in WORKLOADS:
                run = bench.measure(gateway, workload, seconds, mock)
                print(f"{gateway.name:12} {workload:10} {run.get('ok', 0):8} answered", flush=True)
                if run.get("failed") or run.get("err"):
                    sys.exit(f"{gateway.name}, {workload}: {run}")
        finally:
            gateway.stop()
