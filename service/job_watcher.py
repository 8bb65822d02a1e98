"""Tells calls on the event loop how jobs change, however many calls follow them.

One task per process reads the watched jobs in a few commands for all of them: soon after news that
one has changed, at most twice a second; at once what has ended; and from time to time in any case,
since news may be lost. A call that is slow to take a change finds the latest one when it does.
"""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress

from redis.exceptions import RedisError

from rollout_core import logs
from rollout_core.errors import RolloutError
from rollout_core.jobs.schemas import Job

READ_SECONDS = 2.0
"""Longest time between two readings of the watched jobs. Places in the queue have no news."""

CHANGE_SECONDS = 0.5
"""Least time between two readings of all of them, after news that one has changed."""

REMEMBERED_ENDS = 1000
"""Ends of which a call may have heard before it watches the job."""

logger = logging.getLogger(__name__)

ReadJobs = Callable[[Iterable[Job]], Awaitable[Mapping[str, Job | None]]]
"""Returns jobs as they are now, given as they were; None for a job that is gone."""


class Watch:
    """One call that watches a job. Holds the latest state that it has not taken yet."""

    def __init__(self, job: Job) -> None:
        self._changed = asyncio.Event()
        self._latest: Job | None = job
        self._is_over = False

    async def changes(self) -> AsyncIterator[Job | None]:
        """Yield the job at each change until it has ended; None if it is deleted.

        Ends without that if the service shuts down.
        """
        while not self._is_over:
            await self._changed.wait()
            self._changed.clear()
            if self._is_over:
                return
            latest = self._latest
            yield latest
            if latest is None or latest.ended_at is not None:
                return

    def tell(self, job: Job | None) -> None:
        """Replace what is known of the job."""
        if job != self._latest:
            self._latest = job
            self._changed.set()

    def end(self) -> None:
        """End the iterator."""
        self._is_over = True
        self._changed.set()


class JobWatcher:
    """The jobs that the calls of one process watch. All methods run on its event loop."""

    def __init__(self, read: ReadJobs) -> None:
        self._read_jobs = read
        self._jobs: dict[str, Job] = {}
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)
        self._reader: asyncio.Task[None] | None = None
        self._is_closed = False
        self._news = asyncio.Event()
        self._has_changed = False
        self._read_at = 0.0
        self._ended: set[str] = set()
        self._known_ends: deque[str] = deque(maxlen=REMEMBERED_ENDS)

    def hear(self, job_id: str, has_ended: bool) -> None:
        """Take the news that a job has changed, or has ended or was deleted."""
        if has_ended:
            self._known_ends.append(job_id)
        if job_id not in self._jobs:
            return
        if has_ended:
            self._ended.add(job_id)
        else:
            self._has_changed = True
        self._news.set()

    @asynccontextmanager
    async def watching(self, job: Job) -> AsyncIterator[Watch]:
        """Watch a job, given as it was just read."""
        watch = Watch(job)
        if self._is_closed:
            watch.end()
        self._watches[job.id].add(watch)
        self._jobs.setdefault(job.id, job)
        if job.id in self._known_ends:  # since it was read
            self._ended.add(job.id)
            self._news.set()
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._keep_reading())
        try:
            yield watch
        finally:
            self._watches[job.id].discard(watch)
            if not self._watches[job.id]:
                del self._watches[job.id]
                del self._jobs[job.id]

    async def wait_for_end(self, job: Job, seconds: float) -> Job | None:
        """Return a job once it has ended or the time is over; None if it is deleted."""
        if job.ended_at is not None or seconds <= 0:
            return job
        latest: Job | None = job
        with suppress(TimeoutError):
            async with self.watching(job) as watch, asyncio.timeout(seconds):
                async for change in watch.changes():
                    latest = change
        return latest

    def close(self) -> None:
        """End all watches, because the service shuts down."""
        self._is_closed = True
        for watches in self._watches.values():
            for watch in watches:
                watch.end()

    async def stop(self) -> None:
        """Stop reading."""
        self.close()
        if self._reader:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _keep_reading(self) -> None:
        """Read while anything is watched."""
        logs.forget_about()  # the first call that watches starts this task
        failure = ""
        self._read_at = time.monotonic() - CHANGE_SECONDS  # the first change is told at once
        while self._watches:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._due_at() - time.monotonic())
            self._news.clear()
            try:
                await self._read(self._due_jobs())
                failure = ""
            except (RedisError, OSError, RolloutError) as error:  # the next reading may succeed
                if failure != str(error):
                    logger.warning("The watched jobs cannot be read: %s", error)
                failure = str(error)

    def _due_at(self) -> float:
        """Return when all jobs are to be read again."""
        return self._read_at + (CHANGE_SECONDS if self._has_changed else READ_SECONDS)

    def _due_jobs(self) -> list[Job]:
        """Return the jobs that are to be read now: all, or those that have ended."""
        ended, self._ended = self._ended, set()
        if time.monotonic() < self._due_at():
            return [self._jobs[job_id] for job_id in ended & self._jobs.keys()]
        self._read_at, self._has_changed = time.monotonic(), False
        return list(self._jobs.values())

    async def _read(self, jobs: list[Job]) -> None:
        """Read jobs, if there are any, and tell who watches them."""
        if not jobs:
            return
        for job_id, job in (await self._read_jobs(jobs)).items():
            if job_id in self._jobs and job is not None:
                self._jobs[job_id] = job
            for watch in self._watches.get(job_id, ()):
                watch.tell(job)
