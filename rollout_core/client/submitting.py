"""`rollout-client submit`: many videos at once, each from its file to the files of its result."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio

from rollout_core.client.calls import is_url
from rollout_core.client.clients import AsyncRolloutClient
from rollout_core.client.display import Display, printable
from rollout_core.client.errors import ClientError, RolloutApiError
from rollout_core.contract import JobOptions
from rollout_core.errors import describe_failure
from rollout_core.jobs.schemas import Job

SUFFIXES = (".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mts", ".ts", ".webm")
"""Names of the files that are taken from a folder."""


@dataclass
class Task:
    """One video of a command line, and what became of it.

    Attributes:
        source: a path or a URL.
        folder: for the files of the result.
        failure: why there is no result.
    """

    source: str
    folder: Path
    job: Job | None = None
    files: tuple[Path, ...] = ()
    failure: Exception | None = None
    has_ended: bool = False

    @property
    def has_failed(self) -> bool:
        """Whether there is an error to report."""
        return self.failure is not None or (self.job is not None and self.job.error is not None)

    @property
    def reason(self) -> str:
        """Why it failed, in one line."""
        if self.failure is not None:
            return explain_failure(self.failure)
        if self.job is not None and self.job.error is not None:
            return describe_failure(self.job.error.title, self.job.error.detail)
        return ""


@dataclass(frozen=True)
class Plan:
    """How the videos of one command line are handled.

    Attributes:
        names: of the artifacts to fetch; None: all.
        parallel: videos that are under way at a time.
    """

    options: JobOptions
    waits: bool = True
    downloads: bool = True
    names: tuple[str, ...] | None = None
    parallel: int = 4


@dataclass
class Batch:
    """Runs the tasks of one command line."""

    client: AsyncRolloutClient
    plan: Plan
    display: Display
    tasks: list[Task] = field(default_factory=list)

    async def run(self) -> None:
        """Carry out all tasks. The failure of one is noted, and the others go on."""
        limit = anyio.Semaphore(self.plan.parallel)
        async with anyio.create_task_group() as group:
            for task in self.tasks:
                await limit.acquire()
                group.start_soon(self._run, task, limit)

    async def _run(self, task: Task, limit: anyio.Semaphore) -> None:
        try:
            await self._carry_out(task)
        except (ClientError, OSError, ValueError) as failure:
            task.failure = failure
        finally:
            limit.release()
        task.has_ended = True
        self.display.end(task.source)
        self.report(task)

    async def _carry_out(self, task: Task) -> None:
        show, name = self.display.show, task.source
        show(name, "submitting" if is_url(name) else "uploading")
        task.job = await self.client.submit(
            name,
            self.plan.options,
            on_bytes=lambda done, total: show(name, "uploading", done, total),
        )
        if self.plan.waits:
            task.job, task.files = await follow(
                self.client, task.job, name, task.folder, self.plan, self.display
            )

    def report(self, task: Task) -> None:
        """Print what became of a task, in one line."""
        self.display.print(describe_task(task))


async def follow(
    client: AsyncRolloutClient, job: Job, name: str, folder: Path, plan: Plan, display: Display
) -> tuple[Job, tuple[Path, ...]]:
    """Show what happens to a job; return it when it has ended, with the files that were fetched."""
    show_job(display, name, job)
    if job.ended_at is None:
        async for event in client.events(job):
            job = event.job or job
            if event.progress is not None:
                progress = event.progress
                display.show(name, progress.stage, progress.done, progress.total)
            else:
                show_job(display, name, job)
    if job.state != "succeeded" or not plan.downloads:
        return job, ()
    files = await client.download(
        job,
        folder,
        plan.names,
        lambda done, total: display.show(name, "downloading", done, total),
    )
    return job, files


def show_job(display: Display, name: str, job: Job) -> None:
    """Show the state of a job; of one that waits, what it waits for."""
    waiting = {"worker": ", no worker serves the model", "store": ", the store is full"}
    place = f", {job.queue_position} in the queue" if job.queue_position else ""
    state = f"{job.state}{waiting.get(job.waiting_for or '', place)}"
    display.show(name, state if name == job.id else f"job {job.id} {state}")


def describe_task(task: Task) -> str:
    """Return one line for people: the video, how it ended, and what came out."""
    job, name = task.job, printable(task.source)
    if job is None or (task.failure is not None and not job.error):
        place = f" (job {job.id})" if job else ""
        return f"{name}: failed: {printable(task.reason)}{place}"
    if job.result is None:
        reason = f": {printable(task.reason)}" if task.reason else ""
        return f"{name}: {job.state}{reason} (job {job.id})"
    best = ", ".join(f"{p.label} {p.probability:.1%}" for p in job.result.predictions[:1])
    place = f" → {printable(str(task.folder))}" if task.files else f" (job {job.id})"
    again = " (an earlier answer)" if job.reused_from else ""
    return f"{name}: {printable(best)}{again}{place}"


def task_json(task: Task) -> dict[str, Any]:
    """Return what became of a task, for programs."""
    return {
        "source": task.source,
        "job": task.job.model_dump(mode="json") if task.job else None,
        "files": [str(path) for path in task.files],
        "error": error_json(task.failure) if task.failure else None,
    }


def error_json(failure: Exception) -> dict[str, Any]:
    """Return a failure for programs; `code` and `status` are null if no service gave them."""
    if isinstance(failure, RolloutApiError):
        names = ("code", "status", "title", "detail")
        return {name: getattr(failure, name) for name in names}
    return {"code": None, "status": None, "title": "", "detail": explain_failure(failure)}


def explain_failure(failure: Exception) -> str:
    """Return a failure in one line."""
    if isinstance(failure, OSError) and failure.strerror:
        return f"{failure.filename}: {failure.strerror}" if failure.filename else failure.strerror
    return str(failure)


def make_tasks(sources: Iterable[str], output: Path) -> list[Task]:
    """Return a task for each video; each gets a folder of its own below `output`.

    A video in a subfolder of a given folder has its results in a subfolder too. A video that is
    named twice has one task.

    Raises:
        FileNotFoundError: there is no such file, or no video in a folder.
    """
    tasks: list[Task] = []
    taken: set[Path] = set()
    seen: set[str | Path] = set()
    for source in sources:
        for video in _videos(source):
            identity = video if is_url(video) else Path(video).resolve()
            if identity in seen:
                continue
            seen.add(identity)
            parent = _parent(video, source)
            folder, number = parent / (stem := _stem(video)), 1
            while folder in taken:
                number += 1
                folder = parent / f"{stem}-{number}"
            taken.add(folder)
            tasks.append(Task(video, output / folder))
    return tasks


def _parent(video: str, source: str) -> Path:
    """Return the folder of a video within the folder that was given."""
    if is_url(video) or video == source:
        return Path()
    return Path(video).parent.relative_to(source)


def _stem(video: str) -> str:
    """Return the name of a video without its ending, to name a folder."""
    stem = Path(urlsplit(video).path if is_url(video) else video).stem
    return stem if stem.strip(".") else "video"


def _videos(source: str) -> Iterator[str]:
    path = Path(source)
    if is_url(source) or path.is_file():
        yield source
        return
    if not path.exists():
        raise FileNotFoundError(2, "No such file or folder", source)
    if not path.is_dir():
        yield source
        return
    found = sorted(
        child for child in path.rglob("*") if child.suffix.lower() in SUFFIXES and child.is_file()
    )
    if not found:
        raise FileNotFoundError(2, "No video in this folder", source)
    yield from map(str, found)
