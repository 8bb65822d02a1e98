"""The present states of jobs, as the API shows them.

What is fixed about a job, and how it ended, is in the store; what changes is in its `JobRecord` in
Redis. `JobStates._describe_now` is the one place where they become a job's public state.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import Any

from rollout_core.contract import RESULT_NAME, Artifact, ExplainResult
from rollout_core.errors import UnknownFormat
from rollout_core.jobs.records import Ended, JobRecord, Ticket
from rollout_core.jobs.schemas import Job, JobArtifact, JobResult, WaitingFor
from rollout_core.jobs.store import ArtifactStore
from service.errors import JobNotFound
from service.faults import Faults
from service.redis_jobs import Line, RedisJobs
from service.uploads_of import uploads_of
from service.workers import Workers

Ending = ExplainResult | Ended

logger = logging.getLogger(__name__)

ArtifactUrl = Callable[[str, str], str]
"""Returns the URL of an artifact, given the job id and the artifact's name."""


class JobStates:
    """Describes the jobs of one store and one Redis. Other owners' jobs raise `JobNotFound`."""

    def __init__(
        self,
        redis_jobs: RedisJobs,
        store: ArtifactStore,
        workers: Workers,
        *,
        artifact_url: ArtifactUrl,
        result_ttl: float,
    ) -> None:
        """Describe jobs whose files are kept for `result_ttl` seconds."""
        self._redis_jobs = redis_jobs
        self._store = store
        self._workers = workers
        self._uploads = uploads_of(store)
        self._artifact_url = artifact_url
        self._result_time = timedelta(seconds=result_ttl)
        self._faults = Faults(logger, store)

    def ticket(self, job_id: str, owner: str | None) -> Ticket:
        """Return the ticket of a job.

        Raises:
            JobNotFound: there is no such job, or it has another owner.
        """
        ticket = self._store.ticket(job_id)
        if ticket is None or ticket.owner != owner:
            raise JobNotFound(f"there is no job {job_id}")
        return ticket

    def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Return a job as it is now. A job that has ended is read without Redis.

        Raises:
            JobNotFound: there is no such job, or it has another owner.
        """
        ticket = self.ticket(job_id, owner)
        ending = self._store.ending(job_id)
        snapshot = self.snapshot()
        if ending is None:
            snapshot.read_records([job_id])
        return self._describe_now(ticket, ending, snapshot)

    def get_each(
        self, job_ids: Sequence[str], owner: str | None, snapshot: "Snapshot"
    ) -> dict[str, Job]:
        """Return several jobs by id.

        Omits jobs that were deleted, and those stored in a form that this version cannot read.
        """
        stored: dict[str, tuple[Ticket, Ending | None]] = {}
        for job_id in job_ids:
            with (
                self._faults.isolated(job_id, "cannot be listed"),
                suppress(JobNotFound, UnknownFormat),
            ):
                stored[job_id] = self.ticket(job_id, owner), self._store.ending(job_id)
        snapshot.read_records([job_id for job_id, (_, ending) in stored.items() if not ending])
        jobs = {}
        for job_id, (ticket, ending) in stored.items():
            with suppress(UnknownFormat):
                jobs[job_id] = self._describe_now(ticket, ending, snapshot)
        return jobs

    def refresh(self, jobs: Iterable[Job]) -> dict[str, Job | None]:
        """Return jobs as they are now, given as they were; None for a job that is gone.

        Reads the store only for jobs that have no record in Redis.
        """
        before = {job.id: job for job in jobs}
        snapshot = self.snapshot()
        snapshot.read_records(before)
        after: dict[str, Job | None] = {}
        for job_id, job in before.items():
            with self._faults.isolated(job_id, "cannot be followed"), suppress(UnknownFormat):
                record = snapshot.record(job_id)
                if record is not None:
                    after[job_id] = job.model_copy(update=_changing(job, record, snapshot))
                    continue
                ticket = self._store.ticket(job_id)
                ending = self._store.ending(job_id)
                after[job_id] = self._describe_now(ticket, ending, snapshot) if ticket else None
        return after

    def snapshot(self) -> "Snapshot":
        """Return an empty snapshot, for `get_each`."""
        return Snapshot(self._redis_jobs, self._workers)

    def _describe_now(self, ticket: Ticket, ending: Ending | None, snapshot: "Snapshot") -> Job:
        """Return a job as it is now: the one place that decides its public state.

        Args:
            ending: how the job had ended when the store was read, before Redis.
        """
        record = None if ending else snapshot.record(ticket.id)
        if record is None:
            # A record is deleted when its job ends: that may have been between the two reads.
            ending = ending or self._store.ending(ticket.id)
        if isinstance(ending, ExplainResult):
            return self._succeeded(ticket, ending)
        if ending is not None:
            return _describe(self._fixed(ticket), **ending.model_dump(exclude={"version"}))
        changing = _changing(ticket, record or JobRecord(), snapshot)
        return _describe(self._fixed(ticket), **changing)

    def _fixed(self, ticket: Ticket) -> dict[str, Any]:
        """Return the fields of a job that do not depend on its state."""
        submission = self._store.submission(ticket.id)
        upload = submission.upload
        has_upload = upload is not None and self._uploads.has_bytes(upload)
        has_expired = self._store.has_expired(ticket.id)
        return {
            "id": ticket.id,
            "model": ticket.model,
            "created_at": ticket.created_at,
            "request": ticket.request,
            "tag": submission.tag,
            "priority": submission.priority,
            "filename": submission.filename,
            "reused_from": submission.reused_from,
            "upload": upload if has_upload else None,
            "expires_at": None if has_expired else ticket.created_at + self._result_time,
        }

    def _succeeded(self, ticket: Ticket, result: ExplainResult) -> Job:
        """Return a job that has a result, from its files alone: Redis may have lost it."""
        fixed = self._fixed(ticket)
        is_own = fixed["reused_from"] is None
        return _describe(
            fixed,
            state="succeeded",
            started_at=result.started_at if is_own else None,
            ended_at=result.ended_at if is_own else ticket.created_at,
            attempt=result.attempt if is_own else 0,
            result=JobResult(
                predictions=result.predictions,
                clips=result.clips,
                frames=result.frames,
                artifacts=tuple(self._artifacts(ticket.id, result)),
                timings_seconds=result.timings_seconds,
                source=result.source,
                warnings=result.warnings,
            ),
        )

    def _artifacts(self, job_id: str, result: ExplainResult) -> Iterator[JobArtifact]:
        """Yield the artifacts: `result.json`, which cannot list itself, then those it lists."""
        own = self._store.artifact(job_id, RESULT_NAME)
        if own is None or self._store.has_expired(job_id):
            return
        content = own.read()
        itself = Artifact(name=RESULT_NAME, bytes=len(content), sha256=sha256(content).hexdigest())
        for file in (itself, *result.artifacts):
            url = self._artifact_url(job_id, file.name)
            yield JobArtifact(name=file.name, bytes=file.bytes, sha256=file.sha256, url=url)


class Snapshot:
    """What Redis says about the jobs of one call: each fact is read once, when it is needed."""

    def __init__(self, redis_jobs: RedisJobs, workers: Workers) -> None:
        self._redis_jobs = redis_jobs
        self._workers = workers
        self._records: dict[str, bytes | None] = {}
        self._lines: dict[str, Line] = {}
        self._now: datetime | None = None

    def read_records(self, job_ids: Iterable[str]) -> None:
        """Read the records of more jobs, in one command."""
        self._now = None  # leases must be compared with a time read after them
        self._records.update(self._redis_jobs.records.get_many_raw(job_ids))

    def record(self, job_id: str) -> JobRecord | None:
        """Return the record of a job, None if it has none.

        Raises:
            UnknownFormat: another version wrote it in a form that this one cannot read.
        """
        text = self._records[job_id]
        return None if text is None else JobRecord.from_json(text)

    @property
    def now(self) -> datetime:
        """Redis' time, read after the latest records."""
        if self._now is None:
            self._now = self._redis_jobs.now()
        return self._now

    @cached_property
    def waits(self) -> dict[str, WaitingFor]:
        """What queued jobs wait for, by model."""
        return self._workers.waits()

    def position(self, ticket: Ticket | Job) -> int:
        """Return the position of a job that waits; see `Line.position`."""
        if len(self._records) == 1:
            return self._redis_jobs.place(ticket.id, ticket.model)
        if ticket.model not in self._lines:
            self._lines[ticket.model] = self._redis_jobs.line(ticket.model)
        return self._lines[ticket.model].position(ticket.id)


def _changing(job: Ticket | Job, record: JobRecord, snapshot: Snapshot) -> dict[str, Any]:
    """Return all fields that change about a job before its end."""
    is_running = record.lease_until is not None and record.is_alive(snapshot.now)
    return {
        "state": "running" if is_running else "queued",
        "attempt": record.attempt,
        "started_at": record.started_at if is_running else None,
        "progress": record.progress if is_running else None,
        "queue_position": None if is_running else snapshot.position(job),
        "waiting_for": None if is_running else snapshot.waits.get(job.model, "worker"),
    }


def _describe(fixed: dict[str, Any], **changing: Any) -> Job:
    """Return a job; fields that are not given are null."""
    return Job(**(dict.fromkeys(Job.model_fields) | fixed | changing))
