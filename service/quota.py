"""What an owner has in use, and may: jobs that have not ended, and bytes in the store."""

import time
from collections.abc import Callable
from typing import cast

from redis import Redis
from redis.client import Pipeline

from rollout_core.jobs.records import Ticket
from rollout_core.jobs.store import ArtifactStore
from service.census import Census
from service.errors import StorageQuotaExceeded
from service.keys import Owner

OPEN_KEY = "rollout:open:"
"""With an owner's name: id of a job → when its place was taken, in Unix seconds."""

ACCEPT_SECONDS = 60.0
"""No job takes so long from its place to the store: its service was killed in between."""


class OpenJobs:
    """The jobs of each owner that have not ended: a sorted set each, for all processes alike.

    Jobs that have ended stay in it until there is need of their places.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def take(self, job_id: str, owner: str, now: float, limit: int) -> bool:
        """Take a place for a job, if fewer than `limit` are taken; return whether there was one."""
        key = OPEN_KEY + owner

        def step(pipe: Pipeline) -> bool:
            has_room = pipe.zcard(key) < limit
            pipe.multi()
            if has_room:
                pipe.zadd(key, {job_id: now})
            return has_room

        return bool(self._redis.transaction(step, key, value_from_callable=True))  # type: ignore[arg-type]

    def add(self, ticket: Ticket, pipe: Pipeline) -> None:
        """Give an accepted job its place, as part of a transaction."""
        if ticket.owner is not None:
            moment = ticket.created_at.timestamp()
            pipe.zadd(OPEN_KEY + ticket.owner, {ticket.id: moment}, nx=True)

    def remove(self, job_id: str, owner: str | None, pipe: Pipeline | Redis | None = None) -> None:
        """Give a job's place back."""
        if owner is not None:
            (pipe or self._redis).zrem(OPEN_KEY + owner, job_id)

    def of(self, owner: str) -> dict[str, float]:
        """Return whose places are taken, and since when."""
        entries = self._redis.zrange(OPEN_KEY + owner, 0, -1, withscores=True)
        pairs = cast(list[tuple[bytes, float]], entries)
        return {job_id.decode(): moment for job_id, moment in pairs}


class Quotas:
    """Holds owners to their limits."""

    def __init__(
        self,
        open_jobs: OpenJobs,
        store: ArtifactStore,
        census: Census,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._open = open_jobs
        self._store = store
        self._census = census
        self._clock = clock

    def require_bytes(self, owner: Owner | None, upload_bytes: int) -> None:
        """Make sure that an owner may store so many bytes more.

        Raises:
            StorageQuotaExceeded: those that are kept for him leave no room.
        """
        if owner is None or owner.max_stored_bytes is None:
            return
        held = self._census.bytes_of(owner.name)
        if held + upload_bytes > owner.max_stored_bytes:
            raise StorageQuotaExceeded(
                f"you store {held} of the {owner.max_stored_bytes} bytes that you may"
            )

    def take_place(self, job_id: str, owner: Owner | None) -> bool:
        """Count a job that is about to be accepted; return whether its owner may have one more."""
        if owner is None or owner.max_queued_jobs is None:
            return True
        for _ in range(2):
            if self._open.take(job_id, owner.name, self._clock(), owner.max_queued_jobs):
                return True
            for taken, since in self._open.of(owner.name).items():
                if self._is_over(taken, since):
                    self._open.remove(taken, owner.name)
        return False

    def give_back(self, job_id: str, owner: Owner | None) -> None:
        """Forget a job that was not accepted after all."""
        self._open.remove(job_id, owner.name if owner else None)

    def _is_over(self, job_id: str, since: float) -> bool:
        """Whether a job has ended, or is gone or never came; it may be on its way to the store."""
        lost = not self._store.exists(job_id) and self._clock() - since > ACCEPT_SECONDS
        return lost or self._store.has_ended(job_id)
