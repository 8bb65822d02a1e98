"""Runs many workers' worth of announcements, beats and jobs against one Redis, and one API."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from rollout_core.demo.sample import SAMPLE_PATH
from rollout_core.jobs.folder_store import FolderStore
from service.inventory import Inventory
from service.maintenance import Reconciler
from tests.benchmarks.scaling.clients import Clients, Follow
from tests.benchmarks.scaling.gauges import Use, quantile, read_use
from tests.system.processes import Process
from tests.system.system import System, free_port, open_system
from tests.system.waiting import wait_until

WORKERS_PER_PROCESS = 50
START_SECONDS = 120.0
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Scenario:
    """What is simulated.

    Attributes:
        job_seconds: what a job takes of the worker's time.
        clients: that submit jobs; those beyond the number of workers wait in the queue.
        measured_seconds: after all workers have had a job.
    """

    workers: int
    job_seconds: float
    clients: int
    follow: Follow = "poll"
    measured_seconds: float = 30.0


@dataclass(frozen=True)
class Outcome:
    """What was measured, per second unless the name says otherwise.

    Attributes:
        redis_share, api_share: processor time of a core.
        commands: of Redis by name.
        command_seconds: time in which Redis executes the commands of a name, per second.
        milliseconds: median and 99th percentile of calls, by who calls what.
        refused: answers that clients did not expect, in all.
        reconcile_seconds: processor time of one pass with these jobs.
        scrape_seconds: of one scrape, in wall time.
    """

    scenario: Scenario
    jobs: float
    redis_share: float
    api_share: float
    crowd_share: float
    commands: Mapping[str, float]
    command_seconds: Mapping[str, float]
    milliseconds: Mapping[str, tuple[float, float]]
    refused: Mapping[str, int]
    connections: int
    redis_bytes: int
    keys: int
    reconcile_seconds: float
    scrape_seconds: float
    scrape_bytes: int
    load: float

    @property
    def all_commands(self) -> float:
        """Commands of Redis per second."""
        return sum(self.commands.values())

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as JSON can hold it."""
        return asdict(self)


def simulate(scenario: Scenario) -> Outcome:
    """Run a scenario, and return what was measured."""
    with open_system() as system:
        address = f"127.0.0.1:{free_port()}"
        api = system.api("--metrics-address", address, "--max-queued", str(10 * scenario.clients))
        with running_crowd(system, scenario.workers) as crowd:
            upload = _upload(system)
            clients = Clients(
                str(system.client.base_url),
                upload,
                job_seconds=scenario.job_seconds,
                follow=scenario.follow,
            )
            with clients.running(scenario.clients, start_seconds=scenario.job_seconds):
                time.sleep(2 * scenario.job_seconds)
                for process in crowd:
                    os.kill(process.pid, signal.SIGUSR1)
                clients.forget()
                pids = {"api": api.pid} | {process.name: process.pid for process in crowd}
                before = read_use(system.redis, pids)
                time.sleep(scenario.measured_seconds)
                use = read_use(system.redis, pids).since(before)
                ended, called = clients.ended, {k: list(v) for k, v in clients.seconds.items()}
                sizes = _sizes(system)
                reconcile, scraped = _reconcile_seconds(system), _scrape(address)
        return _outcome(scenario, system, use, ended, called, sizes, reconcile, scraped, clients)


def _outcome(
    scenario: Scenario,
    system: System,
    use: Use,
    ended: int,
    called: Mapping[str, list[float]],
    sizes: Mapping[str, int],
    reconcile: float,
    scraped: tuple[float, int],
    clients: Clients,
) -> Outcome:
    for path in sorted(system.data_dir.parent.glob("crowd-*.json")):
        for name, seconds in json.loads(path.read_text()).items():
            called = {**called, f"worker: {name}": [*called.get(f"worker: {name}", ()), *seconds]}
    seconds, cpu = use.seconds, use.cpu_seconds
    crowd = sum(spent for name, spent in cpu.items() if name != "api")
    return Outcome(
        scenario=scenario,
        jobs=ended / seconds,
        redis_share=use.redis_seconds / seconds,
        api_share=cpu["api"] / seconds,
        crowd_share=crowd / seconds,
        commands={name: count / seconds for name, count in sorted(use.commands.items())},
        command_seconds={
            name: spent / seconds for name, spent in use.command_seconds.items() if spent
        },
        milliseconds={
            name: (1e3 * quantile(values, 0.5), 1e3 * quantile(values, 0.99))
            for name, values in called.items()
        },
        refused=dict(clients.refused),
        connections=sizes["connected_clients"],
        redis_bytes=sizes["used_memory"],
        keys=sizes["keys"],
        reconcile_seconds=reconcile,
        scrape_seconds=scraped[0],
        scrape_bytes=scraped[1],
        load=os.getloadavg()[0],
    )


@contextmanager
def running_crowd(system: System, workers: int) -> Iterator[list[Process]]:
    """Run so many workers, `WORKERS_PER_PROCESS` in a process; yield once all are ready.

    At the end they write `crowd-<n>.json` beside the data directory.
    """
    folder = system.data_dir.parent
    counts = [
        min(WORKERS_PER_PROCESS, workers - first)
        for first in range(0, workers, WORKERS_PER_PROCESS)
    ]
    processes = []
    for number, count in enumerate(counts):
        report = folder / f"crowd-{number}.json"
        places = (system.redis_url, str(system.data_dir), str(report))
        command = [sys.executable, "-m", "tests.benchmarks.scaling.crowd", str(count), *places]
        log = folder / "log" / f"crowd-{number}"
        processes.append(Process(f"crowd-{number}", lambda c=command: c, log, kept=False))

    def all_ready() -> bool:
        models = system.client.get("/v1/models").json()["models"]
        return sum(model["ready"] for model in models) >= workers

    try:
        wait_until(all_ready, START_SECONDS, f"{workers} workers")
        yield processes
    finally:
        for process in processes:
            os.kill(process.pid, signal.SIGTERM)
        wait_until(lambda: not any(p.alive for p in processes), STOP_SECONDS, "the workers to end")


def _upload(system: System) -> str:
    video = {"video": ("sample.mp4", SAMPLE_PATH.read_bytes())}
    return str(system.client.post("/v1/uploads", files=video).json()["id"])


def _sizes(system: System) -> dict[str, int]:
    with system.redis as redis:
        return {**redis.info("clients"), **redis.info("memory"), "keys": redis.dbsize()}


def _reconcile_seconds(system: System) -> float:
    """Return the processor time of a pass over the store and Redis, after a first one."""
    with system.redis as redis:
        store = FolderStore(system.data_dir)
        reconciler = Reconciler(store, Inventory(store), redis)
        reconciler.reconcile()
        began = time.thread_time()
        reconciler.reconcile()
        return time.thread_time() - began


def _scrape(address: str) -> tuple[float, int]:
    """Return the seconds and the bytes of a scrape."""
    began = time.perf_counter()
    answer = httpx.get(f"http://{address}/metrics", timeout=60)
    return time.perf_counter() - began, len(answer.content)
