"""Usage of the store, and its limits: bytes per owner, and which jobs have not ended.

The store is recounted every few seconds, by an `Inventory`.
"""

import logging
import shutil
import time
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from rollout_core.contract import Frozen
from rollout_core.errors import StoreFull
from rollout_core.jobs.records import Ticket
from rollout_core.jobs.store import ArtifactStore
from service.errors import StorageQuotaExceeded
from service.faults import Faults
from service.inventory import Inventory
from service.redis_jobs import RedisJobs

OwnerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

Limit = Annotated[int, Field(strict=True, ge=0)] | None

RESERVED_BYTES = 256 * 1024**2
"""Bytes that must stay free on the disk, for the results of accepted jobs."""

ACCEPT_SECONDS = 60.0
"""A reservation without a stored job expires after this: the service was killed in between."""

logger = logging.getLogger(__name__)


class Owner(Frozen):
    """The owner of an API key, and their limits."""

    name: OwnerName
    max_queued_jobs: Limit = None
    max_stored_bytes: Limit = None


class StoreUsage:
    """The latest count of a store, plus the uploads this process has accepted since."""

    def __init__(self, store: ArtifactStore, *, max_bytes: int | None = None) -> None:
        """Count nothing yet. `max_bytes` limits the size of the store; None: no limit."""
        self._store = store
        self._max_bytes = max_bytes
        self.inventory = Inventory(store, Faults(logger))

    def recount(self) -> None:
        """Recount the store."""
        self.inventory.refresh()

    def accept(self, ticket: Ticket) -> None:
        """Add a job that has just been accepted."""
        self.inventory.add(ticket)

    def bytes_of(self, owner: str | None) -> int:
        """Return the bytes stored for the jobs of one owner."""
        return self.inventory.bytes_of(owner)

    def require_room(self, upload_bytes: int) -> None:
        """Check that there is room for an upload.

        Raises:
            StoreFull: there is not enough.
        """
        held = self.inventory.total_bytes()
        if self._max_bytes is not None and held + upload_bytes > self._max_bytes:
            raise StoreFull(f"the store holds {held} of the {self._max_bytes} bytes allowed")
        if shutil.disk_usage(self._store.root).free - upload_bytes < RESERVED_BYTES:
            raise StoreFull("the disk is nearly full")


class Quotas:
    """Enforces the limits of owners."""

    def __init__(
        self,
        redis_jobs: RedisJobs,
        store: ArtifactStore,
        usage: StoreUsage,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis_jobs = redis_jobs
        self._store = store
        self._usage = usage
        self._clock = clock

    def require_bytes(self, owner: Owner | None, upload_bytes: int) -> None:
        """Check that an owner may store `upload_bytes` more.

        Raises:
            StorageQuotaExceeded: the owner would store more than allowed.
        """
        if owner is None or owner.max_stored_bytes is None:
            return
        held = self._usage.bytes_of(owner.name)
        if held + upload_bytes > owner.max_stored_bytes:
            raise StorageQuotaExceeded(
                f"you store {held} of the {owner.max_stored_bytes} bytes allowed"
            )

    def reserve(self, job_id: str, owner: Owner | None) -> bool:
        """Count a job that is about to be accepted; return False if the owner has too many."""
        if owner is None or owner.max_queued_jobs is None:
            return True
        for _ in range(2):
            if self._redis_jobs.reserve_open(
                job_id, owner.name, self._clock(), owner.max_queued_jobs
            ):
                return True
            for counted, reserved_at in self._redis_jobs.open_jobs(owner.name).items():
                if self._is_over(counted, reserved_at):
                    self._redis_jobs.release_open(counted, owner.name)
        return False

    def release(self, job_id: str, owner: Owner | None) -> None:
        """Stop counting a job that was not accepted after all."""
        self._redis_jobs.release_open(job_id, owner.name if owner else None)

    def _is_over(self, job_id: str, reserved_at: float) -> bool:
        """Return whether a job has ended, was deleted, or was never stored.

        A job that is not in the store may still be on its way there.
        """
        lost = not self._store.exists(job_id) and self._clock() - reserved_at > ACCEPT_SECONDS
        return lost or self._store.has_ended(job_id)
