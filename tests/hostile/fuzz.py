"""Sends damaged videos through the media process and counts how they end."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import cast

from rollout_core.contract import ExplainRequest, Overlay
from rollout_core.jobs.records import Progress
from tests.hostile.codes import VIDEO_CODES
from tests.hostile.mutants import mutate
from tests.hostile.seeds import make_seeds
from worker.attempt import Attempt, AttemptInput
from worker.child import ChildFailure, ChildLost
from worker.children import Children
from worker.heartbeat import Heartbeat
from worker.messages import EngineOptions, MediaOptions
from worker.redis_jobs import RetryingRecords

DEADLINE_SECONDS = 30.0


@dataclass
class Counts:
    """How mutants ended.

    Attributes:
        failures: code → number of mutants; a death of media counts as `worker_crashed`.
        deaths: how media died → number of times.
        mistakes: what must not happen, a line each.
        kept: name → mutant that killed media or caused a mistake.
    """

    mutants: int = 0
    succeeded: int = 0
    worker_deaths: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    mistakes: list[str] = field(default_factory=list)
    kept: dict[str, bytes] = field(default_factory=dict)
    slowest_seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"mutants={self.mutants} failed={self.failures.total()} succeeded={self.succeeded} "
            f"media_deaths={self.deaths.total()} worker_deaths={self.worker_deaths} "
            f"wrong_codes={len(self.mistakes)}"
        )


class FakeRecords:
    """Stands in for the job records: no client cancels the job."""

    def beat(self, job_id: str, attempt: int, progress: Progress, token: str | None = None) -> bool:
        return False


class Fuzzer:
    """Makes mutants of the seeds and tries them one after another."""

    def __init__(self, folder: Path, children: Children, seed: int) -> None:
        (folder / "seeds").mkdir()
        self._folder = folder
        self._children = children
        self._random = Random(seed)
        self._seeds = make_seeds(folder / "seeds")
        self.counts = Counts()

    def try_one(self) -> None:
        """Make the next mutant, try it and count its end."""
        name = self._random.choice(sorted(self._seeds))
        mutant = mutate(self._random, self._seeds[name], [*self._seeds.values()])
        overlay = self._random.choice((None, Overlay()))
        preview = self._random.choice((False, True))
        self.counts.mutants += 1
        began = time.monotonic()
        deaths = self.counts.deaths.total()
        mistake = self._mistake(
            mutant, ExplainRequest(model="fake", overlay=overlay, preview=preview)
        )
        seconds = time.monotonic() - began
        self.counts.slowest_seconds = max(self.counts.slowest_seconds, seconds)
        if mistake is not None:
            self.counts.mistakes.append(f"{self.counts.mutants}-{name}: {mistake}")
        if mistake is not None or self.counts.deaths.total() > deaths:
            self.counts.kept[f"{self.counts.mutants}-{name}"] = mutant

    def _mistake(self, mutant: bytes, request: ExplainRequest) -> str | None:
        """Try a mutant; return what was wrong with its end, or None."""
        try:
            self._attempt(mutant, request).run()
        except ChildFailure as failure:
            self.counts.failures[failure.error.code] += 1
            if failure.error.code not in VIDEO_CODES:
                return f"{failure.error.code}: {failure}"
            if "/" in failure.error.detail or "Traceback" in failure.error.detail:
                return f"the detail has a path or a traceback: {failure}"
        except ChildLost as lost:
            return self._count_death(str(lost))
        except Exception as error:
            self.counts.worker_deaths += 1
            return f"the supervisor: {error!r}"
        else:
            self.counts.succeeded += 1
        return None

    def _count_death(self, lost: str) -> str | None:
        """Count a child's death; a video may kill media, but not the engine."""
        if not lost.startswith("the media process"):
            self.counts.worker_deaths += 1
            self._children.restart_dead()
            return lost
        self.counts.failures["worker_crashed"] += 1
        self.counts.deaths[lost.removeprefix("the media process ")] += 1
        return None

    def _attempt(self, mutant: bytes, request: ExplainRequest) -> Attempt:
        upload = self._folder / "job" / "upload" / "video"
        folder = self._folder / "job" / "attempts" / "1"
        for path in (upload.parent, folder):
            path.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        upload.write_bytes(mutant)
        job = AttemptInput(
            id="f" * 32,
            attempt=1,
            request=request,
            upload=upload,
            folder=folder,
            started_at=datetime.now(UTC),
            deadline_seconds=DEADLINE_SECONDS,
            engine_timeout_seconds=10.0,
            media_timeout_seconds=10.0,
        )
        records = cast(RetryingRecords, FakeRecords())
        heartbeat = Heartbeat(job.id, 1, DEADLINE_SECONDS, self._children, records, lambda: None)
        return Attempt(job, self._children, heartbeat)


@contextmanager
def fuzzing(seed: int) -> Iterator[Fuzzer]:
    """Yield a fuzzer with its own child processes and folder."""
    with TemporaryDirectory(prefix="fuzz-") as folder:
        children = Children(
            "fake",
            EngineOptions(model="fake"),
            MediaOptions(),
            load_seconds=30,
        )
        try:
            yield Fuzzer(Path(folder), children, seed)
        finally:
            children.close()
