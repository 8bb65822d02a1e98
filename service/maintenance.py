"""Periodic tasks: bring Redis in line with the store, and remove what is old.

The store is the only complete list of jobs. A job exists once its folder exists, even if Redis
does not know it: the service may have died before it could queue the job, or Redis may have lost
its data.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from anyio import CapacityLimiter, to_thread
from redis import Redis
from redis.exceptions import RedisError

from rollout_core.contract import Priority
from rollout_core.errors import OtherStore, UnknownFormat
from rollout_core.jobs.records import JobRecord, Ticket
from rollout_core.jobs.redis_records import announce_store, redis_now
from rollout_core.jobs.store import ArtifactStore
from service.faults import Faults
from service.inventory import JOB_ID, Inventory
from service.jobs import Jobs
from service.ledger import Ledger
from service.list_keeper import ListKeeper
from service.redis_jobs import RedisJobs
from service.stored_uploads import StoredUploads

RECONCILE_SECONDS = 5.0

CLEAN_UP_SECONDS = 300.0

STALE_UPLOAD_SECONDS = 600.0
"""An upload that was seen not to grow for this long was left by a process that was killed."""

REMEMBERED_TTLS = 4
"""A job is deleted after this multiple of the time to live of its files."""

logger = logging.getLogger(__name__)


class Reconciler:
    """Compares the store with Redis, and corrects Redis.

    One pass needs a few commands however many jobs there are, and some more for each job that
    differs. A job that cannot be dealt with is logged once, and the others are.
    """

    def __init__(
        self, store: ArtifactStore, inventory: Inventory, redis: Redis, ledger: Ledger | None = None
    ) -> None:
        self._store = store
        self._identity = store.identity()
        self._inventory = inventory
        self._ledger = ledger or Ledger(redis)
        self._redis = redis
        self._redis_jobs = RedisJobs(redis)
        self._keeper = ListKeeper(self._inventory, self._redis_jobs)
        self._faults = Faults(logger, store)
        self._lost: set[str] = set()

    def reconcile(self) -> None:
        """Look at what is new in the store, and correct what differs in Redis.

        Raises:
            OtherStore: another service uses this Redis with another store.
        """
        announce_store(self._redis, self._identity)
        self._inventory.refresh()
        recorded = set(self._redis_jobs.records.ids())
        known = self._inventory.open.keys()
        self._inventory.look(known ^ recorded)  # they may have ended, or are new
        self._ledger.update(self._inventory.entries(), self._inventory.take_changed_entries())
        self._keeper.correct(self._inventory.take_changes())
        open_jobs = self._inventory.open
        self._queue_again(open_jobs, recorded)
        self._delete_records(recorded - open_jobs.keys())
        for model in {ticket.model for ticket in open_jobs.values()}:
            self._redis_jobs.sort(model, open_jobs)

    def _queue_again(self, open_jobs: dict[str, Ticket], recorded: set[str]) -> None:
        """Queue open jobs that have no record, or that were lost at this pass and the last one."""
        for job_id in open_jobs.keys() - recorded:
            with self._faults.isolated(job_id, "cannot be queued again"):
                self._add(open_jobs[job_id])
        lost = self._find_lost(open_jobs)
        still_lost = lost & self._lost
        for job_id in still_lost:
            with self._faults.isolated(job_id, "cannot be queued again"):
                self._redis_jobs.requeue(job_id, open_jobs[job_id].model)
                self._report_lost(job_id)
        self._lost = lost - still_lost

    def _add(self, ticket: Ticket) -> None:
        """Queue a job unless Redis knows it.

        An attempt that Redis has lost may still run: the next one must not get the same number.
        """
        if not self._store.is_open(ticket.id):
            return
        latest = self._store.latest_attempt(ticket.id)
        priority: Priority = "normal"
        with suppress(UnknownFormat):  # workers do not need the submission, either
            priority = self._store.submission(ticket.id).priority
        if self._redis_jobs.add(ticket, latest, priority=priority):
            self._report_lost(ticket.id)

    def _report_lost(self, job_id: str) -> None:
        self._faults.report(job_id, "was lost by Redis or a worker", "it is queued again")

    def _find_lost(self, open_jobs: dict[str, Ticket]) -> set[str]:
        """Return the jobs that are in no queue, started by no worker, and run by no attempt."""
        models = {ticket.model for ticket in open_jobs.values()}
        held = (self._redis_jobs.held(model) for model in models)
        candidates = open_jobs.keys() - set().union(*held)
        if not candidates:
            return set()
        texts = self._redis_jobs.records.get_many_raw(candidates)
        now = redis_now(self._redis)
        lost = set()
        for job_id, text in texts.items():
            with self._faults.isolated(job_id, "has a record that cannot be read"):
                is_alive = text is not None and JobRecord.from_json(text).is_alive(now)
                if not is_alive and self._store.is_open(job_id):
                    lost.add(job_id)
        return lost

    def _delete_records(self, suspects: set[str]) -> None:
        """Delete the records of those of these jobs that have ended, or are gone.

        A job that has ended since the store was counted is left to the next pass.
        """
        ended = []
        for job_id in suspects:
            with self._faults.isolated(job_id, "cannot be looked at"):
                if not self._store.is_open(job_id):
                    ended.append(job_id)
        self._redis_jobs.records.delete(*ended)


def clean_up(
    store: ArtifactStore,
    jobs: Jobs,
    result_ttl: float,
    faults: Faults | None = None,
    *,
    uploads: StoredUploads | None = None,
) -> None:
    """Expire and delete old jobs and uploads; remove broken uploads and stale announcements.

    Args:
        faults: remembers which jobs cannot be expired; give the same to each call.
    """
    faults = faults or Faults(logger, store)
    now, ttl = jobs.age_now(), timedelta(seconds=result_ttl)
    too_old, forgotten = now - ttl, now - REMEMBERED_TTLS * ttl
    for job_id in filter(JOB_ID.fullmatch, store.names()):
        with faults.isolated(job_id, "cannot be expired"):
            accepted_at = store.accepted_at(job_id)
            if accepted_at < too_old.timestamp():
                jobs.expire(job_id, too_old, result_ttl)
            if accepted_at < forgotten.timestamp():
                jobs.forget(job_id, forgotten)
    if uploads:
        uploads.sweep()
    store.remove_stale_uploads(STALE_UPLOAD_SECONDS)
    jobs.deliveries.remove_orphans()
    jobs.forget_stale_workers()


@asynccontextmanager
async def periodic_tasks(*tasks: tuple[Callable[[], None], float]) -> AsyncIterator[None]:
    """Run each task in a thread, repeatedly, while the context lasts.

    Args:
        tasks: functions, each with the seconds between its end and its next start.
    """
    running = [asyncio.create_task(_repeat(task, seconds)) for task, seconds in tasks]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _repeat(task: Callable[[], None], seconds: float) -> None:
    """Run a task repeatedly. A failure is logged unless the last run failed in the same way."""
    name = getattr(getattr(task, "func", task), "__name__", type(task).__name__)
    own_thread = CapacityLimiter(1)  # the shared ones may all wait for a slow disk
    last = ""
    while True:
        try:
            await to_thread.run_sync(task, limiter=own_thread)
            last = ""
        except Exception as error:
            kind = f"{type(error).__name__}: {error}"
            if kind != last:
                is_known = isinstance(error, RedisError | OSError | OtherStore)
                message = "Periodic task %s failed, and is tried again every %g s: %s"
                logger.log(
                    logging.WARNING if is_known else logging.ERROR,
                    message,
                    name,
                    seconds,
                    kind,
                    exc_info=None if is_known else error,
                )
            last = kind
        await asyncio.sleep(seconds)
