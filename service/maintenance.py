"""Keeps Redis in line with the store, which alone remembers every job.

A job is there once its folder is, whatever Redis knows of it: the service may have died before it
could say so, or Redis may have come back empty. What Redis should know it is told again here, and
what it should have forgotten it is made to forget.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from rollout_core.jobs.records import Ticket
from rollout_core.jobs.store import ArtifactStore
from service.jobs import Jobs
from service.redis_jobs import Register
from service.usage import StoreUsage

RECONCILE_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Reconciler:
    """Looks at all jobs, time and again."""

    def __init__(self, store: ArtifactStore, usage: StoreUsage, register: Register) -> None:
        self._store = store
        self._usage = usage
        self._register = register
        self._astray: set[str] = set()

    def reconcile(self) -> None:
        """Count the store, and mend what differs in Redis."""
        self._usage.take()
        self._mend_list()
        self._queue_again()
        self._close_others()

    def _mend_list(self) -> None:
        """List the jobs that are missing there, and drop those that are gone."""
        listed = self._register.list.owners()
        for job_id, ticket in self._usage.tickets.items():
            if job_id not in listed:
                self._register.enlist(ticket)
        for job_id in listed.keys() - self._usage.jobs:
            if not self._store.exists(job_id):
                self._register.strike(job_id, listed[job_id])

    def _queue_again(self) -> None:
        """Queue open jobs that Redis does not know, or that nobody has had since the last time."""
        open_jobs = self._usage.open
        entered = {id for id, ticket in open_jobs.items() if self._enter(ticket)}
        astray = self._find_astray(open_jobs)
        for job_id in astray & self._astray:
            self._register.delivery.repeat(job_id, open_jobs[job_id].model)
        for job_id in entered | astray & self._astray:
            logger.warning("Job %s was lost by Redis or a worker, and is queued again", job_id)
        self._astray = astray - self._astray

    def _enter(self, ticket: Ticket) -> bool:
        """Queue a job unless Redis knows it.

        An attempt that Redis has forgotten may still run: the next must not have its number.
        """
        is_open = self._store.is_open(ticket.id)
        return is_open and self._register.enter(ticket, self._store.latest_attempt(ticket.id))

    def _find_astray(self, open_jobs: dict[str, Ticket]) -> set[str]:
        """Return the jobs that wait in no queue, and that no worker was seen to begin."""
        models = {ticket.model for ticket in open_jobs.values()}
        held = (self._register.delivery.held(model) for model in models)
        return {job_id for job_id in open_jobs.keys() - set().union(*held) if self._waits(job_id)}

    def _waits(self, job_id: str) -> bool:
        """Whether a job has not ended, and no attempt lives."""
        record = self._register.record(job_id)
        alive = record is not None and self._register.is_alive(record)
        return self._store.is_open(job_id) and not alive

    def _close_others(self) -> None:
        """Forget the records of jobs that have ended, or are gone."""
        for job_id in self._register.recorded():
            if not self._store.is_open(job_id):
                self._register.close(job_id)


SWEEP_SECONDS = 300.0


STALE_UPLOAD_SECONDS = 600.0
"""An upload that has not grown for so long was left by a process that was killed."""


REMEMBERED_TTLS = 4
"""After so many times its time to live, nothing is left of a job."""


def sweep(store: ArtifactStore, jobs: Jobs, result_ttl: float) -> None:
    """Expire and delete old jobs, and remove broken uploads and stale announcements."""
    for job_id in store.older_than(result_ttl):
        jobs.expire(job_id)
    for job_id in store.older_than(REMEMBERED_TTLS * result_ttl):
        jobs.forget(job_id)
    store.remove_stale_uploads(STALE_UPLOAD_SECONDS)
    jobs.forget_stale_workers()


@asynccontextmanager
async def repeating(*chores: tuple[Callable[[], None], float]) -> AsyncIterator[None]:
    """Run each chore every so many seconds, in a thread, as long as the context lasts."""
    tasks = [asyncio.create_task(_repeat(chore, seconds)) for chore, seconds in chores]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _repeat(chore: Callable[[], None], seconds: float) -> None:
    """Run a chore now and again; one that fails is logged, and the next time it is tried again."""
    while True:
        try:
            await run_in_threadpool(chore)
        except (RedisError, OSError) as error:
            logger.warning("A chore was put off: %s", error)
        except Exception:
            logger.exception("A chore failed")
        await asyncio.sleep(seconds)
