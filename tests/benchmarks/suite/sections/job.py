"""A whole job through HTTP, against the sum of its floors."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from rollout_core.contract import ExplainRequest
from rollout_core.model.checkpoints import open_model
from rollout_core.video.clips import Limits, open_clips
from tests.benchmarks.suite.films import SIZES, Size, make_film
from tests.benchmarks.suite.floors import decode_by_seeking, decode_until, reencode
from tests.benchmarks.suite.models import BASE, random_clips, write_checkpoint
from tests.benchmarks.suite.section import Row, Scale, Section, Settings, Table
from tests.benchmarks.suite.service import Done, Served, run_job, serving
from tests.benchmarks.suite.timing import Seconds, Spread, Timing, measured, timed
from tests.system.system import System

SMALL, LARGE = "moving-things", "timesformer-k400"

PARTS = "Where the time goes, in seconds: the job with the median wall"
"""Title of the table behind the plot."""


class Plan(NamedTuple):
    """The film, and the layers of the base model; no base model without layers."""

    size: Size
    seconds: float
    depth: int


PLANS: dict[Scale, Plan] = {
    "full": Plan(SIZES["720p"], 10, BASE.depth),
    "quick": Plan(SIZES["720p"], 3, depth=1),
    "tiny": Plan(Size(160, 96), 2, depth=0),
}


class Subject(NamedTuple):
    """A model, and one clip for its plain forward in each precision.

    Attributes:
        sampled: the moments of the clip, in seconds.
    """

    served: Served
    forwards: dict[str, Callable[[], Any]]
    sampled: list[float]


class Job(NamedTuple):
    """One kind of job, and all that were run of it."""

    subject: Subject
    has_overlay: bool
    done: list[Done]

    @property
    def name(self) -> str:
        """What the job is called in tables."""
        kind = "small" if self.subject.served.model != LARGE else "base"
        return f"{kind}, {'overlay' if self.has_overlay else 'no overlay'}"

    @property
    def request(self) -> dict[str, Any]:
        """What is asked for, besides the defaults."""
        return {"sampling": "uniform"} | ({} if self.has_overlay else {"overlay": None})


def run(settings: Settings) -> Section:
    """Run jobs and floors in turn."""
    plan = PLANS[settings.scale]
    with TemporaryDirectory() as name:
        folder = Path(name)
        film = make_film(folder / "film.mp4", plan.size, plan.seconds)
        models = list(served_models(folder, plan))
        with serving(models) as system:
            subjects = [prepare(one, film) for one in models]
            jobs = [Job(one, overlay, []) for one in subjects for overlay in (True, False)]
            timers = {job.name: partial(time_job, system, film, job) for job in jobs}
            timers |= floors(subjects, film, folder / "bare.mp4")
            found = measured(timers, settings.rounds, settings.warm_ups)
    return report(jobs, found, plan)


def served_models(folder: Path, plan: Plan) -> Iterator[Served]:
    """Yield the small model and the base model; in tests, one of the fake engine."""
    if not plan.depth:
        yield Served("fake")
        return
    yield Served(SMALL)
    yield Served(LARGE, str(write_checkpoint(folder / "base.pyth", plan.depth)))


def prepare(served: Served, film: Path) -> Subject:
    """Load the model in each precision, and plan the clip that a job samples."""
    name = SMALL if served.is_fake else served.model
    forwards = {}
    for precision in ("float32", "bfloat16"):
        loaded = open_model(name, served.checkpoint, dtype=getattr(torch, precision))
        clips = random_clips(loaded.model)
        forwards[precision] = torch.inference_mode()(partial(loaded.model, clips))
    opened = open_clips(film, ExplainRequest(sampling="uniform"), loaded.spec, Limits())
    return Subject(served, forwards, opened.plan.times_seconds.ravel().tolist())


def floors(subjects: list[Subject], film: Path, bare: Path) -> dict[str, Callable[[], Seconds]]:
    """Return what no job of these models can do without."""
    calls: dict[str, Callable[[], Any]] = {"re-encode": partial(reencode, film, bare)}
    for subject in subjects:
        model = subject.served.model
        calls[f"{model}: decode"] = partial(decode_until, film, subject.sampled)
        calls[f"{model}: seek"] = partial(decode_by_seeking, film, subject.sampled)
        for precision, forward in subject.forwards.items():
            calls[f"{model}: {precision}"] = forward
    return {name: partial(timed, call) for name, call in calls.items()}


def time_job(system: System, film: Path, job: Job) -> Seconds:
    """Run a job, keep its result, and return its time."""
    model = job.subject.served.model
    job.done.append(run_job(system, film.read_bytes(), model, **job.request))
    return job.done[-1].seconds


def report(jobs: list[Job], found: dict[str, Timing], plan: Plan) -> Section:
    """Return the ratios of jobs and floors, and where the time goes."""
    rows: list[Row] = []
    shares: dict[str, dict[str, float]] = {}
    figures: dict[str, str | float | Spread] = {}
    for job in jobs:
        timing, precision = found[job.name], job.done[-1].precision
        floor, shares[f"{job.name}: floors"] = floor_of(job, found, precision)
        shares[f"{job.name}: job"] = parts_of_median(job.done[-len(timing.wall) :])
        rows.append(
            {
                "job": job.name,
                "precision": precision,
                "wall, s": timing.seconds,
                "floors, s": floor.seconds,
                "job / floors": timing.over(floor),
                "core seconds": timing.cpu_seconds,
                "core seconds of job / floors": timing.cpu_over(floor),
            }
        )
        figures[f"{job.name}: job / floors"] = timing.over(floor)
        figures[f"{job.name}: core seconds of job / floors"] = timing.cpu_over(floor)
        figures[f"{job.name}: precision"] = precision
        figures[f"{job.name}: precision / fastest"] = precision_cost(job, found, precision)
    return Section(
        tables=[
            Table(f"{plan.seconds:g} s of {plan.size.height} lines, warm", rows),
            Table(PARTS, part_rows(shares)),
        ],
        figures=figures,
        notes=[
            "Baseline: the sum of the floors. They are: to decode what is sampled, from the start "
            "or by seeking, whichever is faster; the plain forward in the precision that the "
            "worker uses; and with an overlay a bare re-encode with libx264's veryfast preset.",
            "Wall: from the call that submits the video until its answer, which is the ended job. "
            "Core seconds: of all processes, until they rest again.",
            "Decode, explain and render are what the result says; the rest of the attempt is its "
            "total less these; outside is the wall less this total.",
            f"The base model has random parameters and {plan.depth} layers.",
        ],
    )


def floor_of(job: Job, found: dict[str, Timing], precision: str) -> tuple[Timing, dict[str, float]]:
    """Return the sum of a job's floors, and the median seconds of each."""
    model = job.subject.served.model
    decodes = found[f"{model}: decode"], found[f"{model}: seek"]
    parts = {
        "decode": min(decodes, key=lambda timing: timing.seconds.median),
        "forward": found[f"{model}: {precision}"],
    }
    if job.has_overlay:
        parts["re-encode"] = found["re-encode"]
    total, *others = parts.values()
    for other in others:
        total += other
    return total, {name: timing.seconds.median for name, timing in parts.items()}


def precision_cost(job: Job, found: dict[str, Timing], precision: str) -> float:
    """Return how long a forward in this precision takes, relative to the fastest precision."""
    model = job.subject.served.model
    seconds = {name: found[f"{model}: {name}"].seconds.median for name in job.subject.forwards}
    return seconds[precision] / min(seconds.values())


def parts_of_median(done: list[Done]) -> dict[str, float]:
    """Return the parts of the job with the median wall; together they are its wall."""
    median = sorted(done, key=lambda one: one.seconds.wall)[len(done) // 2]
    parts = dict(median.result["timings_seconds"])
    total = parts.pop("total")
    rest = total - sum(parts.values())
    return parts | {"rest of the attempt": rest, "outside": median.seconds.wall - total}


def part_rows(shares: dict[str, dict[str, float]]) -> list[Row]:
    """Return a row for each job and each sum of floors, with the same columns."""
    names = dict.fromkeys(name for parts in shares.values() for name in parts)
    return [
        {"job": job, **{name: parts.get(name) for name in names}, "sum": sum(parts.values())}
        for job, parts in shares.items()
    ]
