"""The heartbeat of an attempt, and graceful shutdown.

While an attempt waits for a child or for the store, its `Heartbeat` renews the lease, reports
progress, and checks the deadline and requests to cancel. While a job is ended, a `Pulse` renews the
lease. After SIGTERM, a `Shutdown` decides when the worker must hand its job back.

A call that may take longer than a beat, such as any call to the store, runs in a thread while this
one beats: see `while_calling` and `Pulse.during`.
"""

import errno
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

from rollout_core.contract import Stage
from rollout_core.errors import DeadlineExceeded
from rollout_core.jobs.records import Progress
from worker.child import TICK_SECONDS
from worker.children import Children
from worker.redis_jobs import UNREACHABLE, RetryingRecords

BEAT_SECONDS = 1.0
"""Time between two heartbeats."""

CANCEL_GRACE_SECONDS = 10.0
"""How long the engine may take to finish its batch after the job was canceled."""

ECHO_SECONDS = 1.0
"""A second signal within this time is a copy of the first.

A worker in a terminal can get the same signal twice: from the terminal and from its parent.
"""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Canceled(Exception):
    """The client has canceled the job."""


class ShuttingDown(Exception):
    """The worker stops now. Its job goes back to the queue."""


def while_calling(tick: Callable[[], None], work: Callable[[], T]) -> T:
    """Return what `work` returns; it runs in a thread while this one calls `tick`.

    If `tick` raises, the thread is left alone: what it does later must not matter.

    Raises:
        OSError: also if no thread can be started.
    """
    tick()
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised again in the thread that waits
            future.set_exception(error)

    try:
        Thread(target=run, name="work", daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
    while not wait([future], TICK_SECONDS).done:
        tick()
    return future.result()


class Pulse:
    """Calling it renews the lease of a claim if that is due, and does the worker's other duties."""

    def __init__(
        self,
        job_id: str,
        token: str | None,
        records: RetryingRecords,
        do_duties: Callable[[], None],
    ) -> None:
        """Renew the lease from now on.

        Args:
            token: of the claim.
            do_duties: called after each renewal; does the worker's other duties during a job.
        """
        self._job_id = job_id
        self._token = token
        self._records = records
        self._do_duties = do_duties
        self._next_beat = time.monotonic()

    def __call__(self) -> None:
        """Renew the lease if that is due.

        Raises:
            AttemptLost: the job no longer belongs to this claim.
            ShuttingDown: the worker stops now.
        """
        if time.monotonic() >= self._next_beat:
            self._beat()
            # Count from the end of the call, so that the job continues even while Redis hangs.
            self._next_beat = time.monotonic() + BEAT_SECONDS

    def during(self, work: Callable[[], T]) -> T:
        """Return what `work` returns; the lease is renewed meanwhile. See `while_calling`."""
        return while_calling(self, work)

    def _beat(self) -> None:
        """Renew the lease; only log if Redis does not answer."""
        try:
            self._renew()
            self._do_duties()
        except UNREACHABLE as error:
            log.warning("missed a heartbeat: %s", error)

    def _renew(self) -> None:
        self._records.renew(self._job_id, self._token)


class Heartbeat(Pulse):
    """Calling it sends a heartbeat when one is due, and checks whether the attempt must stop."""

    def __init__(
        self,
        job_id: str,
        attempt: int,
        deadline_seconds: float,
        children: Children,
        records: RetryingRecords,
        do_duties: Callable[[], None],
        token: str | None = None,
    ) -> None:
        """Start the clock of the attempt.

        Args:
            do_duties: called after each heartbeat; does the worker's other duties during a job.
            token: of the attempt's claim.
        """
        super().__init__(job_id, token, records, do_duties)
        self._attempt = attempt
        self._deadline_seconds = deadline_seconds
        self._children = children
        self._began = time.monotonic()
        self._progress = Progress(stage="decode", done=0, total=1)
        self._cancel_seen_at: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the attempt began."""
        return time.monotonic() - self._began

    def advance(self, stage: Stage, done: int, total: int) -> None:
        """Set the progress. A new stage makes the next heartbeat due at once."""
        if stage != self._progress.stage:
            self._next_beat = time.monotonic()
        self._progress = Progress(stage=stage, done=done, total=total)

    def __call__(self) -> None:
        """Send a heartbeat if one is due, and raise if the attempt must stop.

        A canceled attempt waits up to `CANCEL_GRACE_SECONDS` for the engine's answer, so that the
        engine need not be restarted.

        Raises:
            AttemptLost: the job no longer belongs to this attempt.
            Canceled: the client has canceled the job.
            DeadlineExceeded: the attempt has taken too long.
            ShuttingDown: the worker stops now.
        """
        if self.seconds > self._deadline_seconds:
            raise DeadlineExceeded(f"not done after {self._deadline_seconds:g} seconds")
        now = time.monotonic()
        super().__call__()
        if self._cancel_seen_at is not None:
            self._cancel(now - self._cancel_seen_at)

    def _cancel(self, seconds: float) -> None:
        """Raise `Canceled`, unless the engine still has time to answer.

        Args:
            seconds: since the request to cancel was seen.
        """
        engine = self._children.engine
        if engine.busy and engine.model is not None:  # while it loads, its own timeout counts
            if seconds < CANCEL_GRACE_SECONDS:
                return
            engine.kill()
        raise Canceled

    def _renew(self) -> None:
        """Send a heartbeat, and note a request to cancel."""
        cancel_requested = self._records.beat(
            self._job_id, self._attempt, self._progress, self._token
        )
        if cancel_requested and self._cancel_seen_at is None:
            self._cancel_seen_at = time.monotonic()


class Shutdown:
    """Graceful shutdown: after SIGTERM, let the running job continue for `drain_seconds`."""

    def __init__(self, drain_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        self._requested_at: float | None = None
        self._ends_at: float | None = None

    @property
    def is_requested(self) -> bool:
        """Whether shutdown was requested."""
        return self._requested_at is not None

    def request_shutdown(self) -> None:
        """Start the drain time. A second request, not an echo of the first, ends it."""
        now = time.monotonic()
        if self._requested_at is None:
            self._requested_at, self._ends_at = now, now + self._drain_seconds
        elif now - self._requested_at >= ECHO_SECONDS:
            self._ends_at = now

    def check_shutdown(self) -> None:
        """Raise `ShuttingDown` if the drain time is over."""
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            raise ShuttingDown
