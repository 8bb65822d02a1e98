"""Uploads as the API handles them: stored, looked up, listed, deleted, expired, swept.

An upload lives until its own time to live is over, and longer while a job made from it has files.
It belongs to an owner, as a job does: other callers get `UploadNotFound`.
"""

import logging
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

from rollout_core.errors import UnknownFormat
from rollout_core.jobs.schemas import Upload, UploadPage
from rollout_core.jobs.store import ArtifactStore
from rollout_core.jobs.watch import Watch
from service.errors import UploadExpired, UploadIncomplete, UploadInUse, UploadNotFound
from service.faults import Faults
from service.inventory import Inventory
from service.job_lists import Place
from service.ledger import Ledger
from service.upload_store import UPLOAD_ID, Received, UploadRecord
from service.uploads_of import uploads_of

STALE_SECONDS = 60.0
"""What a request leaves behind for a moment was left by a process that was killed after this."""

STALLED_SECONDS = 600.0
"""An upload that has not grown for this long may expire, although it is not complete."""

REMEMBERED_TTLS = 4
"""The record of an upload is removed after this multiple of the time to live of its bytes."""

logger = logging.getLogger(__name__)


class StoredUploads:
    """The uploads of one store."""

    def __init__(
        self,
        store: ArtifactStore,
        inventory: Inventory,
        ledger: Ledger,
        *,
        upload_ttl: float,
        result_ttl: float,
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Let uploads live for `upload_ttl` seconds, by `now`; the files of jobs for `result_ttl`.

        Args:
            now: time in UTC that does not jump ahead; see `AgeClock`.
        """
        self._store = store
        self._uploads = uploads_of(store)
        self._inventory = inventory
        self._ledger = ledger
        self._ttl = timedelta(seconds=upload_ttl)
        self._result_ttl = timedelta(seconds=result_ttl)
        self._now = now
        self._watch = Watch(monotonic)
        self._faults = Faults(logger, store)

    def add(
        self,
        upload_id: str,
        path: Path,
        video: Received,
        *,
        owner: str | None = None,
        filename: str | None = None,
    ) -> Upload:
        """Store a video that has arrived at `path`."""
        record = UploadRecord(
            id=upload_id,
            created_at=self._now(),
            owner=owner,
            bytes=video.bytes,
            filename=filename,
            sha256=video.sha256,
        )
        self._uploads.add(record, path)
        self.look(upload_id)
        return self.describe(record)

    def get(self, upload_id: str, *, owner: str | None = None) -> Upload:
        """Return an upload as it is now.

        Raises:
            UploadNotFound: there is no such upload, or it has another owner.
            UploadExpired: its bytes were removed because of their age.
        """
        return self.describe(self.find(upload_id, owner=owner))

    def begin(
        self, upload_id: str, size: int, *, owner: str | None = None, filename: str | None = None
    ) -> UploadRecord:
        """Store an empty upload whose bytes will arrive in parts."""
        record = UploadRecord(
            id=upload_id, created_at=self._now(), owner=owner, bytes=size, filename=filename
        )
        self._uploads.begin(record)
        self.look(upload_id)
        return record

    def look(self, upload_id: str) -> None:
        """Look at an upload again that has just been completed, or removed."""
        self._inventory.uploads.look([upload_id])

    def find(self, upload_id: str, *, owner: str | None = None) -> UploadRecord:
        """Return the record of an upload.

        Raises:
            UploadNotFound, UploadExpired: see `get`.
        """
        record = self._record(upload_id, owner)
        if self._uploads.has_expired(upload_id):
            raise expired(upload_id)
        return record

    def usable(self, upload_id: str, *, owner: str | None = None) -> UploadRecord:
        """Return an upload from which a job can be made.

        Raises:
            UploadNotFound, UploadExpired: see `get`.
            UploadIncomplete: not all bytes have arrived.
        """
        record = self.find(upload_id, owner=owner)
        if not record.is_complete:
            have = self._uploads.received_bytes(upload_id)
            raise UploadIncomplete(f"{have} bytes of the upload have arrived; send the others")
        return record

    def page(
        self, *, limit: int = 50, cursor: str | None = None, owner: str | None = None
    ) -> UploadPage:
        """Return up to `limit` of the owner's uploads, newest first, from `cursor` on.

        Expired uploads are left out.

        Raises:
            InvalidRequest: the cursor is not valid.
        """
        after = Place.parse(cursor) if cursor else None
        self._inventory.uploads.find()
        records = self._inventory.uploads.newest_first(owner, after, limit + 1)
        uploads = tuple(self.describe(record) for record in records[:limit])
        if len(records) <= limit:
            return UploadPage(uploads=uploads, next_cursor=None)
        last = uploads[-1]
        cursor = str(Place(last.created_at.timestamp(), last.id))
        return UploadPage(uploads=uploads, next_cursor=cursor)

    def delete(self, upload_id: str, *, owner: str | None = None) -> None:
        """Remove an upload and every byte of it, also from the jobs made from it, which have ended.

        A job that is being made meanwhile either fails, or has the bytes and runs.

        Raises:
            UploadNotFound: see `get`.
            UploadInUse: a job made from it has not ended.
        """
        record = self._record(upload_id, owner)
        jobs = self._uploads.jobs(upload_id)
        if any(self._store.is_open(job_id) for job_id in jobs):
            raise UploadInUse("a job made from the upload has not ended; cancel it, or wait")
        with self._inventory.giving_back(self._ledger, jobs=jobs, uploads=[upload_id]):
            for job_id in jobs:
                self._store.remove_video(job_id)
            self._uploads.delete(record)

    def describe(self, record: UploadRecord) -> Upload:
        """Return an upload as the API shows it."""
        return Upload(
            id=record.id,
            state="complete" if record.is_complete else "receiving",
            filename=record.filename,
            bytes=record.bytes,
            received_bytes=self._uploads.received_bytes(record.id),
            sha256=record.sha256,
            created_at=record.created_at,
            expires_at=self.expires_at(record),
        )

    def expires_at(self, record: UploadRecord) -> datetime:
        """Return when the bytes of an upload will be removed."""
        jobs = self._uploads.jobs(record.id)
        return max([record.created_at + self._ttl, *self._ends_of_files(jobs)])

    def sweep(self) -> None:
        """Expire and forget old uploads, and remove what crashes have left."""
        now = self._now()
        self._watch.begin()
        for upload_id in filter(UPLOAD_ID.fullmatch, self._uploads.names()):
            with self._faults.isolated(upload_id, "cannot be expired"):
                self._sweep(upload_id, now)
        self._uploads.remove_leftovers(STALLED_SECONDS)

    def _sweep(self, upload_id: str, now: datetime) -> None:
        self._remove_stale_markers(upload_id)
        jobs = self._uploads.jobs(upload_id)
        if any(self._store.has_files(job_id) for job_id in jobs):
            return
        record = self._uploads.record(upload_id)
        if record is None:
            return
        age = now - record.created_at
        is_forgotten = age > REMEMBERED_TTLS * self._ttl and self._uploads.has_expired(upload_id)
        if not jobs and (is_forgotten or self._was_left(record)):
            with self._inventory.giving_back(self._ledger, uploads=[upload_id]):
                self._uploads.delete(record)
        elif age > self._ttl and self._must_expire(record):
            with self._inventory.giving_back(self._ledger, uploads=[upload_id]):
                self._uploads.expire(record)

    def _was_left(self, record: UploadRecord) -> bool:
        """Return whether the job that an upload was sent with was never stored."""
        return record.with_job and self._watch.seconds(record.id, "no job") > STALE_SECONDS

    def _remove_stale_markers(self, upload_id: str) -> None:
        """Remove the markers of jobs that are gone; one that is new may precede its job."""
        for job_id in self._uploads.jobs(upload_id):
            if self._store.exists(job_id):
                continue
            if self._watch.seconds(upload_id, job_id) > STALE_SECONDS:
                with self._inventory.giving_back(self._ledger, uploads=[upload_id]):
                    self._uploads.detach(upload_id, job_id)

    def _must_expire(self, record: UploadRecord) -> bool:
        """Return whether an old upload, of which no job has files, must expire now."""
        if self._uploads.has_expired(record.id) and not self._uploads.has_bytes(record.id):
            return False
        if record.is_complete:
            return True
        received = str(self._uploads.received_bytes(record.id))
        return self._watch.seconds(record.id, received) > STALLED_SECONDS

    def _ends_of_files(self, job_ids: Iterable[str]) -> list[datetime]:
        """Return when the files of these jobs will be removed; expired jobs are left out."""
        ends = []
        for job_id in job_ids:
            try:
                ticket = self._store.ticket(job_id) if self._store.has_files(job_id) else None
            except UnknownFormat:
                continue
            if ticket is not None:
                ends.append(ticket.created_at + self._result_ttl)
        return ends

    def _record(self, upload_id: str, owner: str | None) -> UploadRecord:
        record = self._uploads.record(upload_id)
        if record is None or record.owner != owner:
            raise not_found(upload_id)
        return record


def not_found(upload_id: str) -> UploadNotFound:
    """Return the error for an upload that does not exist, or has another owner."""
    return UploadNotFound(f"there is no upload {upload_id}")


def expired(upload_id: str) -> UploadExpired:
    """Return the error for an upload whose bytes were removed because of their age."""
    return UploadExpired(f"the upload {upload_id} has expired; send the video again")
