"""The states of a job as values: its record in Redis until it ends, and how it ended.

A `JobRecord` holds everything that changes about a job before its end. A step is a pure function
from record to record. Service and worker apply it in an optimistic transaction, so two concurrent
steps cannot both start from the same record. The steps of a worker name its attempt and the token
of its claim; they fail once another claim has the job. The number alone is not enough: a Redis that
went back to an older snapshot gives it twice. A claim fails while another attempt is alive.

    queued ──claim──▶ running ──▶ end: a result, or an `Ended`, in the store
      ▲                  │
      ╰──────────────────╯ release, hand_back, or the lease expires

A job ends when its result or `Ended` appears in the store, once; see `rollout_core.jobs.store`.
`service.job_states` decides the public state of a job, from this record and from the store.
"""

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self, cast

from pydantic import Field, ValidationError

from rollout_core.contract import ExplainRequest, Frozen, Priority, Stage, UploadId, Webhook
from rollout_core.errors import AttemptLost, JobHeld, UnknownFormat
from rollout_core.patterns import ID, REQUEST_ID, TRACEPARENT

JobId = Annotated[str, Field(pattern=ID)]

JobState = Literal["queued", "running", "succeeded", "failed", "canceled"]

FORMAT_VERSION = 1
"""Newest format of stored records that this version knows."""

LEASE_SECONDS = 6.0
"""A running attempt without a heartbeat for this long counts as dead."""


class JobError(Frozen):
    """Why a job failed."""

    code: str
    title: str
    detail: str


class Progress(Frozen):
    """Progress of an attempt: `done` of `total` steps of its present stage."""

    stage: Stage
    done: int = Field(ge=0)
    total: int = Field(ge=0)


class StoredRecord(Frozen):
    """Base of what is stored as JSON and read by other versions of this program.

    A field at its default is not written, so a record that needs nothing new can still be read by
    an older version. Therefore the default of a field never changes its meaning; a change that
    older versions would misread raises `FORMAT_VERSION`.
    """

    version: int = Field(1, description="Least format that a reader must know.")

    def to_json(self) -> str:
        """Return the record as JSON, without the fields that have their default."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read a record.

        Raises:
            UnknownFormat: a newer version wrote it, or it is damaged.
        """
        try:
            record = cls.model_validate_json(text)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"]))
            raise UnknownFormat(f"{cls.__name__}: {place}: {fault['msg']}") from error
        if record.version > FORMAT_VERSION:
            raise UnknownFormat(f"{cls.__name__}: version {record.version} is not known")
        return record


class Ticket(StoredRecord):
    """What never changes about a job; `job.json` in its folder."""

    id: JobId
    request: ExplainRequest = Field(description="With its model filled in.")
    created_at: datetime
    upload_bytes: int
    owner: str | None = Field(None, description="Owner of the API key that created it, if any.")

    @property
    def model(self) -> str:
        """The model of the request, or the default that was filled in."""
        return cast(str, self.request.model)


class Submission(StoredRecord):
    """What the service keeps about a job besides its ticket; `submission.json` in its folder.

    Workers do not read it, so those of older releases can run a job whose submission is newer.

    Attributes:
        upload: id of the upload that the job explains.
        upload_sha256: of the bytes of the upload.
        filename: name of the video, as the client named it.
        reused_from: the job whose result this one has.
        answer_key: equal for jobs that must have equal results; see `service.answers`.
        body_sha256: of what the client asked for; set if it sent an Idempotency-Key.
        priority: orders the job among those that wait; see `service.fair_order`.
    """

    upload: UploadId | None = None
    upload_sha256: str | None = None
    filename: str | None = None
    tag: str | None = None
    webhook: Webhook | None = None
    reused_from: JobId | None = None
    answer_key: str | None = None
    body_sha256: str | None = None
    priority: Priority = "normal"


class Origin(StoredRecord):
    """Where a job comes from, for logs and traces; `origin.json` in its folder.

    It has a file of its own, because releases before it refuse a ticket or a submission with fields
    that they do not know. No job depends on it: what cannot be read counts as nothing.

    Attributes:
        request_id: of the HTTP request that submitted the job.
        traceparent: the span of that request, in the form of W3C Trace Context.
    """

    request_id: str | None = Field(None, pattern=REQUEST_ID)
    traceparent: str | None = Field(None, pattern=TRACEPARENT)

    @classmethod
    def read(cls, text: bytes | None) -> Self:
        """Read an origin; return an empty one for None and for text of another version."""
        try:
            return cls() if text is None else cls.model_validate_json(text, extra="ignore")
        except ValidationError:
            return cls()


