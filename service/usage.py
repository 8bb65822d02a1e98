"""Usage of the store: bytes of each job, and which jobs have not ended; limits of open jobs.

The limits of bytes are kept by `service.reservations`.

The store is recounted every few seconds. Jobs that have ended are read again only if they changed.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field

from rollout_core.contract import Frozen
from rollout_core.errors import UnknownFormat
from rollout_core.jobs.records import Ticket
from rollout_core.jobs.store import ArtifactStore
from service.ledger import Entry
from service.redis_jobs import RedisJobs

OwnerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

Limit = Annotated[int, Field(strict=True, ge=0)] | None

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

    @cached_property
    def entry(self) -> Entry:
        """The entry of the job in the ledger."""
        if self.ticket is None:
            return Entry.of_files(None, self.bytes)
        if self.is_open:
            return Entry.of_upload(self.ticket.owner, self.ticket.upload_bytes, self.bytes)
        return Entry.of_files(self.ticket.owner, self.bytes)


class StoreUsage:
    """The latest count of a store."""

    def __init__(self, store: ArtifactStore) -> None:
        """Count nothing yet."""
        self._store = store
        self._counted: dict[str, _Counted] = {}

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

    def entries(self) -> dict[str, Entry]:
        """Return the entries of all jobs for the ledger."""
        return {job_id: job.entry for job_id, job in self._counted.items()}

    def recount(self) -> None:
        """Recount the store."""
        known = self._counted
        self._counted = {
            job_id: self._count(job_id, changed, known.get(job_id))
            for job_id, changed in self._store.jobs()
        }

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
        is_recent = 0 <= self._clock() - reserved_at <= ACCEPT_SECONDS
        lost = not is_recent and not self._store.exists(job_id)
        return lost or self._store.has_ended(job_id)
