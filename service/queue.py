"""Jobs as the API handles them: stored, queued, looked up, listed, canceled, deleted.

What is fixed about a job lies in the store, what changes lies in its `JobRecord` in Redis.
`JobQueue.get` is the one place where they become a job's public state.
"""

import logging
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import cast

from pydantic import ValidationError
from redis import Redis
from redis.client import Pipeline

from rollout_core.contract import (
    RESULT_NAME,
    ExplainRequest,
    ExplainResult,
    Ticket,
    job_key,
)
from rollout_core.errors import JobEnded, StoreUnavailable
from rollout_core.lifecycle import JobRecord, JobState
from rollout_core.requests import check_request
from rollout_core.storage import ArtifactStore, describe
from service.delivery import Delivery
from service.errors import JobNotFound, QueueFull
from service.fleet import Fleet
from service.listing import JobList, Place
from service.views import Job, JobArtifact, JobPage, JobResult, ServedModel

logger = logging.getLogger(__name__)

SCAN_LIMIT = 2000
"""Jobs looked at for one page; a page whose filter matches few of them is short."""


def utc_now() -> datetime:
    """Return the present time, as every message has it."""
    return datetime.now(UTC)


class JobQueue:
    """The jobs of one store and one Redis."""

    def __init__(
        self,
        redis: Redis,
        store: ArtifactStore,
        *,
        max_queued: int = 1000,
        default_model: str | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Use `redis`, which must not decode its answers: RQ wants bytes."""
        self._redis = redis
        self._store = store
        self._max_queued = max_queued
        self._default_model = default_model
        self._clock = clock
        self._fleet = Fleet(redis, clock=clock)
        self._list = JobList(redis)
        self._delivery = Delivery(redis)

    def submit(self, request: ExplainRequest, upload: Path) -> Job:
        """Store a received upload as a new job, and queue it for its model.

        Raises:
            UnknownModel: see `Fleet.choose`.
            InvalidRequest: the model cannot do what is asked.
            QueueFull: as many jobs wait as may wait.
            StoreUnavailable: the job's folder could not be made.
        """
        spec = self._fleet.choose(request.model, default=self._default_model)
        check_request(request, spec)
        self._require_room(spec.name)
        ticket = Ticket(
            id=uuid.uuid4().hex,
            request=request.model_copy(update={"model": spec.name}),
            created_at=self._clock(),
            upload_bytes=upload.stat().st_size,
        )
        try:
            self._store.accept(ticket, upload)
        except OSError as error:
            raise StoreUnavailable("the upload cannot be stored") from error
        try:
            self._enqueue(ticket)
        except BaseException:
            self._store.delete(ticket.id)
            raise
        return self.get(ticket.id)

    def get(self, job_id: str) -> Job:
        """Return a job as it stands now: the one place that decides its public state.

        Raises:
            JobNotFound: there is none, or it is gone.
        """
        ticket = self._ticket(job_id)
        record = self._record(job_id)
        # Read after the record: a job that was published in between has succeeded.
        result = self._store.result(job_id)
        if result is not None:
            return self._succeeded(ticket, result)
        if record is None:
            raise _not_found(job_id)
        state = record.state_at(self._clock(), has_result=False)
        waiting = state == "queued"
        return Job(
            id=job_id,
            state=state,
            model=_model(ticket),
            created_at=ticket.created_at,
            started_at=None if waiting else record.started_at,
            ended_at=record.ended_at,
            attempt=record.attempt,
            queue_position=self._delivery.position(job_id, _model(ticket)) if waiting else None,
            progress=None if waiting else record.progress,
            request=ticket.request,
            result=None,
            error=record.error,
        )

    def page(
        self, *, state: JobState | None = None, limit: int = 50, cursor: str | None = None
    ) -> JobPage:
        """Return up to `limit` jobs in `state`, newest first, from where `cursor` points on.

        Raises:
            InvalidRequest: the cursor is not one of ours.
        """
        jobs: list[Job] = []
        last = Place.parse(cursor) if cursor else None
        places = self._list.newest_first(after=last)
        for last in islice(places, SCAN_LIMIT):
            job = self._get_or_none(last.job_id)
            if job and state in (None, job.state):
                jobs.append(job)
            if len(jobs) == limit:
                break
        more = next(places, None) is not None
        return JobPage(jobs=tuple(jobs), next_cursor=str(last) if more else None)

    def cancel(self, job_id: str) -> Job:
        """Cancel a waiting job at once; ask the attempt that runs it to stop.

        Raises:
            JobNotFound: there is none.
            JobEnded: it has succeeded or failed, or was canceled before.
        """
        job = self.get(job_id)
        if job.state == "succeeded":
            raise JobEnded("the job has succeeded")
        if self._request_cancel(job_id).ended:
            self._delivery.withdraw(job_id, job.model)
            self._store.end_attempts(job_id)
        return self.get(job_id)

    def delete(self, job_id: str) -> None:
        """Remove every byte kept for a job. An attempt that runs it finds it gone, and stops.

        Raises:
            JobNotFound: there is none.
        """
        ticket = self._ticket(job_id)
        # The folder goes last: until then a deletion that broke off can be repeated.
        with self._redis.pipeline() as pipe:
            pipe.delete(job_key(job_id))
            self._list.remove(job_id, pipe)
            pipe.execute()
        self._delivery.withdraw(job_id, _model(ticket))
        self._store.delete(job_id)

    def expire(self, job_id: str) -> None:
        """Remove an old job's files if it has ended, and all of it if Redis has forgotten it."""
        try:
            if self.get(job_id).ended_at is not None:
                self._store.expire(job_id)
        except JobNotFound:
            self._store.delete(job_id)
        except ValidationError:
            logger.warning("Job %s is not in a form that this version can read", job_id)

    def models(self) -> tuple[ServedModel, ...]:
        """Return the models that live workers serve now."""
        return self._fleet.served()

    def wait_seconds(self, job: Job) -> int:
        """Return after how long it is worth asking for a job again."""
        return self._fleet.wait_seconds(job.model, job.queue_position or 1)

    def forget_stale_workers(self) -> None:
        """Remove what workers long gone have announced."""
        self._fleet.forget_stale()

    def _require_room(self, model: str) -> None:
        waiting = self._delivery.waiting(model)
        if waiting >= self._max_queued:
            raise QueueFull(
                f"{waiting} jobs wait for {model}",
                retry_after_seconds=self._fleet.wait_seconds(model, waiting),
            )

    def _enqueue(self, ticket: Ticket) -> None:
        """Make the job known to Redis, all at once: its record, its place, its delivery."""
        with self._redis.pipeline() as pipe:
            self._delivery.add(ticket.id, _model(ticket), pipe)
            pipe.set(job_key(ticket.id), JobRecord().model_dump_json())
            self._list.add(ticket, pipe)
            pipe.execute()

    def _request_cancel(self, job_id: str) -> JobRecord:
        """Take the step in an optimistic transaction, as every step of a record is taken."""

        def step(pipe: Pipeline) -> JobRecord:
            text = pipe.get(job_key(job_id))
            if text is None:
                raise _not_found(job_id)
            record = _parse(text).request_cancel(self._clock())
            pipe.multi()
            pipe.set(job_key(job_id), record.model_dump_json())
            return record

        return cast(
            JobRecord,
            self._redis.transaction(step, job_key(job_id), value_from_callable=True),  # type: ignore[arg-type]
        )

    def _get_or_none(self, job_id: str) -> Job | None:
        """Return a job unless it is gone, or was stored in a form that this version cannot read."""
        try:
            return self.get(job_id)
        except (JobNotFound, ValidationError):
            return None

    def _ticket(self, job_id: str) -> Ticket:
        ticket = self._store.ticket(job_id)
        if ticket is None:
            raise _not_found(job_id)
        return ticket

    def _record(self, job_id: str) -> JobRecord | None:
        text = self._redis.get(job_key(job_id))
        return None if text is None else _parse(text)

    def _succeeded(self, ticket: Ticket, result: ExplainResult) -> Job:
        """Return a job that has a result, from its files alone: Redis may have forgotten it."""
        return Job(
            id=ticket.id,
            state="succeeded",
            model=_model(ticket),
            created_at=ticket.created_at,
            started_at=result.started_at,
            ended_at=result.ended_at,
            attempt=result.attempt,
            queue_position=None,
            progress=None,
            request=ticket.request,
            result=JobResult(
                predictions=result.predictions,
                clips=result.clips,
                frames=result.frames,
                artifacts=tuple(self._artifacts(ticket.id, result)),
                timings_seconds=result.timings_seconds,
            ),
            error=None,
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


def _model(ticket: Ticket) -> str:
    """Return the model, which was filled in when the job was accepted."""
    return cast(str, ticket.request.model)


def _parse(text: object) -> JobRecord:
    return JobRecord.model_validate_json(cast(bytes, text))
