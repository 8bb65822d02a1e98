"""The life of a job as values: what Redis holds while it is under way, and how it may end.

A `JobRecord` is the whole truth about a job that has not ended. A step is a pure function from
record to record; service and worker apply it in an optimistic transaction, so that two of them
never both happen. A worker's steps name its attempt: one that has lost the job to a newer attempt
cannot take any. A claim must wait while another attempt is alive.

    queued ──claim──▶ running ──▶ its end: a result, or an `Ended`, in the store
      ▲                  │
      ╰──────────────────╯ release, hand_back, or the lease runs out

Every end lies in the store, where it appears once; see `rollout_core.jobs.store`.
"""

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self, cast

from pydantic import (
    Field,
)

from rollout_core.contract import ExplainRequest, Frozen, Stage
from rollout_core.errors import AttemptLost, JobHeld

JobId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class JobError(Frozen):
    """Why a job failed."""

    code: str
    title: str
    detail: str


class Progress(Frozen):
    """How far an attempt is: `done` of `total` steps of its present stage."""

    stage: Stage
    done: int = Field(ge=0)
    total: int = Field(ge=0)


class Ticket(Frozen):
    """What is fixed about a job when it is accepted; `job.json` in its folder."""

    id: JobId
    request: ExplainRequest = Field(description="With its model filled in.")
    created_at: datetime
    upload_bytes: int
    owner: str | None = Field(None, description="Name of the API key that made it, if any.")

    @property
    def model(self) -> str:
        """The model that was asked for, or filled in."""
        return cast(str, self.request.model)


JobState = Literal["queued", "running", "succeeded", "failed", "canceled"]

LEASE_SECONDS = 6.0
"""A running attempt that has not beaten for so long is taken for dead."""


class Ended(Frozen):
    """The end of a job without a result; `ended.json` in its folder."""

    state: Literal["failed", "canceled"]
    attempt: int
    started_at: datetime | None
    ended_at: datetime
    error: JobError | None = None


class JobRecord(Frozen):
    """Everything that changes about a job before its end.

    Attributes:
        over: no attempt will be made any more; whoever has the job ends it.
    """

    attempt: int = 0
    started_at: datetime | None = None
    lease_until: datetime | None = None
    progress: Progress | None = None
    cancel_requested: bool = False
    over: bool = False

    def is_alive(self, now: datetime) -> bool:
        """Whether an attempt runs the job: it has beaten lately."""
        return self.lease_until is not None and now < self.lease_until

    def claim(self, now: datetime, *, max_attempts: int) -> Self:
        """Begin the next attempt; if there shall be none, take the job only to end it.

        Raises:
            JobHeld: the attempt before is alive.
        """
        if self.is_alive(now):
            raise JobHeld(f"attempt {self.attempt} runs the job")
        lease_until = now + timedelta(seconds=LEASE_SECONDS)
        if self.cancel_requested or self.attempt >= max_attempts:
            return self.model_copy(update={"over": True, "lease_until": lease_until})
        return self.model_copy(
            update={
                "attempt": self.attempt + 1,
                "started_at": now,
                "lease_until": lease_until,
                "progress": None,
            }
        )

    def require(self, attempt: int) -> Self:
        """Return the record as it is.

        Raises:
            AttemptLost: the job is no longer this attempt's. So do the steps that name one.
        """
        if self.attempt != attempt or self.lease_until is None or self.over:
            raise AttemptLost(f"attempt {attempt} no longer has the job; attempts: {self.attempt}")
        return self

    def beat(self, attempt: int, now: datetime, progress: Progress | None) -> Self:
        """Renew the lease of `attempt` and say how far it is."""
        self.require(attempt)
        lease_until = now + timedelta(seconds=LEASE_SECONDS)
        return self.model_copy(update={"lease_until": lease_until, "progress": progress})

    def release(self, attempt: int) -> Self:
        """Leave the job to the next attempt, at once."""
        return self.require(attempt).model_copy(update={"lease_until": None})

    def hand_back(self, attempt: int) -> Self:
        """Leave the job as if `attempt` had never begun."""
        return self.release(attempt).model_copy(update={"attempt": attempt - 1})

    def request_cancel(self) -> Self:
        """Ask whichever attempt has the job, or takes it next, to end it as canceled."""
        return self.model_copy(update={"cancel_requested": True})

    def ended(
        self, state: Literal["failed", "canceled"], now: datetime, error: JobError | None = None
    ) -> Ended:
        """Return the end of the job as it stands."""
        return Ended(
            state=state,
            attempt=self.attempt,
            started_at=self.started_at,
            ended_at=now,
            error=error,
        )
