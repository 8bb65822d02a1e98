"""Jobs a minute with several workers, and how busy their engines are."""

from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import NamedTuple

from tests.benchmarks.suite.films import SIZES, Size, make_film
from tests.benchmarks.suite.section import Row, Scale, Section, Settings, Table
from tests.benchmarks.suite.service import (
    Served,
    ready_workers,
    run_job,
    serving,
    start_worker,
    submit,
)
from tests.system.system import System
from tests.system.waiting import wait_until

START_SECONDS, JOBS_SECONDS = 120, 600


class Plan(NamedTuple):
    """How many workers serve the model, one count after another, and how many jobs each has.

    Attributes:
        workers: counts, increasing.
        jobs: for each worker.
    """

    workers: tuple[int, ...]
    jobs: int
    model: str
    size: Size
    seconds: float


PLANS: dict[Scale, Plan] = {
    "full": Plan((1, 2, 4), 12, "moving-things", SIZES["360p"], 5),
    "quick": Plan((1, 2), 4, "moving-things", SIZES["360p"], 2),
    "tiny": Plan((1, 2), 1, "fake", Size(160, 96), 1),
}


def run(settings: Settings) -> Section:
    """Measure each number of workers."""
    plan = PLANS[settings.scale]
    rows: list[Row] = []
    with TemporaryDirectory() as name, serving([]) as system:
        film = make_film(Path(name) / "film.mp4", plan.size, plan.seconds).read_bytes()
        for workers in plan.workers:
            grow(system, plan.model, workers)
            run_job(system, film, plan.model)  # fills caches, and waits until all processes rest
            rows.append(measure(system, film, plan, workers))
    first = rows[0]["jobs a minute"]
    return Section(
        tables=[
            Table(
                f"Jobs of {plan.seconds:g} s of {plan.size.height} lines with an overlay",
                [row | {"× one worker": row["jobs a minute"] / first} for row in rows],
            )
        ],
        figures={f"{row['workers']} workers: jobs a minute": row["jobs a minute"] for row in rows},
        notes=[
            f"Model `{plan.model}`. All jobs are submitted at once, {plan.jobs} for each worker. "
            "An engine is busy while it explains; all workers share the cores of the machine.",
        ],
    )


def grow(system: System, model: str, workers: int) -> None:
    """Start workers until so many serve the model, and wait until all are ready."""
    while len(system.processes) < workers + len(("valkey", "api")):
        start_worker(system, Served(model))
    wait_until(lambda: ready_workers(system).get(model, 0) >= workers, START_SECONDS)


def measure(system: System, film: bytes, plan: Plan, workers: int) -> Row:
    """Submit all jobs, and wait for the last one."""
    began = monotonic()
    ids = [submit(system, film, plan.model, wait=0)["id"] for _ in range(plan.jobs * workers)]
    ended = [system.wait(job_id, seconds=JOBS_SECONDS) for job_id in ids]
    wall = monotonic() - began
    explain = sum(job["result"]["timings_seconds"]["explain"] for job in ended)
    return {
        "workers": workers,
        "jobs": len(ended),
        "jobs a minute": 60 * len(ended) / wall,
        "engine busy": explain / (wall * workers),
    }
