"""What the service adds to a job that costs nothing, for each way to wait for its end."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from subprocess import DEVNULL, Popen
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
from rq import Queue
from rq.results import Result
from rq.serializers import JSONSerializer

from tests.benchmarks.suite.films import Size, make_film
from tests.benchmarks.suite.processes import await_rest, cpu_seconds
from tests.benchmarks.suite.section import Row, Scale, Section, Settings, Table
from tests.benchmarks.suite.service import WAIT_SECONDS, Served, serving, submit
from tests.benchmarks.suite.timing import Seconds
from tests.system.processes import ROOT
from tests.system.system import System

JOBS: dict[Scale, int] = {"full": 40, "quick": 6, "tiny": 1}

MODEL = "fake"
SIZE, SECONDS = Size(96, 80), 1
POLL_SECONDS = 0.05
QUEUE = "bare"
BARE = "bare RQ, a job that does nothing"

NO_WORK = "operator.truth"
"""A function that RQ can call by its name."""


def run(settings: Settings) -> Section:
    """Measure every way in turn, and RQ alone."""
    count = JOBS[settings.scale]
    with TemporaryDirectory() as name, serving([Served(MODEL)]) as system:
        film = make_film(Path(name) / "film.mp4", SIZE, SECONDS).read_bytes()
        with Popen(bare_worker(system.redis_url), cwd=ROOT, stdout=DEVNULL, stderr=DEVNULL) as rq:
            try:
                found = measure(ways(system, film), system, count)
            finally:
                rq.terminate()
    walls = {way: [each.wall for each in seconds] for way, seconds in found.items()}
    bare = percentile(walls[BARE], 50)
    rows: list[Row] = [
        {
            "way to wait": way,
            "jobs": len(seconds),
            "p50, ms": 1e3 * percentile(seconds, 50),
            "p95, ms": 1e3 * percentile(seconds, 95),
            "p50 / bare RQ": percentile(seconds, 50) / bare,
            "core ms of a job": None if way == BARE else core_ms(found[way]),
        }
        for way, seconds in walls.items()
    ]
    return Section(
        tables=[Table("From the call that submits a job until its result is known", rows)],
        figures={
            f"{row['way to wait']}: {figure}": row[figure]
            for row in rows
            for figure in ("p50, ms", "core ms of a job")
            if row[figure] is not None
        },
        notes=[
            f"Fake engine, no overlay, {SECONDS} s of {SIZE.width}×{SIZE.height}, one job at a "
            "time, after all processes have come to rest. Baseline: RQ's SimpleWorker on the same "
            f"Valkey. Polling: every {1e3 * POLL_SECONDS:g} ms. Core time: mean of API, Valkey "
            "and worker, until they rest again.",
        ],
    )


def measure(
    calls: dict[str, Callable[[], object]], system: System, count: int
) -> dict[str, list[Seconds]]:
    """Return the time of each call of each way, after one that does not count."""
    pids = [process.pid for process in system.processes]
    found: dict[str, list[Seconds]] = {way: [] for way in calls}
    await_rest(pids)
    for _ in range(count + 1):
        for way, call in calls.items():
            before, began = cpu_seconds(pids), time.monotonic()
            call()
            wall = time.monotonic() - began
            await_rest(pids)
            found[way].append(Seconds(wall, cpu_seconds(pids) - before))
    return {way: seconds[1:] for way, seconds in found.items()}


def ways(system: System, film: bytes) -> dict[str, Callable[[], object]]:
    """Return the ways to submit a job and to wait for its end."""
    client, request = system.client, {"overlay": None}

    def start() -> str:
        return f"/v1/jobs/{submit(system, film, MODEL, wait=0, **request)['id']}"

    def poll() -> None:
        url = start()
        while ended(client.get(url)) is None:
            time.sleep(POLL_SECONDS)

    def wait_in_query() -> None:
        url = start()
        while ended(client.get(f"{url}?wait={WAIT_SECONDS}", timeout=None)) is None:
            pass

    def prefer_wait() -> None:
        assert submit(system, film, MODEL, **request)["ended_at"]

    def follow_events() -> None:
        with client.stream("GET", f"{start()}/events", timeout=None) as events:
            check(events)
            for _ in events.iter_lines():
                pass

    return {
        "polling": poll,
        "`?wait=`": wait_in_query,
        "`Prefer: wait=`": prefer_wait,
        "`/events`": follow_events,
        BARE: bare_job(system),
    }


def ended(answer: httpx.Response) -> Any:
    """Return when a job ended, None if it has not."""
    return check(answer).json()["ended_at"]


def check(answer: httpx.Response) -> httpx.Response:
    """Return an answer that is no error."""
    return answer.raise_for_status()


def bare_worker(redis_url: str) -> list[str]:
    """Return the command line of an RQ worker."""
    flags = ["--worker-class", "rq.SimpleWorker", "--serializer", "rq.serializers.JSONSerializer"]
    return [sys.executable, "-m", "rq.cli", "worker", QUEUE, "--url", redis_url, *flags]


def bare_job(system: System) -> Callable[[], None]:
    """Return a call that runs a job without work, and waits for its result."""
    queue = Queue(QUEUE, connection=system.redis, serializer=JSONSerializer)

    def call() -> None:
        job = queue.enqueue(NO_WORK, True)
        assert Result.fetch_latest(job, JSONSerializer, WAIT_SECONDS) is not None

    return call


def core_ms(seconds: list[Seconds]) -> float:
    """Return the mean CPU time of a job, in ms."""
    return 1e3 * fmean(each.cpu for each in seconds)


def percentile(values: list[float], percent: int) -> float:
    """Return a percentile."""
    return float(np.percentile(values, percent))
