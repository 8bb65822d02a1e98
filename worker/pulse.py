"""What an attempt does all the while that it waits for others: it beats, and looks at the clock."""

import logging
import time
from collections.abc import Callable

from rollout_core.contract import Progress, Stage
from rollout_core.errors import DeadlineExceeded
from worker.assignment import Assignment
from worker.crew import Crew
from worker.ledger import UNREACHABLE, Ledger

BEAT_SECONDS = 1.0

log = logging.getLogger(__name__)


class Canceled(Exception):
    """The client wants the job no more."""


class Pulse:
    """The life signs of one attempt: its progress, its beats, and what they bring to light."""

    def __init__(
        self, job: Assignment, crew: Crew, ledger: Ledger, tend: Callable[[], None]
    ) -> None:
        """Start the clock; `tend` is called at each beat for what else must be kept alive."""
        self._job = job
        self._crew = crew
        self._ledger = ledger
        self._tend = tend
        self._began = time.monotonic()
        self._next_beat = self._began
        self._progress = Progress(stage="decode", done=0, total=1)
        self._cancel_requested = False

    @property
    def seconds(self) -> float:
        """How long the attempt has taken so far."""
        return time.monotonic() - self._began

    def advance(self, stage: Stage, done: int, total: int) -> None:
        """Enter a new step, and say so at once when it is a new stage."""
        if stage != self._progress.stage:
            self._next_beat = time.monotonic()
        self._progress = Progress(stage=stage, done=done, total=total)

    def __call__(self) -> None:
        """Beat if it is time to; give up on a job that is lost, or has taken too long.

        A canceled one goes on until the engine has answered: it can be used at once for the next.

        Raises:
            AttemptLost: the job is no longer ours.
            Canceled: it shall stop.
            DeadlineExceeded: it has taken too long.
        """
        if self.seconds > self._job.deadline_seconds:
            raise DeadlineExceeded(f"not done after {self._job.deadline_seconds:g} seconds")
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + BEAT_SECONDS
            self._beat()
        if self._cancel_requested and not self._crew.engine.busy:
            raise Canceled

    def _beat(self) -> None:
        """Say that we live, and hear whether the job shall stop."""
        try:
            self._cancel_requested |= self._ledger.beat(
                self._job.id, self._job.attempt, self._progress
            )
            self._tend()
        except UNREACHABLE as error:
            log.warning("job %s: missed a beat: %s", self._job.id, error)
