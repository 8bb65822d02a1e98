"""Jobs as the API handles them: stored, queued, looked up, listed, canceled, deleted.

What is fixed about a job, and how it ended, is in the store; what changes is in its `JobRecord` in
Redis. `Jobs._describe_now` is the one place where they become a job's public state.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from datetime import datetime, timedelta
from functools import cached_property
from hashlib import sha256
from heapq import merge
from itertools import groupby, islice
from pathlib import Path
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from rollout_core.contract import RESULT_NAME, Artifact, ExplainResult, JobOptions, Webhook
from rollout_core.errors import AttemptLost, JobEnded, NoWorker, UnknownFormat
from rollout_core.jobs.records import Ended, JobError, JobRecord, JobState, Submission, Ticket
from rollout_core.jobs.redis_records import redis_now
from rollout_core.jobs.schemas import (
    Delivery,
    Job,
    JobArtifact,
    JobPage,
    JobResult,
    ServedModel,
    WaitingFor,
)
from rollout_core.jobs.store import ArtifactStore
from rollout_core.model.specs import ModelSpec
from rollout_core.resolve import check_request, refuse_script
from service.age import AgeClock
from service.answers import Answers, answer_key
from service.delivery_store import DeliveryStore, webhook_id
from service.errors import (
    JobNotFound,
    NotCounted,
    QueueFull,
    QuotaExceeded,
    WebhookRefused,
)
from service.faults import Faults
from service.idempotency import Idempotency
from service.inventory import Inventory, StoredJob
from service.job_filters import JobFilter
from service.job_lists import CHUNK, OPEN, Place
from service.ledger import Entry, Ledger
from service.redis_jobs import Line, RedisJobs
from service.reservations import EntryOf, Reservation, Reservations
from service.stored_uploads import expired, not_found
from service.upload_store import Received, UploadRecord, UploadStore
from service.usage import Owner, Quotas
from service.workers import Workers

ABSENT_SECONDS = 3600.0
"""A model without workers for this long has none; before, its worker may be restarted."""

READY_SECONDS = 1.0
"""A check of readiness waits for this long for the first count of the store: most take less."""

SCAN_LIMIT = 2000
"""Jobs read for one page at most; a page whose filter matches few of them is short."""

FILTERED_SIZE = 100
"""Jobs read together, at least, if only those with a tag or a model are wanted."""

NEVER_CLAIMED = JobRecord().to_json().encode()
"""Record of a job that no attempt has claimed, and that was not canceled: it has not ended."""

Ending = ExplainResult | Ended

logger = logging.getLogger(__name__)

ArtifactUrl = Callable[[str, str], str]
"""Returns the URL of an artifact, given the job id and the artifact's name."""

CheckWebhook = Callable[[Webhook, Owner | None], None]
"""Raises `WebhookRefused` if an owner may not use a webhook."""


def refuse_webhooks(_webhook: Webhook, _owner: Owner | None) -> None:
    """Refuse every webhook: nothing delivers them."""
    raise WebhookRefused("webhooks are not delivered here")


