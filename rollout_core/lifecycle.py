"""The life of a job as a value: what Redis holds of it, and the steps that it may take.

One `JobRecord` a job is the whole truth about everything but success, which the stored result
decides. A step is a pure function from record to record; service and worker apply it in an
optimistic transaction, so that two of them never both happen. A worker's steps name its
attempt: one that has lost the job to a newer attempt cannot take any. A claim must wait while
another attempt is alive.

    queued ──claim──▶ running ──fail──▶ failed
      │                  │ ╲──release, or the lease runs out──▶ queued again, for the next attempt
      ╰────cancel────────┴──▶ canceled
"""

from datetime import datetime, timedelta
from typing import Literal, Self

from rollout_core.contract import Frozen, JobError, Progress
from rollout_core.errors import AttemptLost, JobEnded, JobHeld

JobState = Literal["queued", "running", "succeeded", "failed", "canceled"]

LEASE_SECONDS = 6.0
"""A running attempt that has not beaten for so long is taken for dead."""


class JobRecord(Frozen):
    """Everything about a job that changes.

    `stage` says what has been decided; `state_at` what a client is told, which also depends on
    whether the attempt that runs it is still alive.
    """

    stage: Literal["queued", "running", "failed", "canceled"] = "queued"
    attempt: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    lease_until: datetime | None = None
    progress: Progress | None = None
    error: JobError | None = None
    cancel_requested: bool = False

    @property
    def ended(self) -> bool:
        """Whether failure or cancellation is final. Success is not recorded here."""
        return self.stage in ("failed", "canceled")

    def state_at(self, now: datetime, *, has_result: bool) -> JobState:
        """Return the job's state as a client sees it."""
        if has_result:
            return "succeeded"
        if self.stage == "running" and not self._alive(now):
            return "queued"
        return self.stage

    def claim(self, now: datetime) -> Self:
        """Begin the next attempt; if the one before was asked to stop, cancel the job instead.

        Raises:
            JobEnded: it failed or was canceled meanwhile.
            JobHeld: the attempt before is alive.
        """
        self._require_free(now)
        if self.cancel_requested:
            return self._end("canceled", now)
        return self.model_copy(
            update={
                "stage": "running",
                "attempt": self.attempt + 1,
                "started_at": now,
                "lease_until": now + timedelta(seconds=LEASE_SECONDS),
                "progress": None,
            }
        )

    def beat(self, attempt: int, now: datetime, progress: Progress | None) -> Self:
        """Renew the lease of `attempt` and say how far it is."""
        self._require_attempt(attempt)
        lease_until = now + timedelta(seconds=LEASE_SECONDS)
        return self.model_copy(update={"lease_until": lease_until, "progress": progress})

    def release(self, attempt: int) -> Self:
        """Leave the job to the next attempt, at once."""
        self._require_attempt(attempt)
        return self.model_copy(update={"lease_until": None})

    def fail(self, attempt: int, now: datetime, error: JobError) -> Self:
        """End the job as failed."""
        self._require_attempt(attempt)
        return self._end("failed", now, error)

    def give_up(self, now: datetime, error: JobError) -> Self:
        """End a job as failed that no attempt will run any more.

        Raises:
            JobEnded: it failed or was canceled meanwhile.
            JobHeld: the attempt before is alive.
        """
        self._require_free(now)
        return self._end("failed", now, error)

    def yield_cancel(self, attempt: int, now: datetime) -> Self:
        """End the job as canceled, by the attempt that ran it."""
        self._require_attempt(attempt)
        return self._end("canceled", now)

    def request_cancel(self, now: datetime) -> Self:
        """Cancel at once what no live attempt runs; ask the attempt that runs it to stop.

        Raises:
            JobEnded: it has failed or was canceled before.
        """
        self._require_open()
        if self._alive(now):
            return self.model_copy(update={"cancel_requested": True})
        return self._end("canceled", now)

    def _alive(self, now: datetime) -> bool:
        """Whether an attempt runs the job: only a running one has a lease."""
        return self.lease_until is not None and now < self.lease_until

    def _end(
        self, stage: Literal["failed", "canceled"], now: datetime, error: JobError | None = None
    ) -> Self:
        return self.model_copy(
            update={"stage": stage, "ended_at": now, "lease_until": None, "error": error}
        )

    def _require_open(self) -> None:
        if self.ended:
            raise JobEnded(f"the job has {'failed' if self.stage == 'failed' else 'been canceled'}")

    def _require_free(self, now: datetime) -> None:
        self._require_open()
        if self._alive(now):
            raise JobHeld(f"attempt {self.attempt} runs the job")

    def _require_attempt(self, attempt: int) -> None:
        if self.stage != "running" or self.attempt != attempt:
            raise AttemptLost(f"attempt {attempt}: the job is {self.stage}, attempt {self.attempt}")
