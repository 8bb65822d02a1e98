"""Measure a scrape of `/metrics` while 1,000 jobs wait.

    python -m tests.benchmarks.scrape [--jobs 1000] [--runs 50]

A service and one fake worker run as processes of their own; the worker is halted before the first
job. Prints how long a scrape takes, the processor time of the service for it and its size, without
a waiting job and with all of them.
"""

import argparse
import re
import statistics
import time

import httpx

from tests.system.system import System, free_port, open_system, upload
from tests.worker.clips import make_video

CPU = r"^process_cpu_seconds_total (\S+)$"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args()
    print("| jobs that wait | median | slowest | processor | bytes |\n|---|---|---|---|---|")
    with open_system() as system:
        address = f"127.0.0.1:{free_port()}"
        system.api("--metrics-address", address, "--max-queued", str(options.jobs))
        worker = system.worker(model="fake")
        system.await_models("fake")
        _measure(address, 0, options.runs)
        worker.halt()
        _submit(system, options.jobs)
        time.sleep(6)  # until the store was counted again
        _measure(address, options.jobs, options.runs)


def _submit(system: System, jobs: int) -> None:
    """Submit jobs of one stored video."""
    video = make_video(system.data_dir.parent / "video.mp4").read_bytes()
    first = system.client.post("/v1/jobs", files=upload(video, "fake")).json()
    asked = {"upload": first["upload"], "model": "fake", "reuse": False}
    for _ in range(jobs - 1):
        answer = system.client.post("/v1/jobs", json=asked)
        assert answer.status_code == 202, answer.text


def _measure(address: str, waiting: int, runs: int) -> None:
    seconds, used, size = [], [], 0
    with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
        for _ in range(runs):
            began = time.perf_counter()
            answer = client.get("/metrics")
            seconds.append(time.perf_counter() - began)
            size = len(answer.content)
            used += [float(cpu) for cpu in re.findall(CPU, answer.text, re.MULTILINE)]
            line = f'rollout_jobs{{model="fake",state="queued"}} {waiting}.0'
            assert line in answer.text, answer.text
    median, slowest = statistics.median(seconds), max(seconds)
    times = (median, slowest, (used[-1] - used[0]) / (runs - 1))
    print(
        "|",
        waiting,
        "|",
        " | ".join(f"{1000 * seconds_of:.1f} ms" for seconds_of in times),
        "|",
        size,
        "|",
    )


if __name__ == "__main__":
    main()
