"""Tells calls on the event loop how jobs change, however many calls follow them.

One task per process reads the watched jobs, at most twice a second, in a few commands for all of
them. A call that is slow to take a change finds the latest one when it does.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress

from redis.exceptions import RedisError

from rollout_core.errors import RolloutError
from rollout_core.jobs.schemas import Job

READ_SECONDS = 0.5
"""Time between two readings of the watched jobs."""

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
        self._read = read
        self._jobs: dict[str, Job] = {}
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)
        self._reader: asyncio.Task[None] | None = None
        self._is_closed = False

    @asynccontextmanager
    async def watching(self, job: Job) -> AsyncIterator[Watch]:
        """Watch a job, given as it was just read."""
        watch = Watch(job)
        if self._is_closed:
            watch.end()
        self._watches[job.id].add(watch)
        self._jobs.setdefault(job.id, job)
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._keep_reading())
        try:
            yield watch
        finally:
            self._watches[job.id].discard(watch)
            if not self._watches[job.id]:
                del self._watches[job.id]
                del self._jobs[job.id]

    async def wait_for_end(self, job: Job, seconds: float) -> Job:
        """Return a job once it has ended, is deleted, or the time is over; as it was last read."""
        if job.ended_at is not None or seconds <= 0:
            return job
        with suppress(TimeoutError):
            async with self.watching(job) as watch, asyncio.timeout(seconds):
                async for latest in watch.changes():
                    job = latest or job
        return job

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
        failure = ""
        while self._watches:
            await asyncio.sleep(READ_SECONDS)
            try:
                await self._read_all()
                failure = ""
            except (RedisError, OSError, RolloutError) as error:  # the next reading may succeed
                if failure != str(error):
                    logger.warning("The watched jobs cannot be read: %s", error)
                failure = str(error)

    async def _read_all(self) -> None:
        for job_id, job in (await self._read(list(self._jobs.values()))).items():
            if job_id in self._jobs and job is not None:
                self._jobs[job_id] = job
            for watch in self._watches.get(job_id, ()):
                watch.tell(job)
