"""Usage of the store, and its limits: bytes per owner, and which jobs have not ended.

The store is recounted every few seconds. Jobs that have ended are read again only if they changed.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rollout_core.contract import Frozen
from rollout_core.errors import StoreFull, UnknownFormat
from rollout_core.jobs.records import Ticket
from rollout_core.jobs.store import ArtifactStore
from service.errors import StorageQuotaExceeded
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


@dataclass(frozen=True)
class _Counted:
    """What was counted for a job; valid while the job's `changed` number stays the same."""

    changed: int
    bytes: int
    ticket: Ticket | None
    is_open: bool


class StoreUsage:
    """The latest count of a store, plus the uploads this process has accepted since."""

    def __init__(self, store: ArtifactStore, *, max_bytes: int | None = None) -> None:
        """Count nothing yet. `max_bytes` limits the size of the store; None: no limit."""
        self._store = store
        self._max_bytes = max_bytes
        self._counted: dict[str, _Counted] = {}
        self._bytes: Counter[str | None] = Counter()

    @property
    def jobs(self) -> frozenset[str]:
        """Ids of all jobs."""
        return frozenset(self._counted)

    @property
    def tickets(self) -> dict[str, Ticket]:
        """The readable tickets, by job id."""
        return {job_id: job.ticket for job_id, job in self._counted.items() if job.ticket}

    @property
    def open(self) -> dict[str, Ticket]:
        """The tickets of jobs that had not ended."""
        return {
            job_id: ticket
            for job_id, ticket in self.tickets.items()
            if self._counted[job_id].is_open
        }

    def recount(self) -> None:
        """Recount the store."""
        known = self._counted
        self._counted = {
            job_id: self._count(job_id, changed, known.get(job_id))
            for job_id, changed in self._store.jobs()
        }
        held: Counter[str | None] = Counter()
        for job in self._counted.values():
            held[job.ticket.owner if job.ticket else None] += job.bytes
        self._bytes = held

    def accept(self, ticket: Ticket) -> None:
        """Add a job that has just been accepted."""
        self._bytes[ticket.owner] += ticket.upload_bytes

    def bytes_of(self, owner: str | None) -> int:
        """Return the bytes stored for the jobs of one owner."""
        return self._bytes[owner]

    def require_room(self, upload_bytes: int) -> None:
        """Check that there is room for an upload.

        Raises:
            StoreFull: there is not enough.
        """
        held = self._bytes.total()
        if self._max_bytes is not None and held + upload_bytes > self._max_bytes:
            raise StoreFull(f"the store holds {held} of the {self._max_bytes} bytes allowed")
        if shutil.disk_usage(self._store.root).free - upload_bytes < RESERVED_BYTES:
            raise StoreFull("the disk is nearly full")

    def _count(self, job_id: str, changed: int, known: _Counted | None) -> _Counted:
        """Count one job. One that has ended is counted again only if it changed."""
        if known and known.changed == changed and not known.is_open:
            return known
        is_open = self._store.is_open(job_id)
        ticket = (known and known.ticket) or self._read_ticket(job_id)
        return _Counted(changed, self._store.bytes_of(job_id), ticket, is_open)

    def _read_ticket(self, job_id: str) -> Ticket | None:
        try:
            return self._store.ticket(job_id)
        except UnknownFormat:
            logger.warning("Job %s was stored in a form that this version cannot read", job_id)
            return None


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
        lost = not self._store.exists(job_id) and self._clock() - reserved_at > ACCEPT_SECONDS
        return lost or self._store.has_ended(job_id)