class Jobs:
    """The jobs of one store and one Redis.

    A job belongs to the owner of the key that created it; other callers get `JobNotFound`. Without
    keys, all jobs belong to the owner None.
    """

    def __init__(
        self,
        redis: Redis,
        store: ArtifactStore,
        *,
        artifact_url: ArtifactUrl,
        inventory: Inventory | None = None,
        ledger: Ledger | None = None,
        result_ttl: float = 7 * 86400.0,
        max_bytes: int | None = None,
        max_queued: int = 1000,
        default_model: str | None = None,
        check_webhook: CheckWebhook = refuse_webhooks,
    ) -> None:
        """Use `redis`, which must not decode its answers: RQ needs bytes."""
        self._redis = redis
        self._store = store
        self.uploads = UploadStore(store)
        self.idempotency = Idempotency(redis, store)
        self._answers = Answers(store)
        self._result_time = timedelta(seconds=result_ttl)
        self._deliveries = DeliveryStore(store)
        self._check_webhook = check_webhook
        self._artifact_url = artifact_url
        self._inventory = inventory or Inventory(store)
        self._ledger = ledger or Ledger(redis)
        self._reservations = Reservations(self._ledger, store.root, max_bytes=max_bytes)
        self._max_queued = max_queued
        self._default_model = default_model
        self._age_clock = AgeClock(redis)
        self._workers = Workers(redis)
        self._redis_jobs = RedisJobs(redis)
        self._lists = self._redis_jobs.lists
        self._faults = Faults(logger, store)
        self._quotas = Quotas(
            self._redis_jobs, store, clock=lambda: redis_now(self._redis).timestamp()
        )

    def reserving(
        self,
        announced_bytes: int,
        *,
        owner: Owner | None = None,
        entry_of: EntryOf = Entry.of_upload,
        job_id: str | None = None,
    ) -> AbstractAsyncContextManager[Reservation]:
        """Reserve bytes for an upload; see `Reservations.reserving`."""
        return self._reservations.reserving(announced_bytes, owner, entry_of, job_id=job_id)

    def renew_reservations(self) -> None:
        """Renew the leases of the uploads in flight."""
        self._reservations.renew()

    def require_place(self, owner: Owner | None = None) -> None:
        """Check, before the request is known, that some model's queue has room for a job.

        Raises:
            QueueFull: the queues of all models have reached their limit.
            QuotaExceeded: the owner has reached the limit of open jobs.
        """
        waiting = {model: self._redis_jobs.waiting(model) for model in self._workers.names()}
        if waiting and min(waiting.values()) >= self._max_queued:
            seconds = min(self._workers.wait_seconds(*item) for item in waiting.items())
            raise QueueFull("the queues of all models are full", retry_after_seconds=seconds)
        if not self._quotas.has_place(owner):
            waits = [self._workers.wait_seconds(model, 1) for model in waiting]
            raise _quota_exceeded(min(waits, default=1))

    def submit(
        self,
        request: JobOptions,
        upload: UploadRecord,
        *,
        owner: Owner | None = None,
        reservation: Reservation | None = None,
        body_sha256: str | None = None,
    ) -> Job:
        """Store a new job for a complete upload, and queue it for its model.

        An equal job of the owner answers it at once, if the request allows that.

        Args:
            reservation: of the bytes, settled. Without one, the next count of the store has them.
            body_sha256: of what the client asked for, if it sent an Idempotency-Key.

        Raises:
            UploadNotFound, UploadExpired: the upload was deleted, or has expired.
            IdempotencyKeyReused: another body has just made the job with this key.
            WebhookRefused: the request's webhook may not be used.
            UnknownModel, ModelUnavailable, CheckpointsDiffer: see `Workers.choose`.
            InvalidRequest: the request does not fit the model.
            QueueFull: the model's queue has reached its limit.
            QuotaExceeded: the owner has reached the limit of open jobs.
        """
        if request.webhook:
            self._check_webhook(request.webhook, owner)
        spec = self._workers.choose(
            request.model, default=self._default_model, is_expected=self._has_open_jobs
        )
        check_request(request, spec)
        if request.fake is not None and not self._workers.runs_fake(spec.name):
            refuse_script(request)
        ticket = Ticket(
            id=reservation.id if reservation else uuid.uuid4().hex,
            request=request.explain_request.model_copy(update={"model": spec.name}),
            created_at=redis_now(self._redis),
            upload_bytes=self.uploads.received_bytes(upload.id),
            owner=owner.name if owner else None,
        )
        submission = Submission(
            upload=upload.id,
            upload_sha256=upload.sha256,
            filename=upload.filename,
            tag=request.tag,
            webhook=request.webhook,
            answer_key=self._answer_key(ticket, spec, upload),
            body_sha256=body_sha256,
        )
        try:
            may_reuse = request.reuse and request.fake is None
            if not (may_reuse and self._answer(ticket, submission, spec)):
                self._require_place(spec.name)
                self._reserve(ticket, owner)
                self._store_new(ticket, submission)
                self._redis_jobs.add(ticket)
        except FileExistsError:  # another call with the same Idempotency-Key was faster
            self._detach(ticket, submission)
            self.idempotency.require_same(ticket.id, body_sha256)
        except BaseException:
            self._undo(ticket, submission, owner)
            raise
        else:
            if submission.answer_key:
                self._answers.add(submission.answer_key, ticket.id)
        if reservation:
            reservation.keep()
        return self.get(ticket.id, owner=ticket.owner)

    @contextmanager
    def adding_upload(
        self,
        path: Path,
        video: Received,
        *,
        owner: str | None = None,
        filename: str | None = None,
    ) -> Iterator[UploadRecord]:
        """Store a video that has arrived with a job; remove it at the end if no job uses it."""
        record = UploadRecord(
            id=uuid.uuid4().hex,
            created_at=redis_now(self._redis),
            owner=owner,
            bytes=video.bytes,
            filename=filename,
            sha256=video.sha256,
            with_job=True,
        )
        self.uploads.add(record, path)
        try:
            yield record
        finally:
            if not self.uploads.jobs(record.id):
                self.uploads.delete(record)

    def _undo(self, ticket: Ticket, submission: Submission, owner: Owner | None) -> None:
        """Keep nothing of a job that could not be stored or queued."""
        stored = self._store.ticket(ticket.id)
        if stored is not None and stored.created_at != ticket.created_at:
            return  # another call with the same Idempotency-Key was faster: the job is that one's
        self._store.delete(ticket.id)
        self._deliveries.delete(ticket.id)
        self._detach(ticket, submission)
        with suppress(RedisError):  # then the reservation expires
            self._quotas.release(ticket.id, owner)

    def _answer(self, ticket: Ticket, submission: Submission, spec: ModelSpec) -> bool:
        """Store a job that has succeeded, with the result of an equal one; False: none can be used.

        The job never enters a queue.
        """
        key = submission.answer_key
        checkpoint = self._workers.checkpoint(spec.name)
        found = key and self._answers.find(key, owner=ticket.owner, checkpoint_sha256=checkpoint)
        if not found:
            return False
        try:
            origin = self._store.submission(found).reused_from or found
            answered = submission.model_copy(update={"reused_from": origin})
            self._store_new(ticket, answered, answer=found)
        except FileNotFoundError:  # the equal job has just been deleted, or has expired
            return False
        created = ticket.created_at
        stored = StoredJob(0, 0, "succeeded", owner=ticket.owner, created_at=created)
        with suppress(RedisError):  # then the `Reconciler` lists it
            self._lists.put({ticket.id: stored})
        return True

    def _store_new(
        self, ticket: Ticket, submission: Submission, *, answer: str | None = None
    ) -> None:
        """Store a new job for its upload.

        Raises:
            UploadNotFound, UploadExpired: the upload was deleted, or has expired.
            FileNotFoundError: the answer has been deleted.
            FileExistsError: there is a job with this id.
        """
        upload = cast(str, submission.upload)
        if submission.webhook and not self._store.exists(ticket.id):
            # Before the job exists, so that a crash does not lose it. A job that exists was made by
            # another call with the same Idempotency-Key, and keeps its own webhook.
            self._deliveries.expect(ticket.id, submission.webhook, ticket.owner)
        try:
            self.uploads.attach(upload, ticket.id)
            self._store.accept(ticket, self.uploads.path(upload), submission, answer=answer)
        except FileNotFoundError as error:
            if self.uploads.path(upload).exists():
                raise
            is_old = self.uploads.has_expired(upload)
            raise (expired if is_old else not_found)(upload) from error

    def _detach(self, ticket: Ticket, submission: Submission) -> None:
        """Note that an upload does not have a job, unless a job with this id was made from it."""
        upload = cast(str, submission.upload)
        if self._store.submission(ticket.id).upload != upload:
            self.uploads.detach(upload, ticket.id)

    def _answer_key(self, ticket: Ticket, spec: ModelSpec, upload: UploadRecord) -> str | None:
        if upload.sha256 is None:
            return None
        return answer_key(ticket.request, spec, upload_sha256=upload.sha256, owner=ticket.owner)

    def repeat(self, job_id: str, body_sha256: str | None, *, owner: str | None = None) -> Job:
        """Return the job that an Idempotency-Key has made, as it is now.

        Raises:
            IdempotencyKeyReused: it was made from another body.
            JobNotFound: it has just been deleted.
        """
        self.idempotency.require_same(job_id, body_sha256)
        return self.get(job_id, owner=owner)

    def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Return a job as it is now. A job that has ended is read without Redis.

        Raises:
            JobNotFound: there is no such job, or it has another owner.
        """
        ticket = self._ticket(job_id, owner)
        ending = self._store.ending(job_id)
        snapshot = self._snapshot()
        if ending is None:
            snapshot.read_records([job_id])
        return self._describe_now(ticket, ending, snapshot)

    def refresh(self, jobs: Iterable[Job]) -> dict[str, Job | None]:
        """Return jobs as they are now, given as they were; None for a job that is gone.

        Reads the store only for jobs that have no record in Redis.
        """
        before = {job.id: job for job in jobs}
        snapshot = self._snapshot()
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

    def page(
        self,
        *,
        state: JobState | None = None,
        tag: str | None = None,
        model: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        owner: str | None = None,
    ) -> JobPage:
        """Return up to `limit` of the owner's jobs, newest first, from `cursor` on.

        Args:
            state, tag, model: only jobs that have all of these.

        Raises:
            InvalidRequest: the cursor is not valid.
        """
        last = Place.parse(cursor) if cursor else None
        if state is None:
            places, size = self._lists.newest_first(owner, last), limit
        elif self._lists.disagree([owner]):  # until the `Reconciler` has corrected them
            places, size = self._lists.newest_first(owner, last), CHUNK
        else:
            places, size = self._candidates(state, owner, last), limit
        wanted = JobFilter(state, tag, model)
        if tag or model:  # they may be rare: few calls of Redis for `SCAN_LIMIT` jobs
            size = max(size, FILTERED_SIZE)
        jobs, last, more = self._select(places, size, wanted, owner, limit)
        return JobPage(jobs=jobs, next_cursor=str(last) if more else None)

    def cancel(self, job_id: str, *, owner: str | None = None) -> Job:
        """Cancel a waiting job at once; ask the attempt that runs it to stop.

        Raises:
            JobNotFound: there is no such job, or it has another owner.
            JobEnded: it has succeeded or failed, or was canceled before.
        """
        job = self.get(job_id, owner=owner)
        if job.ended_at is not None:
            raise JobEnded(f"the job is {job.state} already")
        record = self._redis_jobs.request_cancel(job_id)
        now = redis_now(self._redis)
        if not record.is_alive(now):
            self._end_waiting(job_id, job.model, record.ended("canceled", now))
        return self.get(job_id, owner=owner)

    def delete(self, job_id: str, *, owner: str | None = None) -> None:
        """Remove every byte of a job. An attempt that runs it finds the job gone, and stops.

        Raises:
            JobNotFound: there is no such job, or it has another owner.
        """
        self._remove(self._ticket(job_id, owner))

    def deliveries(self, job_id: str, *, owner: str | None = None) -> tuple[Delivery, ...]:
        """Return the events for a job's webhook; none if it has no webhook or has not ended.

        Raises:
            JobNotFound: there is no such job, or it has another owner.
        """
        job = self.get(job_id, owner=owner)
        stored = self._deliveries.get(job_id)
        event = f"job.{job.state}"
        if stored is None or event not in stored.webhook.events:
            return ()
        delivery = Delivery.model_validate(
            {
                "webhook_id": webhook_id(job_id, event),
                "event": event,
                "url": stored.webhook.url,
                "state": stored.state,
                "attempts": stored.attempts,
                "next_attempt_at": stored.next_attempt_at,
            }
        )
        return (delivery,)

    def remove_orphaned_deliveries(self) -> None:
        """Remove what crashes have left of the webhooks of jobs that do not exist."""
        self._deliveries.remove_orphans()

    def age_now(self) -> datetime:
        """Return the time by which jobs grow old; see `AgeClock`."""
        return self._age_clock.now()

    def expire(self, job_id: str, limit: datetime, absent_seconds: float) -> None:
        """Remove the files of a job that was accepted before `limit`, if it has ended.

        End it as failed if it waits for a worker and its model has had none for `absent_seconds`,
        or for `ABSENT_SECONDS` if that is less.
        """
        if not self._store.has_files(job_id) or not self._is_older(job_id, limit):
            return
        if not self._store.has_ended(job_id):
            self._end_unserved(job_id, min(absent_seconds, ABSENT_SECONDS))
        if self._store.has_ended(job_id):
            with self._inventory.giving_back(self._ledger, jobs=[job_id]):
                self._store.expire(job_id)

    def forget(self, job_id: str, limit: datetime) -> None:
        """Remove the rest of an expired job: its ticket, its ending, its place in the list."""
        ticket = self._store.ticket(job_id) if self._store.has_expired(job_id) else None
        if ticket is not None and ticket.created_at < limit:
            self._remove(ticket)

    def models(self) -> tuple[ServedModel, ...]:
        """Return the models that live workers serve now."""
        return self._workers.served()

    def check_redis_writable(self) -> None:
        """Write to Redis: as a replica, without memory or with a full disk it answers, but refuses.

        Raises:
            RedisError: Redis does not answer, or refuses.
        """
        self._redis_jobs.check_writable()

    def ready_workers(self) -> dict[str, int]:
        """Return how many workers are ready for each known model."""
        return self._workers.ready()

    def require_count(self) -> None:
        """Check that this process has counted the store, so that it can accept uploads.

        Raises:
            NotCounted: it has not, and does not within `READY_SECONDS`.
        """
        if not self._ledger.wait_for_count(READY_SECONDS):
            raise NotCounted("the service counts what it stores; try again")

    def wait_seconds(self, job: Job) -> int:
        """Return the seconds after which a client should ask for a job again."""
        return self._workers.wait_seconds(job.model, job.queue_position or 1)

    def forget_stale_workers(self) -> None:
        """Remove the announcements of workers that ended long ago."""
        self._workers.forget_stale()

    def _is_older(self, job_id: str, limit: datetime) -> bool:
        """Return whether a job was accepted before `limit`, by Redis' clock."""
        try:
            ticket = self._store.ticket(job_id)
        except UnknownFormat:
            return True  # the clock of the disk said so
        return ticket is not None and ticket.created_at < limit

    def _end_unserved(self, job_id: str, absent_seconds: float) -> None:
        """End a job that waits for a model without workers for `absent_seconds`."""
        ticket = self._store.ticket(job_id)
        if ticket is None or not self._workers.are_absent(ticket.model, absent_seconds):
            return
        text = self._redis_jobs.records.get_many_raw([job_id])[job_id]
        record = JobRecord() if text is None else JobRecord.from_json(text)
        now = redis_now(self._redis)
        if not record.is_alive(now):
            reason = NoWorker(f"no worker has served {ticket.model!r}, and the job is too old now")
            error = JobError(code=reason.code, title=reason.title, detail=str(reason))
            self._end_waiting(job_id, ticket.model, record.ended("failed", now, error))

    def _has_open_jobs(self, model: str) -> bool:
        return any(ticket.model == model for ticket in self._inventory.open.values())

    def _require_place(self, model: str) -> None:
        waiting = self._redis_jobs.waiting(model)
        if waiting >= self._max_queued:
            raise QueueFull(
                f"{waiting} jobs wait for {model}",
                retry_after_seconds=self._workers.wait_seconds(model, waiting),
            )

    def _reserve(self, ticket: Ticket, owner: Owner | None) -> None:
        if not self._quotas.reserve(ticket.id, owner):
            raise _quota_exceeded(self._workers.wait_seconds(ticket.model, 1))

    def _remove(self, ticket: Ticket) -> None:
        submission = self._store.submission(ticket.id)
        upload = submission.upload
        uploads = [upload] if upload else []
        with self._inventory.giving_back(self._ledger, jobs=[ticket.id], uploads=uploads):
            self._store.delete(ticket.id)
            self._deliveries.delete(ticket.id)
            if upload:
                self.uploads.detach(upload, ticket.id)
        if submission.answer_key:
            self._answers.remove(submission.answer_key, ticket.id)
        with suppress(RedisError):  # the `Reconciler` removes what is left in Redis
            self._redis_jobs.remove(ticket.id, ticket.owner)
            self._redis_jobs.dequeue(ticket.id, ticket.model)

    def _end_waiting(self, job_id: str, model: str, ended: Ended) -> None:
        """End a job that no attempt runs. One whose lease has expired may still end it first."""
        self._store.end_attempts(job_id)
        with suppress(AttemptLost):
            self._store.end(job_id, ended)
        self._redis_jobs.records.delete(job_id)
        self._redis_jobs.dequeue(job_id, model)

    def _candidates(
        self, state: JobState, owner: str | None, after: Place | None
    ) -> Iterator[Place]:
        """Yield the places of all jobs that can be in `state`, newest first, and of few others.

        Jobs that are not known to have ended are read before those that are: a job that ends
        meanwhile is in one of the two.
        """
        if state == "queued":
            return self._lists.newest_first(owner, after, state=OPEN)
        places = self._lists.not_ended(owner, after)
        records = self._redis_jobs.records.get_many_raw(place.job_id for place in places)
        begun = [place for place in places if records[place.job_id] != NEVER_CLAIMED]
        if state == "running":
            return iter(begun)
        ended = self._lists.newest_first(owner, after, state=state)
        return _without_repeats(merge(begun, ended, reverse=True))

    def _select(
        self,
        places: Iterator[Place],
        size: int,
        wanted: JobFilter,
        owner: str | None,
        limit: int,
    ) -> tuple[tuple[Job, ...], Place | None, bool]:
        """Return the first `limit` jobs wanted, the last place read, and whether more follow.

        Args:
            size: places whose jobs are read together.
        """
        jobs: list[Job] = []
        last = None
        snapshot = self._snapshot()
        for batch in _batches(islice(places, SCAN_LIMIT), size):
            found = self._describe_each(batch, owner, snapshot)
            for index, last in enumerate(batch, start=1):
                job = found.get(last.job_id)
                if job and wanted.accepts(job):
                    jobs.append(job)
                if len(jobs) == limit:
                    return tuple(jobs), last, index < len(batch) or any(True for _ in places)
        return tuple(jobs), last, any(True for _ in places)

    def _describe_each(
        self, places: Sequence[Place], owner: str | None, snapshot: "_Snapshot"
    ) -> dict[str, Job]:
        """Return the jobs at these places by id.

        Omits jobs that were deleted, and those stored in a form that this version cannot read.
        """
        stored: dict[str, tuple[Ticket, Ending | None]] = {}
        for place in places:
            with (
                self._faults.isolated(place.job_id, "cannot be listed"),
                suppress(JobNotFound, UnknownFormat),
            ):
                ticket = self._ticket(place.job_id, owner)
                stored[ticket.id] = ticket, self._store.ending(ticket.id)
        snapshot.read_records([job_id for job_id, (_, ending) in stored.items() if not ending])
        jobs = {}
        for job_id, (ticket, ending) in stored.items():
            with suppress(UnknownFormat):
                jobs[job_id] = self._describe_now(ticket, ending, snapshot)
        return jobs

    def _describe_now(self, ticket: Ticket, ending: Ending | None, snapshot: "_Snapshot") -> Job:
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

    def _snapshot(self) -> "_Snapshot":
        return _Snapshot(self._redis, self._redis_jobs, self._workers)

    def _ticket(self, job_id: str, owner: str | None) -> Ticket:
        ticket = self._store.ticket(job_id)
        if ticket is None or ticket.owner != owner:
            raise _not_found(job_id)
        return ticket

    def _fixed(self, ticket: Ticket) -> dict[str, Any]:
        """Return the fields of a job that do not depend on its state."""
        submission = self._store.submission(ticket.id)
        upload = submission.upload
        has_upload = upload is not None and self.uploads.path(upload).exists()
        has_expired = self._store.has_expired(ticket.id)
        return {
            "id": ticket.id,
            "model": ticket.model,
            "created_at": ticket.created_at,
            "request": ticket.request,
            "tag": submission.tag,
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
        own = self._store.artifact_path(job_id, RESULT_NAME)
        if own is None or self._store.has_expired(job_id):
            return
        content = own.read_bytes()
        itself = Artifact(name=RESULT_NAME, bytes=len(content), sha256=sha256(content).hexdigest())
        for file in (itself, *result.artifacts):
            url = self._artifact_url(job_id, file.name)
            yield JobArtifact(name=file.name, bytes=file.bytes, sha256=file.sha256, url=url)


class _Snapshot:
    """What Redis says about the jobs of one call: each fact is read once, when it is needed."""

    def __init__(self, redis: Redis, redis_jobs: RedisJobs, workers: Workers) -> None:
        self._redis = redis
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
            self._now = redis_now(self._redis)
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


def _without_repeats(places: Iterable[Place]) -> Iterator[Place]:
    return (place for place, _ in groupby(places))


def _batches(places: Iterator[Place], size: int) -> Iterator[list[Place]]:
    while batch := list(islice(places, size)):
        yield batch


def _changing(job: Ticket | Job, record: JobRecord, snapshot: _Snapshot) -> dict[str, Any]:
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


def _quota_exceeded(retry_after_seconds: int) -> QuotaExceeded:
    return QuotaExceeded(
        "you have reached your limit of jobs that have not ended",
        retry_after_seconds=retry_after_seconds,
    )


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"there is no job {job_id}")


def _describe(fixed: dict[str, Any], **changing: Any) -> Job:
    """Return a job; fields that are not given are null."""
    return Job(**(dict.fromkeys(Job.model_fields) | fixed | changing))