class Ended(StoredRecord):
    """The end of a job without a result; `ended.json` in its folder."""

    state: Literal["failed", "canceled"]
    attempt: int
    started_at: datetime | None
    ended_at: datetime
    error: JobError | None = None


class JobRecord(StoredRecord):
    """Everything that changes about a job before its end.

    Attributes:
        over: no further attempt will be made; the process that holds the lease ends the job.
        token: of the latest claim; no two claims have the same. It is not in the JSON, which older
            versions read too: it has a key of its own in Redis.
    """

    attempt: int = 0
    started_at: datetime | None = None
    lease_until: datetime | None = None
    progress: Progress | None = None
    cancel_requested: bool = False
    over: bool = False
    token: str | None = Field(None, exclude=True)

    def with_token(self, token: bytes | None) -> Self:
        """Return the record with the token that stands beside it in Redis."""
        return self.model_copy(update={"token": token.decode() if token else None})

    def shows_more_than(self, before: Self) -> bool:
        """Return whether more has changed than when the lease ends."""
        hidden = {"lease_until", "token"}
        is_held = self.lease_until is not None, before.lease_until is not None
        return len({*is_held}) > 1 or self.model_dump(exclude=hidden) != before.model_dump(
            exclude=hidden
        )

    def is_alive(self, now: datetime) -> bool:
        """Return whether an attempt runs the job: its lease has not expired."""
        if self.lease_until is None:
            return False
        # A lease further ahead was written before Redis' clock was set back.
        return 0 < (self.lease_until - now).total_seconds() <= 2 * LEASE_SECONDS

    def claim(self, now: datetime, *, max_attempts: int, token: str | None = None) -> Self:
        """Start the next attempt; if none is allowed, take the lease only to end the job.

        Args:
            token: of this claim; every later step of the worker must name it.

        Raises:
            JobHeld: the previous attempt is alive.
        """
        if self.is_alive(now):
            raise JobHeld(f"attempt {self.attempt} runs the job")
        lease_until = now + timedelta(seconds=LEASE_SECONDS)
        if self.cancel_requested or self.attempt >= max_attempts:
            return self.model_copy(
                update={"over": True, "lease_until": lease_until, "token": token}
            )
        return self.model_copy(
            update={
                "attempt": self.attempt + 1,
                "started_at": now,
                "lease_until": lease_until,
                "progress": None,
                "token": token,
            }
        )

    def require(self, attempt: int, token: str | None = None) -> Self:
        """Return the record unchanged if `attempt`, claimed with `token`, has the job.

        Raises:
            AttemptLost: it does not. All steps that name an attempt raise this.
        """
        if self.over or self.lease_until is None or (self.attempt, self.token) != (attempt, token):
            raise AttemptLost(f"attempt {attempt} no longer has the job; attempts: {self.attempt}")
        return self

    def beat(
        self,
        attempt: int,
        now: datetime,
        progress: Progress | None,
        token: str | None = None,
    ) -> Self:
        """Renew the lease of `attempt`, and store its progress."""
        return (
            self.require(attempt, token).renew(now, token).model_copy(update={"progress": progress})
        )

    def renew(self, now: datetime, token: str | None = None) -> Self:
        """Renew the lease of the claim with `token`, also of one that ends the job.

        Raises:
            AttemptLost: another claim has the job, or none.
        """
        if self.lease_until is None or self.token != token:
            raise AttemptLost("another claim has the job")
        return self.model_copy(update={"lease_until": now + timedelta(seconds=LEASE_SECONDS)})

    def release(self, attempt: int, token: str | None = None) -> Self:
        """Give up the lease, so that the next attempt can start immediately."""
        return self.require(attempt, token).model_copy(update={"lease_until": None})

    def hand_back(self, attempt: int, token: str | None = None) -> Self:
        """Give up the lease, and do not count `attempt`."""
        return self.release(attempt, token).model_copy(update={"attempt": attempt - 1})

    def request_cancel(self) -> Self:
        """Ask the present attempt, or the next one, to end the job as canceled."""
        return self.model_copy(update={"cancel_requested": True})

    def ended(
        self, state: Literal["failed", "canceled"], now: datetime, error: JobError | None = None
    ) -> Ended:
        """Return how the job ended, given this record."""
        return Ended(
            state=state,
            attempt=self.attempt,
            started_at=self.started_at,
            ended_at=now,
            error=error,
        )
