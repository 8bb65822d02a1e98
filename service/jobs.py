"""Jobs as the API handles them: stored, queued, looked up, listed, canceled, deleted.

What is fixed about a job, and how it ended, lies in the store; what changes lies in its `JobRecord`
in Redis. `Jobs.get` is the one place where they become a job's public state.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError

from rollout_core.contract import RESULT_NAME, ExplainRequest, ExplainResult, describe
from rollout_core.errors import AttemptLost, JobEnded
from rollout_core.jobs.records import JobRecord, JobState, Ticket
from rollout_core.jobs.store import ArtifactStore
from rollout_core.resolve import check_request
from service.errors import JobNotFound, QueueFull, QuotaExceeded
from service.redis_jobs import Place, Register
from service.schemas import Job, JobArtifact, JobPage, JobResult, ServedModel
from service.usage import Owner, Quotas, StoreUsage
from service.workers import Workers


def utc_now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


SCAN_LIMIT = 2000
"""Jobs looked at for one page; a page whose filter matches few of them is short."""


class Jobs:
    """The jobs of one store and one Redis.

    A job belongs to whose key it came with, or to nobody; to all others there is no such job.
    """

    def __init__(
        self,
        redis: Redis,
        store: ArtifactStore,
        *,
        usage: StoreUsage | None = None,
        max_queued: int = 1000,
        default_model: str | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Use `redis`, which must not decode its answers: RQ wants bytes."""
        self._store = store
        self._usage = usage or StoreUsage(store)
        self._max_queued = max_queued
        self._default_model = default_model
        self._clock = clock
        self._fleet = Workers(redis, clock=clock)
        self._register = Register(redis)
        self._quotas = Quotas(self._register.open, store, self._usage)

    def require_room(self, upload_bytes: int, *, owner: Owner | None = None) -> None:
        """Make sure that the store has room for an upload.

        Raises:
            StoreFull: it has not.
            StorageQuotaExceeded: the owner may not store so much.
        """
        self._usage.require_room(upload_bytes)
        self._quotas.require_bytes(owner, upload_bytes)

    def submit(self, request: ExplainRequest, upload: Path, *, owner: Owner | None = None) -> Job:
        """Store a received upload as a new job, and queue it for its model.

        Raises:
            UnknownModel: see `Workers.choose`.
            InvalidRequest: the model cannot do what is asked.
            QueueFull: as many jobs wait as may wait.
            QuotaExceeded: as many of the owner's jobs have not ended as he may have.
            StorageQuotaExceeded: the owner may not store so much.
        """
        spec = self._fleet.choose(request.model, default=self._default_model)
        check_request(request, spec)
        self._require_room(spec.name)
        ticket = Ticket(
            id=uuid.uuid4().hex,
            request=request.model_copy(update={"model": spec.name}),
            created_at=self._clock(),
            upload_bytes=upload.stat().st_size,
            owner=owner.name if owner else None,
        )
        self._quotas.require_bytes(owner, ticket.upload_bytes)
        self._take_place(ticket, owner)
        try:
            self._store.accept(ticket, upload)
            self._register.enter(ticket)
        except BaseException:
            self._store.delete(ticket.id)
            with suppress(RedisError):  # then its place is free after a while
                self._quotas.give_back(ticket.id, owner)
            raise
        self._usage.accept(ticket)
        return self.get(ticket.id, owner=ticket.owner)

    def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Return a job as it stands now: the one place that decides its public state.

        A job that has ended is answered without Redis.

        Raises:
            JobNotFound: there is none, or it is gone, or another's.
        """
        ticket = self._ticket(job_id, owner)
        ending = self._store.ending(job_id)
        record = None if ending else self._register.record(job_id)
        if record is None:
            # Records go when their job has ended: that may have been in between.
            ending = ending or self._store.ending(job_id)
        if isinstance(ending, ExplainResult):
            return self._succeeded(ticket, ending)
        if ending is not None:
            return _describe(ticket, **ending.model_dump())
        return self._under_way(ticket, record or JobRecord())

    def page(
        self,
        *,
        state: JobState | None = None,
        limit: int = 50,
        cursor: str | None = None,
        owner: str | None = None,
    ) -> JobPage:
        """Return up to `limit` of the owner's jobs in `state`, newest first, from `cursor` on.

        Raises:
            InvalidRequest: the cursor is not one of ours.
        """
        jobs: list[Job] = []
        last = Place.parse(cursor) if cursor else None
        places = self._register.list.newest_first(owner, after=last)
        for last in islice(places, SCAN_LIMIT):
            job = self._get_or_none(last.job_id, owner)
            if job and state in (None, job.state):
                jobs.append(job)
            if len(jobs) == limit:
                break
        more = next(places, None) is not None
        return JobPage(jobs=tuple(jobs), next_cursor=str(last) if more else None)

    def cancel(self, job_id: str, *, owner: str | None = None) -> Job:
        """Cancel a waiting job at once; ask the attempt that runs it to stop.

        Raises:
            JobNotFound: there is none, or it is another's.
            JobEnded: it has succeeded or failed, or was canceled before.
        """
        job = self.get(job_id, owner=owner)
        if job.ended_at is not None:
            raise JobEnded(f"the job is {job.state} already")
        record = self._register.request_cancel(job_id)
        if not self._register.is_alive(record):
            self._end_canceled(job_id, job.model, record)
        return self.get(job_id, owner=owner)

    def delete(self, job_id: str, *, owner: str | None = None) -> None:
        """Remove every byte kept for a job. An attempt that runs it finds it gone, and stops.

        Raises:
            JobNotFound: there is none, or it is another's.
        """
        self._remove(self._ticket(job_id, owner))

    def expire(self, job_id: str) -> None:
        """Remove the files of an old job, unless it has not ended."""
        if self._store.has_ended(job_id) and self._store.keeps_upload(job_id):
            self._store.expire(job_id)

    def forget(self, job_id: str) -> None:
        """Remove all that is kept of an expired job."""
        if self._store.has_expired(job_id) and (ticket := self._store.ticket(job_id)):
            self._remove(ticket)

    def models(self) -> tuple[ServedModel, ...]:
        """Return the models that live workers serve now."""
        return self._fleet.served()

    def ready_workers(self) -> dict[str, int]:
        """Return how many workers are ready for each known model."""
        return self._fleet.ready()

    def wait_seconds(self, job: Job) -> int:
        """Return after how long it is worth asking for a job again."""
        return self._fleet.wait_seconds(job.model, job.queue_position or 1)

    def forget_stale_workers(self) -> None:
        """Remove what workers long gone have announced."""
        self._fleet.forget_stale()

    def _require_room(self, model: str) -> None:
        waiting = self._register.delivery.waiting(model)
        if waiting >= self._max_queued:
            raise QueueFull(
                f"{waiting} jobs wait for {model}",
                retry_after_seconds=self._fleet.wait_seconds(model, waiting),
            )

    def _take_place(self, ticket: Ticket, owner: Owner | None) -> None:
        if not self._quotas.take_place(ticket.id, owner):
            raise QuotaExceeded(
                "you have as many jobs that have not ended as you may",
                retry_after_seconds=self._fleet.wait_seconds(ticket.model, 1),
            )

    def _remove(self, ticket: Ticket) -> None:
        self._store.delete(ticket.id)
        with suppress(RedisError):  # what stays there is removed by the `Reconciler`
            self._register.strike(ticket.id, ticket.owner)
            self._register.delivery.withdraw(ticket.id, ticket.model)

    def _end_canceled(self, job_id: str, model: str, record: JobRecord) -> None:
        """End a job that no attempt runs, unless one that was taken for dead is quicker."""
        self._store.end_attempts(job_id)
        with suppress(AttemptLost):
            self._store.end(job_id, record.ended("canceled", self._clock()))
        self._register.close(job_id)
        self._register.delivery.withdraw(job_id, model)

    def _get_or_none(self, job_id: str, owner: str | None) -> Job | None:
        """Return a job unless it is gone, or was stored in a form that this version cannot read."""
        try:
            return self.get(job_id, owner=owner)
        except (JobNotFound, ValidationError):
            return None

    def _ticket(self, job_id: str, owner: str | None) -> Ticket:
        ticket = self._store.ticket(job_id)
        if ticket is None or ticket.owner != owner:
            raise _not_found(job_id)
        return ticket

    def _under_way(self, ticket: Ticket, record: JobRecord) -> Job:
        """Return a job that has not ended."""
        if self._register.is_alive(record):
            return _describe(
                ticket,
                state="running",
                started_at=record.started_at,
                attempt=record.attempt,
                progress=record.progress,
            )
        return _describe(
            ticket,
            state="queued",
            attempt=record.attempt,
            queue_position=self._register.delivery.position(ticket.id, ticket.model),
            waiting_for="turn" if self._fleet.ready().get(ticket.model) else "worker",
        )

    def _succeeded(self, ticket: Ticket, result: ExplainResult) -> Job:
        """Return a job that has a result, from its files alone: Redis may have forgotten it."""
        return _describe(
            ticket,
            state="succeeded",
            started_at=result.started_at,
            ended_at=result.ended_at,
            attempt=result.attempt,
            result=JobResult(
                predictions=result.predictions,
                clips=result.clips,
                frames=result.frames,
                artifacts=tuple(self._artifacts(ticket.id, result)),
                timings_seconds=result.timings_seconds,
            ),
        )

    def _artifacts(self, job_id: str, result: ExplainResult) -> Iterator[JobArtifact]:
        """Yield what can be fetched: `result.json`, which cannot list itself, and the others."""
        own = self._store.artifact_path(job_id, RESULT_NAME)
        if own is None or self._store.has_expired(job_id):
            return
        for file in (describe(own), *result.artifacts):
            url = f"/v1/jobs/{job_id}/artifacts/{file.name}"
            yield JobArtifact(name=file.name, bytes=file.bytes, sha256=file.sha256, url=url)


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"there is no job {job_id}")


def _describe(ticket: Ticket, **changing: Any) -> Job:
    """Return a job; what is not said of it is null."""
    unsaid = Job.model_fields.keys() - {"id", "model", "created_at", "request"}
    return Job(
        id=ticket.id,
        model=ticket.model,
        created_at=ticket.created_at,
        request=ticket.request,
        **(dict.fromkeys(unsaid) | changing),
    )
