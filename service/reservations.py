"""Reserves bytes for uploads while they arrive, and room for the results of accepted jobs.

Bytes are reserved before they are written: a body of known length at once, another one step by
step. They are given back when the upload ends without a job, and after some seconds when the
process dies. The sums of all API processes are in the `Ledger`.
"""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Lock

from redis.exceptions import RedisError

from rollout_core.errors import StoreFull
from service.errors import NotCounted, StorageQuotaExceeded
from service.ledger import ACCEPTED_SECONDS, LEASE_SECONDS, Entry, Ledger, Limits, Refusal
from service.usage import Owner

RESERVED_BYTES = 256 * 1024**2
"""Bytes that stay free on the disk besides all reservations: some results are larger than
estimated, and others write to the disk, too."""

REPORT_BYTES = 8 * 1024**2
"""An upload of known length reports after this many bytes what is on the disk already."""

RENEW_SECONDS = 5.0
"""Time between two renewals of the leases of all uploads."""

COUNT_SECONDS = 6.0
"""While the ledger is not complete, an upload waits for this long, and is then refused. The store
is counted every 5 s."""

COUNT_POLL_SECONDS = 0.05


EntryOf = Callable[[str | None, int, int], Entry]
"""Returns an entry, given the owner, the size of the video and the bytes written."""


class Reservations:
    """The uploads in flight of this process."""

    def __init__(
        self,
        ledger: Ledger,
        root: Path,
        *,
        max_bytes: int | None = None,
        is_whole_store: bool = True,
    ) -> None:
        """Reserve on the disk of the folder `root`.

        Args:
            max_bytes: the most that the store may hold; None: no limit.
            is_whole_store: all of the store is on this disk; else only the videos that arrive here.
        """
        self._ledger = ledger
        self._root = root
        self._max_bytes = max_bytes
        self._is_whole_store = is_whole_store
        self._active: dict[str, Reservation] = {}
        self._lock = Lock()

    @asynccontextmanager
    async def reserving(
        self,
        announced_bytes: int,
        owner: Owner | None,
        entry_of: EntryOf = Entry.of_upload,
        *,
        job_id: str | None = None,
    ) -> AsyncIterator["Reservation"]:
        """Reserve bytes for an upload; give them back at the end unless `keep` was called.

        Args:
            announced_bytes: the length of the body, 0 if it is not known.
            entry_of: what is reserved; by default room for the upload and for the result of a job.
            job_id: id of the job, if it is known already.

        Raises:
            NotCounted: what the store holds is not known yet.
            StoreFull: the store or the disk would be full.
            StorageQuotaExceeded: the owner would store more than allowed.
        """
        reservation = Reservation(self, owner, entry_of, job_id=job_id)
        await reservation.grow(announced_bytes)
        self._active[reservation.id] = reservation
        try:
            yield reservation
        finally:
            # Goes on even if this request is canceled.
            await asyncio.shield(asyncio.to_thread(self._release, reservation))

    @property
    def in_flight(self) -> int:
        """How many uploads this process receives now."""
        return len(self._active)

    def renew(self) -> None:
        """Renew the leases of all uploads in flight."""
        with self._lock:
            entries = {job_id: each.entry for job_id, each in list(self._active.items())}
            self._ledger.renew(entries)

    def reserve(self, job_id: str, entry: Entry, owner: Owner | None, lease_seconds: int) -> None:
        """Write an entry into the ledger; raise as `reserving` does."""
        free = shutil.disk_usage(self._root).free - RESERVED_BYTES
        pending = free if self._is_whole_store else None
        limits = Limits(owner.max_stored_bytes if owner else None, self._max_bytes, pending)
        if not self._is_whole_store and self._arriving(job_id, entry) > free:
            raise _error(Refusal("pending", 0), limits)
        refusal = self._ledger.reserve(job_id, entry, limits, lease_seconds=lease_seconds)
        if refusal is not None:
            raise _error(refusal, limits)

    def _arriving(self, job_id: str, entry: Entry) -> int:
        """Return the bytes of videos that are still to arrive here, with an entry that is asked."""
        active = dict(self._active)
        own = active.pop(job_id, None)
        written = own.written if own else 0
        return entry.own - written + sum(each.entry.own - each.written for each in active.values())

    def _release(self, reservation: "Reservation") -> None:
        with self._lock:
            self._active.pop(reservation.id, None)
            if not reservation.is_kept:
                with suppress(RedisError):  # then its lease expires
                    self._ledger.remove(reservation.id)


