"""Drives damaged videos through the media process, and keeps account of how each one ended."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from unittest.mock import patch

from rollout_core.contract import ExplainRequest, Overlay
from rollout_core.jobs.records import Progress
from tests.hostile.codes import VIDEO_CODES
from tests.hostile.forked import ForkedMedia
from tests.hostile.mutants import mutate
from tests.hostile.seeds import make_seeds
from worker import children as children_module
from worker.attempt import Attempt, AttemptInput
from worker.children import ChildFailure, ChildLost, Children
from worker.messages import EngineOptions, MediaOptions

DEADLINE_SECONDS = 30.0


@dataclass
class Account:
    """How mutants ended.

    Attributes:
        failures: code → how many failed with it; a death of media would be `worker_crashed`.
        deaths: how media died → how often.
        mistakes: whatever must not be.
        kept: name → mutants of which media died, or that were mistaken.
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


class Alone:
    """Stands in for the records: nobody else wants the job."""

    def beat(self, job_id: str, attempt: int, progress: Progress) -> bool:
        return False


class Fuzzer:
    """Makes mutants of the seeds, and tries one after another."""

    def __init__(self, folder: Path, children: Children, seed: int) -> None:
        (folder / "seeds").mkdir()
        self._folder = folder
        self._children = children
        self._random = Random(seed)
        self._seeds = make_seeds(folder / "seeds")
        self.account = Account()

    def try_one(self) -> None:
        """Make the next mutant and try it."""
        name = self._random.choice(sorted(self._seeds))
        mutant = mutate(self._random, self._seeds[name], [*self._seeds.values()])
        overlay = self._random.choice((None, Overlay()))
        self.account.mutants += 1
        began = time.monotonic()
        deaths = self.account.deaths.total()
        offence = self._offence(mutant, ExplainRequest(model="fake", overlay=overlay))
        seconds = time.monotonic() - began
        self.account.slowest_seconds = max(self.account.slowest_seconds, seconds)
        if offence is not None:
            self.account.mistakes.append(f"{self.account.mutants}-{name}: {offence}")
        if offence is not None or self.account.deaths.total() > deaths:
            self.account.kept[f"{self.account.mutants}-{name}"] = mutant

    def _offence(self, mutant: bytes, request: ExplainRequest) -> str | None:
        """Try a mutant, and say what was wrong with how it ended, if anything was."""
        try:
            self._attempt(mutant, request).run()
        except ChildFailure as failure:
            self.account.failures[failure.error.code] += 1
            if failure.error.code not in VIDEO_CODES:
                return f"{failure.error.code}: {failure}"
            if "/" in failure.error.detail or "Traceback" in failure.error.detail:
                return f"it tells too much: {failure}"
        except ChildLost as lost:
            return self._bury(str(lost))
        except Exception as error:
            self.account.worker_deaths += 1
            return f"the supervisor: {error!r}"
        else:
            self.account.succeeded += 1
        return None

    def _bury(self, lost: str) -> str | None:
        """Note a child's death; media may die of a video, the engine may not."""
        if not lost.startswith("the media process"):
            self.account.worker_deaths += 1
            self._children.restart_dead_engine()
            return lost
        self.account.failures["worker_crashed"] += 1
        self.account.deaths[lost.removeprefix("the media process ")] += 1
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
            deadline_seconds=DEADLINE_SECONDS,
            engine_timeout_seconds=10.0,
            media_timeout_seconds=10.0,
        )
        return Attempt(job, self._children, Alone(), lambda: None)  # type: ignore[arg-type]


@contextmanager
def fuzzing(seed: int) -> Iterator[Fuzzer]:
    """Yield a fuzzer with a children and a folder of its own."""
    with (
        TemporaryDirectory(prefix="fuzz-") as folder,
        patch.object(children_module, "Media", ForkedMedia),
    ):
        children = Children("fake", EngineOptions(model="fake"), MediaOptions(), load_seconds=30)
        try:
            yield Fuzzer(Path(folder), children, seed)
        finally:
            children.close()
