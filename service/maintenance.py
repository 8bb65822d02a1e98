"""Periodic tasks: bring Redis in line with the store, and remove what is old.

The store is the only complete list of jobs. A job exists once its folder exists, even if Redis
does not know it: the service may have died before it could queue the job, or Redis may have lost
its data.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from redis import Redis
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from rollout_core.errors import OtherStore
from rollout_core.jobs.records import Ticket
from rollout_core.jobs.redis_records import announce_store, redis_now
from rollout_core.jobs.store import ArtifactStore
from service.jobs import Jobs
from service.redis_jobs import RedisJobs
from service.usage import StoreUsage

RECONCILE_SECONDS = 5.0

CLEAN_UP_SECONDS = 300.0

STALE_UPLOAD_SECONDS = 600.0
"""An upload that has not grown for this long was left by a process that was killed."""

REMEMBERED_TTLS = 4
"""A job is deleted after this multiple of the time to live of its files."""

logger = logging.getLogger(__name__)


class Reconciler:
    """Compares all jobs in the store with Redis, and corrects Redis.

    One pass needs a few commands however many jobs there are, and some more for each job that
    differs.
    """

    def __init__(self, store: ArtifactStore, usage: StoreUsage, redis: Redis) -> None:
        self._store = store
        self._identity = store.identity()
        self._usage = usage
        self._redis = redis
        self._redis_jobs = RedisJobs(redis)
        self._lost: set[str] = set()

    def reconcile(self) -> None:
        """Recount the store, and correct what differs in Redis.

        Raises:
            OtherStore: another service uses this Redis with another store.
        """
        announce_store(self._redis, self._identity)
        self._usage.recount()
        self._correct_lists()
        open_jobs = self._usage.open
        recorded = set(self._redis_jobs.records.ids())
        self._queue_again(open_jobs, recorded)
        self._delete_records(recorded - open_jobs.keys())

    def _correct_lists(self) -> None:
        """List the jobs that are missing in the lists, and remove those that are gone."""
        listed = self._redis_jobs.listed()
        tickets = self._usage.tickets
        missing = tickets.keys() - listed.keys()
        if missing:
            self._redis_jobs.list_jobs(tickets[job_id] for job_id in missing)
        for job_id in listed.keys() - self._usage.jobs:
            if not self._store.exists(job_id):
                self._redis_jobs.remove(job_id, listed[job_id])

    def _queue_again(self, open_jobs: dict[str, Ticket], recorded: set[str]) -> None:
        """Queue open jobs that have no record, or that were lost at this pass and the last one."""
        added = {job_id for job_id in open_jobs.keys() - recorded if self._add(open_jobs[job_id])}
        lost = self._find_lost(open_jobs)
        still_lost = lost & self._lost
        for job_id in still_lost:
            self._redis_jobs.requeue(job_id, open_jobs[job_id].model)
        for job_id in added | still_lost:
            logger.warning("Job %s was lost by Redis or a worker, and is queued again", job_id)
        self._lost = lost - still_lost

    def _add(self, ticket: Ticket) -> bool:
        """Queue a job unless Redis knows it; return whether it was queued.

        An attempt that Redis has lost may still run: the next one must not get the same number.
        """
        is_open = self._store.is_open(ticket.id)
        return is_open and self._redis_jobs.add(ticket, self._store.latest_attempt(ticket.id))

    def _find_lost(self, open_jobs: dict[str, Ticket]) -> set[str]:
        """Return the jobs that are in no queue, started by no worker, and run by no attempt."""
        models = {ticket.model for ticket in open_jobs.values()}
        held = (self._redis_jobs.held(model) for model in models)
        candidates = open_jobs.keys() - set().union(*held)
        if not candidates:
            return set()
        records = self._redis_jobs.records.get_many(candidates)
        now = redis_now(self._redis)
        return {
            job_id
            for job_id, record in records.items()
            if not (record and record.is_alive(now)) and self._store.is_open(job_id)
        }

    def _delete_records(self, suspects: set[str]) -> None:
        """Delete the records of those of these jobs that have ended, or are gone.

        A job that has ended since the store was counted is left to the next pass.
        """
        ended = [job_id for job_id in suspects if not self._store.is_open(job_id)]
        self._redis_jobs.records.delete(*ended)


def clean_up(store: ArtifactStore, jobs: Jobs, result_ttl: float) -> None:
    """Expire and delete old jobs, and remove broken uploads and stale announcements."""
    for job_id in store.older_than(result_ttl):
        jobs.expire(job_id)
    for job_id in store.older_than(REMEMBERED_TTLS * result_ttl):
        jobs.forget(job_id)
    store.remove_stale_uploads(STALE_UPLOAD_SECONDS)
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
    """Run a task repeatedly. A failure is logged, and the next run tries again."""
    name = getattr(getattr(task, "func", task), "__name__", type(task).__name__)
    while True:
        try:
            await run_in_threadpool(task)
        except (RedisError, OSError, OtherStore) as error:
            logger.warning("Periodic task %s failed, and is tried again later: %s", name, error)
        except Exception:
            logger.exception("Periodic task %s failed", name)
        await asyncio.sleep(seconds)
