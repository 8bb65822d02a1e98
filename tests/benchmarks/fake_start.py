"""Measures the fake service of the pytest plugin: time to start and stop, processes and memory.

    python -m tests.benchmarks.fake_start [STARTS]

Times are from the call of the fixture until `fake` is ready, and until all scripted models are.
Memory is the proportional set size of all its processes, before the first job.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rollout_core.testing.fake_service import running_fake
from rollout_core.testing.http import Api

STARTS = 5
MODELS = 5
KIB_PER_MIB = 1024


def main() -> None:
    """Start the fake service several times; print a table and the medians."""
    starts = int(sys.argv[1]) if len(sys.argv) > 1 else STARTS
    rows = [measure() for _ in range(starts)]
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    print("| start | fake is ready, s | all models, s | stop, s | processes | memory, MiB |")
    print("|---|---|---|---|---|---|")
    for name, row in [*enumerate(rows, start=1), ("median", map(median, zip(*rows, strict=True)))]:
        ready, every, stop, processes, memory = row
        print(f"| {name} | {ready:.2f} | {every:.2f} | {stop:.2f} | {processes:g} | {memory:.0f} |")


def measure() -> tuple[float, float, float, int, float]:
    """Return the seconds of one start and stop, the number of processes, and their memory."""
    with tempfile.TemporaryDirectory(prefix="fake-") as folder:
        began = time.monotonic()
        with running_fake(Path(folder)) as service:
            ready = time.monotonic() - began
            while not is_complete(service.api):
                time.sleep(0.02)
            every = time.monotonic() - began
            time.sleep(1)
            pids = [pid for child in children_of(os.getpid()) for pid in tree(child)]
            memory = sum(map(memory_mib, pids))
            stops = time.monotonic()
        return ready, every, time.monotonic() - stops, len(pids), memory


def is_complete(api: Api) -> bool:
    """Return whether all scripted models are ready."""
    return sum(map(bool, api.get("/readyz").json()["workers"].values())) == MODELS


def children_of(pid: int) -> list[int]:
    """Return the children of a process."""
    paths = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in paths for child in path.read_text().split()]


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    return [pid, *(found for child in children_of(pid) for found in tree(child))]


def memory_mib(pid: int) -> float:
    """Return the proportional set size of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / KIB_PER_MIB
    return 0.0


if __name__ == "__main__":
    main()
