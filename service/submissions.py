"""Submits jobs: from a complete upload and a request to a stored and queued job.

A job that equals one of the owner's that has succeeded is answered at once instead: it gets links
to that result, and never enters a queue.
"""

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from rollout_core import logs, tracing
from rollout_core.contract import JobOptions, Webhook
from rollout_core.jobs.records import Origin, Submission, Ticket
from rollout_core.jobs.store import ArtifactStore
from rollout_core.model.specs import ModelSpec
from rollout_core.resolve import check_request, refuse_script
from rollout_core.work import DEFAULT_ARRAY_BYTES, check_array_bytes, work_of
from service.answers import Answers, answer_key
from service.delivery_store import DeliveryStore
from service.errors import QueueFull, QuotaExceeded, WebhookRefused
from service.idempotency import Idempotency
from service.inventory import Inventory, StoredJob
from service.redis_jobs import RedisJobs
from service.stored_uploads import expired, not_found
from service.upload_store import Received, UploadRecord
from service.uploads_of import uploads_of
from service.usage import Owner, Quotas
from service.workers import Workers

OWNER_SHARE = 9
"""An owner's waiting jobs may be this many times the free places of a queue: 90 % of an empty one.

So one owner cannot fill a queue, and each further one finds room.
"""

logger = logging.getLogger(__name__)

CheckWebhook = Callable[[Webhook, Owner | None], None]
"""Raises `WebhookRefused` if an owner may not use a webhook."""


def refuse_webhooks(_webhook: Webhook, _owner: Owner | None) -> None:
    """Refuse every webhook: nothing delivers them."""
    raise WebhookRefused("webhooks are not delivered here")


@dataclass(frozen=True)
class Rules:
    """What the operator allows.

    Attributes:
        max_queued: jobs that may wait for one model.
        max_array_bytes: of a result, before compression.
        default_model: for requests that name none.
    """

    max_queued: int = 1000
    max_array_bytes: int = DEFAULT_ARRAY_BYTES
    default_model: str | None = None
    check_webhook: CheckWebhook = refuse_webhooks


@dataclass(frozen=True)
class _NewJob:
    """A job that is about to be stored.

    Attributes:
        may_reuse: an equal job may answer it.
    """

    ticket: Ticket
    submission: Submission
    spec: ModelSpec
    owner: Owner | None
    may_reuse: bool

    @property
    def id(self) -> str:
        return self.ticket.id

    @property
    def upload(self) -> str:
        """Id of its upload, which the submission of a new job always has."""
        return cast(str, self.submission.upload)


