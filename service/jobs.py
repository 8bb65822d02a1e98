"""Jobs as the API handles them: submitted, looked up, listed, canceled, deleted.

How a job is submitted is in `service.submissions`, its public state in `service.job_states`, and
the pages of the list in `service.job_pages`.
"""

import math
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime

from redis import Redis
from redis.exceptions import RedisError

from rollout_core.contract import JobOptions
from rollout_core.errors import AttemptLost, JobEnded, NoWorker, UnknownFormat
from rollout_core.jobs.records import Ended, JobError, JobRecord, JobState, Ticket
from rollout_core.jobs.schemas import Job, JobPage, ServedModel
from rollout_core.jobs.store import ArtifactStore
from service.age import AgeClock
from service.answers import Answers
from service.delivery_store import DeliveryStore
from service.errors import NotCounted
from service.idempotency import Idempotency
from service.inventory import Inventory
from service.job_filters import JobFilter
from service.job_pages import JobPages
from service.job_states import ArtifactUrl, JobStates
from service.ledger import Entry, Ledger
from service.redis_jobs import RedisJobs
from service.reservations import EntryOf, Reservation, Reservations
from service.submissions import Rules, Submissions
from service.upload_store import UploadRecord
from service.uploads_of import uploads_of
from service.usage import Owner
from service.workers import Workers

ABSENT_SECONDS = 3600.0
"""A model without workers for this long has none; before, its worker may be restarted."""

READY_SECONDS = 1.0
"""A check of readiness waits for this long for the first count of the store: most take less."""


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
        rules: Rules | None = None,
    ) -> None:
        """Use `redis`, which must not decode its answers: RQ needs bytes."""
        self._redis_jobs = RedisJobs(redis)
        self._store = store
        self.uploads = uploads_of(store)
        self.idempotency = Idempotency(redis, store)
        self._answers = Answers(store)
        self.deliveries = DeliveryStore(store)
        self._inventory = inventory or Inventory(store)
        self._ledger = ledger or Ledger(redis)
        self._reservations = Reservations(
            self._ledger, store.root, max_bytes=max_bytes, is_whole_store=store.is_on_disk
        )
        self._age_clock = AgeClock(redis)
        self._workers = Workers(redis)
        self._states = JobStates(
            self._redis_jobs,
            store,
            self._workers,
            artifact_url=artifact_url,
            result_ttl=result_ttl,
        )
        self._pages = JobPages(self._redis_jobs, self._states)
        self.submissions = Submissions(
            redis, store, self._redis_jobs, self._workers, self._inventory, rules or Rules()
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

    @property
    def uploads_in_flight(self) -> int:
        """How many uploads this process receives now."""
        return self._reservations.in_flight

    def renew_reservations(self) -> None:
        """Renew the leases of the uploads in flight."""
        self._reservations.renew()

    def submit(
        self,
        request: JobOptions,
        upload: UploadRecord,
        *,
        owner: Owner | None = None,
        reservation: Reservation | None = None,
        body_sha256: str | None = None,
    ) -> Job:
        """Submit a job, and return it; see `Submissions.submit`.

        Args:
            reservation: of the bytes, settled. Without one, the next count of the store has them.
        """
        ticket = self.submissions.submit(
            request,
            upload,
            owner=owner,
            job_id=reservation.id if reservation else None,
            body_sha256=body_sha256,
        )
        if reservation:
            reservation.keep()
        return self.get(ticket.id, owner=ticket.owner)

    def repeat(self, job_id: str, body_sha256: str | None, *, owner: str | None = None) -> Job:
        """Return the job that an Idempotency-Key has made, as it is now.

        Raises:
            IdempotencyKeyReused: it was made from another body.
            JobNotFound: it has just been deleted.
        """
        self.idempotency.require_same(job_id, body_sha256)
        return self.get(job_id, owner=owner)

    def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """See `JobStates.get`."""
        return self._states.get(job_id, owner=owner)

    def refresh(self, jobs: Iterable[Job]) -> dict[str, Job | None]:
        """See `JobStates.refresh`."""
        return self._states.refresh(jobs)

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
        """Return a page of the jobs that have all that is given; see `JobPages.page`."""
        wanted = JobFilter(state, tag, model)
        return self._pages.page(wanted, limit=limit, cursor=cursor, owner=owner)

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
        now = self._redis_jobs.now()
        if not record.is_alive(now):
            self._end_waiting(job_id, job.model, record.ended("canceled", now))
        return self.get(job_id, owner=owner)

    def delete(self, job_id: str, *, owner: str | None = None) -> None:
        """Remove every byte of a job. An attempt that runs it finds the job gone, and stops.

        Raises:
            JobNotFound: there is no such job, or it has another owner.
        """
        self._remove(self._states.ticket(job_id, owner))

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
        """Return the seconds, at least 1, after which a job that has not ended will have."""
        if job.queue_position is None or job.started_at is not None:
            seconds, _ = self._workers.pace(job.model)
            if job.started_at is not None:
                seconds -= (self._redis_jobs.now() - job.started_at).total_seconds()
        else:
            running = self._redis_jobs.running(job.model)
            seconds = self._workers.seconds_until_end(job.model, job.queue_position, running)
        return max(1, math.ceil(seconds))

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
        now = self._redis_jobs.now()
        if not record.is_alive(now):
            reason = NoWorker(f"no worker has served {ticket.model!r}, and the job is too old now")
            error = JobError(code=reason.code, title=reason.title, detail=str(reason))
            self._end_waiting(job_id, ticket.model, record.ended("failed", now, error))

    def _remove(self, ticket: Ticket) -> None:
        submission = self._store.submission(ticket.id)
        upload = submission.upload
        uploads = [upload] if upload else []
        with self._inventory.giving_back(self._ledger, jobs=[ticket.id], uploads=uploads):
            self._store.delete(ticket.id)
            self.deliveries.delete(ticket.id)
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
