"""The owners of jobs, and their limits of jobs that have not ended.

The limits of bytes are kept by `service.reservations`.
"""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from rollout_core.contract import Frozen
from rollout_core.jobs.store import ArtifactStore
from service.redis_jobs import RedisJobs

OwnerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

Limit = Annotated[int, Field(strict=True, ge=0)] | None

ACCEPT_SECONDS = 60.0
"""A reservation without a stored job expires after this: the service was killed in between."""


class Owner(Frozen):
    """The owner of an API key, and their limits."""

    name: OwnerName
    max_queued_jobs: Limit = None
    max_stored_bytes: Limit = None


class Quotas:
    """Enforces the owners' limits of open jobs."""

    def __init__(
        self, redis_jobs: RedisJobs, store: ArtifactStore, *, clock: Callable[[], float]
    ) -> None:
        """Count by `clock`, in Unix seconds: that of Redis, because all API processes share it."""
        self._redis_jobs = redis_jobs
        self._store = store
        self._clock = clock

    def reserve(self, job_id: str, owner: Owner | None) -> bool:
        """Count a job that is about to be accepted; return False if the owner has too many."""
        if owner is None or owner.max_queued_jobs is None:
            return True
        for _ in range(2):
            if self._redis_jobs.reserve_open(
                job_id, owner.name, self._clock(), owner.max_queued_jobs
            ):
                return True
            self._release_ended(owner.name)
        return False

    def has_place(self, owner: Owner | None) -> bool:
        """Return whether `reserve` would succeed now."""
        if owner is None or owner.max_queued_jobs is None:
            return True
        if len(self._redis_jobs.open_jobs(owner.name)) < owner.max_queued_jobs:
            return True
        self._release_ended(owner.name)
        return len(self._redis_jobs.open_jobs(owner.name)) < owner.max_queued_jobs

    def release(self, job_id: str, owner: Owner | None) -> None:
        """Stop counting a job that was not accepted after all."""
        self._redis_jobs.release_open(job_id, owner.name if owner else None)

    def _release_ended(self, owner: str) -> None:
        """Stop counting the jobs of an owner that are no longer open."""
        for counted, reserved_at in self._redis_jobs.open_jobs(owner).items():
            if self._is_over(counted, reserved_at):
                self._redis_jobs.release_open(counted, owner)

    def _is_over(self, job_id: str, reserved_at: float) -> bool:
        """Return whether a job has ended, was deleted, or was never stored.

        A job that is not in the store may still be on its way there.
        """
        is_recent = 0 <= self._clock() - reserved_at <= ACCEPT_SECONDS
        lost = not is_recent and not self._store.exists(job_id)
        return lost or self._store.has_ended(job_id)