def room_for_result(owner: str | None, upload_bytes: int, _: int) -> Entry:
    """Return the entry of a job that is about to be made from a stored upload."""
    return Entry.of_result(owner, upload_bytes, 0)


class Reservation:
    """The bytes reserved for one upload. Its id becomes that of the job or of the upload."""

    def __init__(
        self,
        reservations: Reservations,
        owner: Owner | None,
        entry_of: EntryOf = Entry.of_upload,
        *,
        job_id: str | None = None,
    ) -> None:
        self.id = job_id or uuid.uuid4().hex
        self.is_kept = False
        self._reservations = reservations
        self._owner = owner
        self._entry_of = entry_of
        self._bytes = self.written = self._reported = 0
        self.entry = Entry.of_files(None, 0)

    async def arrive(self, received: int) -> None:
        """Reserve what has arrived so far, before it is written.

        Raises:
            NotCounted, StoreFull, StorageQuotaExceeded: see `Reservations.reserving`.
        """
        if received > self._bytes:
            await self.grow(received)
        elif self.written - self._reported >= REPORT_BYTES:
            with suppress(RedisError, NotCounted):  # the bytes are reserved
                await self._reserve(self._bytes)
        self.written = received

    async def grow(self, upload_bytes: int) -> None:
        """Reserve `upload_bytes` in all; wait a little if the ledger is not complete.

        Raises:
            NotCounted, StoreFull, StorageQuotaExceeded: see `Reservations.reserving`.
        """
        await self._wait_and_reserve(upload_bytes, LEASE_SECONDS)

    async def settle(self, upload_bytes: int) -> None:
        """Reserve exactly what a complete upload and its result need, until it is a job.

        Raises:
            NotCounted, StoreFull, StorageQuotaExceeded: its lease had expired meanwhile, and there
                is no room any more.
        """
        self.written = upload_bytes
        await self._wait_and_reserve(upload_bytes, ACCEPTED_SECONDS)

    async def promise(self) -> None:
        """Reserve the same for longer, for an upload whose bytes will arrive in later calls.

        Raises:
            NotCounted, StoreFull, StorageQuotaExceeded: see `settle`.
        """
        await self._wait_and_reserve(self._bytes, ACCEPTED_SECONDS)

    def keep(self) -> None:
        """Leave the bytes to the job or the upload, which is stored now."""
        self.is_kept = True

    async def _wait_and_reserve(self, upload_bytes: int, lease_seconds: int) -> None:
        clock = asyncio.get_running_loop().time
        give_up = clock() + COUNT_SECONDS
        while True:
            try:
                return await self._reserve(upload_bytes, lease_seconds)
            except NotCounted:
                if clock() > give_up:
                    raise
            await asyncio.sleep(COUNT_POLL_SECONDS)

    async def _reserve(self, upload_bytes: int, lease_seconds: int = LEASE_SECONDS) -> None:
        owner = self._owner
        entry = self._entry_of(owner.name if owner else None, upload_bytes, self.written)
        await asyncio.to_thread(self._reservations.reserve, self.id, entry, owner, lease_seconds)
        self.entry, self._bytes, self._reported = entry, upload_bytes, self.written


def _error(refusal: Refusal, limits: Limits) -> StoreFull | NotCounted:
    held = refusal.held
    if refusal.limit == "own":
        return StorageQuotaExceeded(
            f"you store {held} of the {limits.own} bytes allowed, with uploads that arrive now"
        )
    if refusal.limit == "shared":
        return StoreFull(
            f"the store holds {held} of the {limits.shared} bytes allowed, with what is reserved "
            "for uploads that arrive now and for the results of accepted jobs"
        )
    if refusal.limit == "pending":
        return StoreFull("the disk is nearly full")
    return NotCounted("the service counts what it stores; try again")
