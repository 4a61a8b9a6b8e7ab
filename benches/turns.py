"""Measures gateways in turn: turns.py BENCH_FOLDER GATEWAY_FILE=BINARY… NGINX_FILE=.

`benches/turns` sets it up. The gateways share a core, and only the one whose turn it is has something to do.
"""
import os
import statistics
import sys

sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True  # the bench folder may be read-only
import bench  # noqa: E402

ROUNDS = int(os.environ.get("ROUNDS", "20"))
WORKLOAD = os.environ.get("WORKLOAD", "small_c32")
SECONDS = 1


def started(number, argument):
    """The gateway of a file and a binary, with a folder and ports of its own."""
    file, binary = argument.rsplit("=", 1)
    os.environ["WEIR_BIN"] = binary
    gateway = bench.Gateway(file, 18101 + number)
    gateway.name = f"{gateway.name} {os.path.basename(binary)}".strip()
    gateway.work = gateway.vars["work"] = f"{gateway.work}-{number}"
    os.makedirs(gateway.work, exist_ok=True)
    gateway.start()
    return gateway


def turn(gateway, mock, seconds=SECONDS):
    """Microseconds of CPU a request."""
    return bench.measure(gateway, WORKLOAD, seconds, mock)["cpu_ms_per_req"] * 1000


with bench.Mock() as mock:
    gateways = []
    try:
        for number, argument in enumerate(sys.argv[2:]):
            gateways.append(started(number, argument))
        for gateway in gateways:
            turn(gateway, mock, 2)
        rounds = [[turn(gateway, mock) for gateway in gateways] for _ in range(ROUNDS)]
    finally:
        for gateway in gateways:
            gateway.stop()

print(f"{WORKLOAD}, {ROUNDS} turns of {SECONDS} s each: CPU us a request (least, median), and its ratio to nginx (median of the rounds)")
for at, gateway in enumerate(gateways):
    taken = [one[at] for one in rounds]
    ratio = statistics.median(one[at] / one[-1] for one in rounds)
    print(f"{gateway.name:32} {min(taken):7.1f} {statistics.median(taken):7.1f} {ratio:6.2f}")
