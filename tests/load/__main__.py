"""Load test: latencies of many clients, and memory and open files of the service.

    python -m tests.load [--clients N] [--minutes N] [--workers N]

starts a service and workers with the fake engine, runs the clients with Locust, and prints the
measurements as Markdown. Exits with status 1 if a call failed, memory grew or a file stayed open.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.load.film import make_film
from tests.load.gauge import Gauge
from tests.system.processes import Process, open_files
from tests.system.system import System, open_system
from tests.system.waiting import wait_until

CLIENTS_PER_SECOND = 25
"""How many clients start in a second."""

WARM_UP_SHARE, PART_SHARE = 0.2, 0.1
"""Memory is compared between the tenth of the run after the first fifth, and the last tenth."""

MAX_GROWTH = 0.05
UNDER_WAY = ("queued", "running")
CANCEL_SECONDS = 120.0
LEAVE_SECONDS = 10.0
"""How long files may stay open after the last client: connections are kept alive for a while."""

Memory = tuple[float, float]
"""Bytes after the warm-up and at the end."""

Files = tuple[int, int]
"""Open files before the first client and after the last one."""


@dataclass(frozen=True)
class Load:
    """The measurements.

    Attributes:
        calls: purpose → `count`, `failures` and `milliseconds` by percentile.
        jobs: state → number of jobs that ended in it.
        connections: of all processes to Valkey. They are pooled: after many clients, more of them
            stay open, up to the API's `REDIS_CONNECTIONS`.
    """

    clients: int
    seconds: float
    calls: dict[str, dict[str, Any]]
    failures: list[str]
    jobs: dict[str, int]
    memory: dict[str, Memory]
    files: dict[str, Files]
    connections: Files

    @property
    def passed(self) -> bool:
        """Whether no call failed, every job succeeded, and nothing grew or stayed open."""
        grown = (end / start - 1 for start, end in self.memory.values())
        succeeded = set(self.jobs) == {"succeeded"}
        return not (self.failures or self.files_kept) and succeeded and max(grown) < MAX_GROWTH

    @property
    def files_kept(self) -> int:
        """How many more files are open than before, without connections to Valkey."""
        before, after = (sum(column) for column in zip(*self.files.values(), strict=True))
        return int((after - self.connections[1]) - (before - self.connections[0]))

    def __str__(self) -> str:
        """Return two tables and a summary as Markdown."""
        return "\n".join([*self._call_table(), "", *self._process_table(), "", *self._summary()])

    def _call_table(self) -> Iterator[str]:
        yield "| call | count | failed | p50 | p95 | p99 |"
        yield "|---|---|---|---|---|---|"
        for name, call in sorted(self.calls.items()):
            times = " | ".join(f"{ms:.0f} ms" for ms in call["milliseconds"].values())
            yield f"| {name} | {call['count']} | {call['failures']} | {times} |"

    def _process_table(self) -> Iterator[str]:
        yield "| process | memory after warm-up | at the end | grown by | files before | after |"
        yield "|---|---|---|---|---|---|"
        for name, (start, end) in self.memory.items():
            before, after = self.files[name]
            sizes = f"{start / 2**20:.1f} MiB | {end / 2**20:.1f} MiB | {end / start - 1:+.1%}"
            yield f"| {name} | {sizes} | {before} | {after} |"

    def _summary(self) -> Iterator[str]:
        ended = sum(self.jobs.values())
        states = ", ".join(f"{count} {state}" for state, count in self.jobs.items())
        rate = f"{ended / self.seconds:.2f} jobs/s"
        yield f"{self.clients} clients for {self.seconds:.0f} s: {states}; {rate}."
        before, after = self.connections
        yield f"Connections to Valkey: {before} before, {after} after."
        yield f"Files kept beside these: {self.files_kept}."
        yield from self.failures


def measure(*, clients: int, seconds: float, workers: int) -> Load:
    """Run `clients` clients for `seconds`; return the measurements."""
    with open_system() as system, TemporaryDirectory() as folder:
        parts = _start_parts(system, workers)
        gauge = Gauge(parts)
        files, connections = _open_files(parts), _connections(system)
        with gauge.watching():
            measured = _run_locust(system, Path(folder), clients, seconds)
        _cancel_all(system)
        time.sleep(LEAVE_SECONDS)
        left = _open_files(parts)
        return Load(
            clients=clients,
            memory={name: _memory(gauge, name) for name in parts},
            files={name: (files[name], left[name]) for name in parts},
            connections=(connections, _connections(system)),
            **measured,
        )


def _memory(gauge: Gauge, name: str) -> Memory:
    """Return the memory of a process after the warm-up and at the end of a run."""
    return (
        gauge.resident_bytes(name, WARM_UP_SHARE, WARM_UP_SHARE + PART_SHARE),
        gauge.resident_bytes(name, 1 - PART_SHARE, 1),
    )


def _start_parts(system: System, workers: int) -> dict[str, Process]:
    """Start an API and workers; return them by name once a worker is ready."""
    parts = {"API": system.api()}
    for number in range(1, workers + 1):
        parts[f"supervisor {number}"] = system.worker(model="fake")
    system.await_models("fake")
    return parts


def _run_locust(system: System, folder: Path, clients: int, seconds: float) -> dict[str, Any]:
    report = folder / "report.json"
    command = [sys.executable, "-m", "locust", "--headless", "--only-summary"]
    command += ["--locustfile", "tests/load/clients.py", "--host", str(system.client.base_url)]
    command += ["--users", str(clients), "--spawn-rate", str(CLIENTS_PER_SECOND)]
    command += ["--run-time", f"{seconds:.0f}s", "--exit-code-on-error", "0"]
    command += ["--film", str(make_film(folder / "film.mp4")), "--report", str(report)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not report.exists():
        raise RuntimeError(done.stderr)
    measured: dict[str, Any] = json.loads(report.read_text())
    return measured


def _cancel_all(system: System) -> None:
    """Cancel the jobs that have not ended, and wait until none is left."""

    def none_left() -> bool:
        pages = (system.client.get("/v1/jobs", params={"state": state}) for state in UNDER_WAY)
        left = [job["id"] for page in pages for job in page.json()["jobs"]]
        for job_id in left:
            system.client.post(f"/v1/jobs/{job_id}/cancel")
        return not left

    wait_until(none_left, CANCEL_SECONDS, "all jobs to be canceled")


def _open_files(parts: dict[str, Process]) -> dict[str, int]:
    return {name: len(open_files(process.pid)) for name, process in parts.items()}


def _connections(system: System) -> int:
    with system.redis as redis:
        return len(redis.client_list()) - 1


def main() -> int:
    """Measure and print; return 1 if the load test failed."""
    parser = argparse.ArgumentParser(
        prog="scripts/load", description="Load test with many clients."
    )
    parser.add_argument("--clients", type=int, default=500, help="Default: 500.")
    parser.add_argument("--minutes", type=float, default=5.0, help="Default: 5.")
    parser.add_argument("--workers", type=int, default=2, help="Default: 2.")
    options = parser.parse_args()
    load = measure(clients=options.clients, seconds=60 * options.minutes, workers=options.workers)
    print(load)
    return 0 if load.passed else 1


if __name__ == "__main__":
    sys.exit(main())