class Submissions:
    """Submits jobs to one store and one Redis."""

    def __init__(
        self,
        redis: Redis,
        store: ArtifactStore,
        redis_jobs: RedisJobs,
        workers: Workers,
        inventory: Inventory,
        rules: Rules,
    ) -> None:
        """Submit within `rules`. `inventory`: knows for which models jobs wait."""
        self._store = store
        self._redis_jobs = redis_jobs
        self._workers = workers
        self._inventory = inventory
        self._rules = rules
        self._uploads = uploads_of(store)
        self._deliveries = DeliveryStore(store)
        self._answers = Answers(store)
        self._idempotency = Idempotency(redis, store)
        self._quotas = Quotas(redis_jobs, store, clock=lambda: redis_jobs.now().timestamp())

    def require_place(self, owner: Owner | None = None) -> None:
        """Check, before the request is known, that some model's queue has room for a job.

        Raises:
            QueueFull: the queues of all models have reached their limit.
            QuotaExceeded: the owner has reached the limit of open jobs.
        """
        waiting = {model: self._redis_jobs.waiting(model) for model in self._workers.names()}
        if waiting and min(waiting.values()) >= self._rules.max_queued:
            seconds = min(self._workers.wait_seconds(*item) for item in waiting.items())
            raise QueueFull("the queues of all models are full", retry_after_seconds=seconds)
        if not self._quotas.has_place(owner):
            waits = [self._workers.wait_seconds(model, 1) for model in waiting]
            raise _quota_exceeded(min(waits, default=1))

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
            created_at=self._redis_jobs.now(),
            owner=owner,
            bytes=video.bytes,
            filename=filename,
            sha256=video.sha256,
            with_job=True,
        )
        self._uploads.add(record, path)
        try:
            yield record
        finally:
            if not self._uploads.jobs(record.id):
                self._uploads.delete(record)

    def submit(
        self,
        request: JobOptions,
        upload: UploadRecord,
        *,
        owner: Owner | None = None,
        job_id: str | None = None,
        body_sha256: str | None = None,
    ) -> Ticket:
        """Store a new job for a complete upload, and queue it for its model; return its ticket.

        An equal job of the owner answers it at once, if the request allows that.

        Args:
            job_id: id of the job, if it is known already.
            body_sha256: of what the client asked for, if it sent an Idempotency-Key.

        Raises:
            UploadNotFound, UploadExpired: the upload was deleted, or has expired.
            IdempotencyKeyReused: another body has just made the job with this key.
            WebhookRefused: the request's webhook may not be used.
            UnknownModel, ModelUnavailable, CheckpointsDiffer: see `Workers.choose`.
            InvalidRequest: the request does not fit the model.
            TooMuchWork: the arrays of one clip are too large.
            QueueFull: the model's queue has reached its limit.
            QuotaExceeded: the owner has reached the limit of open jobs.
        """
        if request.webhook:
            self._rules.check_webhook(request.webhook, owner)
        spec = self._choose_model(request)
        new = self._describe(request, upload, spec, owner, job_id or uuid.uuid4().hex, body_sha256)
        try:
            if not (new.may_reuse and self._answer(new)):
                self._queue(new)
        except FileExistsError:  # another call with the same Idempotency-Key was faster
            self._detach(new)
            self._idempotency.require_same(new.id, body_sha256)
        except BaseException:
            self._undo(new)
            raise
        else:
            if new.submission.answer_key:
                self._answers.add(new.submission.answer_key, new.id)
        return new.ticket

    def _choose_model(self, request: JobOptions) -> ModelSpec:
        """Return what the model of a request expects, which the request fits."""
        default = self._rules.default_model
        spec = self._workers.choose(request.model, default=default, is_expected=self._has_open_jobs)
        check_request(request, spec)
        check_array_bytes(work_of(request, spec, clips=1), self._rules.max_array_bytes)
        if request.fake is not None and not self._workers.runs_fake(spec.name):
            refuse_script(request)
        return spec

    def _has_open_jobs(self, model: str) -> bool:
        return any(ticket.model == model for ticket in self._inventory.open.values())

    def _describe(
        self,
        request: JobOptions,
        upload: UploadRecord,
        spec: ModelSpec,
        owner: Owner | None,
        job_id: str,
        body_sha256: str | None,
    ) -> _NewJob:
        ticket = Ticket(
            id=job_id,
            request=request.explain_request.model_copy(update={"model": spec.name}),
            created_at=self._redis_jobs.now(),
            upload_bytes=self._uploads.received_bytes(upload.id),
            owner=owner.name if owner else None,
        )
        submission = Submission(
            upload=upload.id,
            upload_sha256=upload.sha256,
            filename=upload.filename,
            tag=request.tag,
            webhook=request.webhook,
            answer_key=_answer_key(ticket, spec, upload),
            body_sha256=body_sha256,
            priority=request.priority,
        )
        may_reuse = request.reuse and request.fake is None
        return _NewJob(ticket, submission, spec, owner, may_reuse)

    def _answer(self, new: _NewJob) -> bool:
        """Store a job that has succeeded, with the result of an equal one; False: none can be used.

        The job never enters a queue.
        """
        ticket, key = new.ticket, new.submission.answer_key
        if not key:
            return False
        checkpoint = self._workers.checkpoint(new.spec.name)
        found = self._answers.find(key, owner=ticket.owner, checkpoint_sha256=checkpoint)
        if not found:
            return False
        try:
            origin = self._store.submission(found).reused_from or found
            answered = new.submission.model_copy(update={"reused_from": origin})
            self._keep(new, answered, answer=found)
        except FileNotFoundError:  # the equal job has just been deleted, or has expired
            return False
        with logs.task_about(job_id=ticket.id):
            logger.info("answered by job %s, which equals it", found)
        created = ticket.created_at
        stored = StoredJob(0, 0, "succeeded", owner=ticket.owner, created_at=created)
        with suppress(RedisError):  # then the `Reconciler` lists it
            self._redis_jobs.lists.put({ticket.id: stored})
        return True

    def _queue(self, new: _NewJob) -> None:
        """Store a job, and queue it for its model."""
        model = new.spec.name
        waiting = self._redis_jobs.waiting(model)
        if waiting >= self._rules.max_queued:
            seconds = self._workers.wait_seconds(model, waiting)
            raise QueueFull(f"{waiting} jobs wait for {model}", retry_after_seconds=seconds)
        self._require_share(model, new.ticket.owner, self._rules.max_queued - waiting)
        if not self._quotas.reserve(new.id, new.owner):
            raise _quota_exceeded(self._workers.wait_seconds(model, 1))
        self._keep(new, new.submission)
        self._redis_jobs.add(new.ticket, priority=new.submission.priority)
        with logs.task_about(job_id=new.id):
            logger.info("accepted for %s", model, extra={"fields": {"model": model}})

    def _require_share(self, model: str, owner: str | None, places: int) -> None:
        """Check that an owner's jobs leave room for others in a queue with `places` left.

        Raises:
            QueueFull: they do not.
        """
        if owner is None or self._redis_jobs.waiting(model) <= OWNER_SHARE * places:
            return
        own = self._redis_jobs.waiting_of(owner, model)
        if own > OWNER_SHARE * places:
            seconds = self._workers.wait_seconds(model, own)
            detail = f"{own} of your jobs wait for {model}; the last {places} places are for others"
            raise QueueFull(detail, retry_after_seconds=seconds)

    def _keep(self, new: _NewJob, submission: Submission, *, answer: str | None = None) -> None:
        """Store a job for its upload.

        Raises:
            UploadNotFound, UploadExpired: the upload was deleted, or has expired.
            FileNotFoundError: the answer has been deleted.
            FileExistsError: there is a job with this id.
        """
        if submission.webhook:  # before the job exists, so that a crash does not lose it
            self._deliveries.expect(new.id)
        try:
            self._uploads.attach(new.upload, new.id)
            self._store.accept(
                new.ticket,
                self._uploads.location(new.upload),
                submission,
                answer=answer,
                origin=_present_origin(),
            )
        except FileNotFoundError as error:
            if self._uploads.has_bytes(new.upload):
                raise
            is_old = self._uploads.has_expired(new.upload)
            raise (expired if is_old else not_found)(new.upload) from error

    def _detach(self, new: _NewJob) -> None:
        """Note that an upload does not have a job, unless a job with this id was made from it."""
        if self._store.submission(new.id).upload != new.upload:
            self._uploads.detach(new.upload, new.id)

    def _undo(self, new: _NewJob) -> None:
        """Keep nothing of a job that could not be stored or queued.

        Another call with the same Idempotency-Key may have made a job with this id, or be about to:
        that one keeps all that it has.
        """
        stored = self._store.ticket(new.id)
        if stored is not None:
            if stored.created_at != new.ticket.created_at:
                return
            self._store.delete(new.id)
            self._deliveries.delete(new.id)
        self._detach(new)
        with suppress(RedisError):  # then the reservation expires
            self._quotas.release(new.id, new.owner)


def _answer_key(ticket: Ticket, spec: ModelSpec, upload: UploadRecord) -> str | None:
    if upload.sha256 is None:
        return None
    return answer_key(ticket.request, spec, upload_sha256=upload.sha256, owner=ticket.owner)


def _present_origin() -> Origin:
    """Return the request that is handled now, as far as it is known."""
    return Origin(request_id=logs.present().request_id, traceparent=tracing.traceparent())


def _quota_exceeded(retry_after_seconds: int) -> QuotaExceeded:
    return QuotaExceeded(
        "you have reached your limit of jobs that have not ended",
        retry_after_seconds=retry_after_seconds,
    )
