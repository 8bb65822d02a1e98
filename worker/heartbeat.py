"""What an attempt does all the while that it waits for others: it beats, and looks at the clock."""

import logging
import time
from collections.abc import Callable

from rollout_core.contract import Stage
from rollout_core.errors import DeadlineExceeded
from rollout_core.jobs.records import Progress
from worker.children import Children
from worker.redis_jobs import UNREACHABLE, RetryingRecords

BEAT_SECONDS = 1.0

CANCEL_GRACE_SECONDS = 10.0
"""How long the engine may still take for what it was asked, once the job is canceled."""

log = logging.getLogger(__name__)


class Canceled(Exception):
    """The client wants the job no more."""


class Heartbeat:
    """The life signs of one attempt: its progress, its beats, and what they bring to light."""

    def __init__(
        self,
        job_id: str,
        attempt: int,
        deadline_seconds: float,
        children: Children,
        records: RetryingRecords,
        do_duties: Callable[[], None],
    ) -> None:
        """Start the clock; `do_duties` is called at each beat for what else must be kept alive."""
        self._job_id = job_id
        self._attempt = attempt
        self._deadline_seconds = deadline_seconds
        self._children = children
        self._records = records
        self._do_duties = do_duties
        self._began = time.monotonic()
        self._next_beat = self._began
        self._progress = Progress(stage="decode", done=0, total=1)
        self._cancel_heard_at: float | None = None

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

        A canceled one goes on until the engine has answered, so that it can be used at once for the
        next; but not for long.

        Raises:
            AttemptLost: the job is no longer ours.
            Canceled: it shall stop.
            DeadlineExceeded: it has taken too long.
            ShuttingDown: the worker goes.
        """
        if self.seconds > self._deadline_seconds:
            raise DeadlineExceeded(f"not done after {self._deadline_seconds:g} seconds")
        now = time.monotonic()
        if now >= self._next_beat:
            self._beat()
            self._next_beat = time.monotonic() + BEAT_SECONDS  # Redis may hang, not the job
        if self._cancel_heard_at is not None:
            self._cancel(now - self._cancel_heard_at)

    def _cancel(self, seconds: float) -> None:
        """Stop for a request that was heard so long ago, unless the engine is to answer first."""
        engine = self._children.engine
        if engine.busy and engine.model is not None:  # it has its own time to load
            if seconds < CANCEL_GRACE_SECONDS:
                return
            engine.kill()
        raise Canceled

    def _beat(self) -> None:
        """Say that we live, and hear whether the job shall stop."""
        try:
            asked = self._records.beat(self._job_id, self._attempt, self._progress)
            if asked and self._cancel_heard_at is None:
                self._cancel_heard_at = time.monotonic()
            self._do_duties()
        except UNREACHABLE as error:
            log.warning("job %s: missed a beat: %s", self._job_id, error)


ECHO_SECONDS = 1.0
"""Signals come twice to a worker that gets the terminal's as well as its parent's."""


class ShuttingDown(Exception):
    """The worker goes, and what it was doing is left to others."""


class Shutdown:
    """Whether the worker has been told to leave, and how long its job may still go on."""

    def __init__(self, drain_seconds: float) -> None:
        """Allow a running job so much time from the moment that we are told."""
        self._drain_seconds = drain_seconds
        self._told_at: float | None = None
        self._leave_at: float | None = None

    @property
    def told(self) -> bool:
        """Whether a signal has come."""
        return self._told_at is not None

    def tell(self) -> None:
        """Leave when the job is done or its time is over; told again, leave at once."""
        now = time.monotonic()
        if self._told_at is None:
            self._told_at, self._leave_at = now, now + self._drain_seconds
        elif now - self._told_at >= ECHO_SECONDS:
            self._leave_at = now

    def require_stay(self) -> None:
        """Raise `ShuttingDown` if the time is over."""
        if self._leave_at is not None and time.monotonic() >= self._leave_at:
            raise ShuttingDown
