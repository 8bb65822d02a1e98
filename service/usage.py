"""What the store holds: how many bytes, whose, and which jobs have not ended.

Counted every few seconds, without looking twice at what no longer changes.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, ValidationError

from rollout_core.contract import Frozen
from rollout_core.errors import StoreFull
from rollout_core.jobs.records import Ticket
from rollout_core.jobs.store import ArtifactStore
from service.errors import StorageQuotaExceeded
from service.redis_jobs import OpenJobs

OwnerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


Limit = Annotated[int, Field(strict=True, ge=0)] | None


class Owner(Frozen):
    """Somebody who may call, and what they may use."""

    name: OwnerName
    max_queued_jobs: Limit = None
    max_stored_bytes: Limit = None


RESERVED_BYTES = 256 * 1024**2
"""What must stay free on the disk, for the results of jobs that have been accepted."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Counted:
    """A job as it was counted; `changed` tells whether that still holds."""

    changed: int
    bytes: int
    ticket: Ticket | None
    is_open: bool


class StoreUsage:
    """The latest count of a store, and what this process has accepted since."""

    def __init__(self, store: ArtifactStore, *, max_bytes: int | None = None) -> None:
        """Count nothing yet; `max_bytes` is what the store may hold, if that is limited."""
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
        """The jobs that can be read, by their ids."""
        return {job_id: job.ticket for job_id, job in self._counted.items() if job.ticket}

    @property
    def open(self) -> dict[str, Ticket]:
        """Those of them that had not ended."""
        return {
            job_id: ticket
            for job_id, ticket in self.tickets.items()
            if self._counted[job_id].is_open
        }

    def take(self) -> None:
        """Count."""
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
        """Return how many bytes are kept for the jobs of one owner."""
        return self._bytes[owner]

    def require_room(self, upload_bytes: int) -> None:
        """Make sure that there is room for an upload.

        Raises:
            StoreFull: there is none.
        """
        held = self._bytes.total()
        if self._max_bytes is not None and held + upload_bytes > self._max_bytes:
            raise StoreFull(f"the store holds {held} of the {self._max_bytes} bytes that it may")
        if shutil.disk_usage(self._store.root).free - upload_bytes < RESERVED_BYTES:
            raise StoreFull("the disk is nearly full")

    def _count(self, job_id: str, changed: int, known: _Counted | None) -> _Counted:
        """Count one job, unless it has ended and not changed since."""
        if known and known.changed == changed and not known.is_open:
            return known
        is_open = self._store.is_open(job_id)
        try:
            ticket = self._store.ticket(job_id)
        except ValidationError:
            logger.warning("Job %s is not in a form that this version can read", job_id)
            ticket = None
        return _Counted(changed, self._store.bytes_of(job_id), ticket, is_open)


ACCEPT_SECONDS = 60.0
"""No job takes so long from its place to the store: its service was killed in between."""


class Quotas:
    """Holds owners to their limits."""

    def __init__(
        self,
        open_jobs: OpenJobs,
        store: ArtifactStore,
        usage: StoreUsage,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._open = open_jobs
        self._store = store
        self._usage = usage
        self._clock = clock

    def require_bytes(self, owner: Owner | None, upload_bytes: int) -> None:
        """Make sure that an owner may store so many bytes more.

        Raises:
            StorageQuotaExceeded: those that are kept for him leave no room.
        """
        if owner is None or owner.max_stored_bytes is None:
            return
        held = self._usage.bytes_of(owner.name)
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
