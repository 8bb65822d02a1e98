"""What the store holds of uploads, as it was last looked at.

An upload that is known is looked at again if it is not complete, or if it is its turn; see
`service.inventory`, which does the same for jobs.
"""

import logging
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from heapq import nlargest
from threading import Lock

from rollout_core.errors import UnknownFormat
from rollout_core.jobs.survey import UploadSurvey
from service.entries import Entries
from service.faults import Faults
from service.ledger import Entry
from service.names import Names
from service.upload_store import UPLOAD_ID, UploadRecord, UploadStore

TURN_SECONDS = 0.005
"""Processor time of each pass for looking at known uploads."""

logger = logging.getLogger(__name__)

Place = tuple[float, str]
"""Place in the list of an owner: creation time in Unix seconds, and id."""


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """An upload of the store.

    Attributes:
        changed: number of its folder; a complete upload with the same number is the same.
        record: None if this version cannot read it.
        has_file: whether its bytes have not been removed.
        place: in the list of its owner; None if it is not listed.
    """

    changed: int
    record: UploadRecord | None
    has_file: bool
    place: Place | None = None

    @property
    def owner(self) -> str | None:
        """The owner, if the record can be read."""
        return self.record.owner if self.record else None

    @property
    def is_settled(self) -> bool:
        """Whether it changes only together with its folder."""
        return not self.has_file or self.record is None or self.record.is_complete


class UploadInventory:
    """All uploads of a store."""

    def __init__(self, uploads: UploadStore, entries: Entries) -> None:
        """Know no upload yet; keep `entries` as the store has them."""
        self._store = uploads
        self._entries = entries
        self._faults = Faults(logger, uploads.store)
        self._uploads: dict[str, StoredUpload] = {}
        self._growing: set[str] = set()
        self._turns: Iterator[str] = iter(())
        self._names = Names(uploads)
        self._lock = Lock()

    def refresh(self) -> None:
        """Look at new uploads and those that grow; forget those that are gone; and some others."""
        self.find(sparingly=True)
        self.look(set(self._growing))
        end = time.thread_time() + TURN_SECONDS
        for upload_id in self._turns:
            known = self._uploads.get(upload_id)
            if known and self._store.changed(upload_id) != known.changed:
                self.look([upload_id])
            if time.thread_time() > end:
                return
        self._turns = iter(list(self._uploads))

    def find(self, *, sparingly: bool = False) -> None:
        """Look at new uploads, and forget those that are gone; see `Names.read`."""
        with self._lock:
            known, names = set(self._uploads), self._names.read(sparingly=sparingly)
        if names is not None:
            self.look({*filter(UPLOAD_ID.fullmatch, names - known), *(known - names)})

    def look(self, upload_ids: Collection[str]) -> None:
        """Look at some uploads again."""
        for upload_id in upload_ids:
            with self._faults.isolated(upload_id, "cannot be counted"):
                self._look_at(upload_id)

    def newest_first(
        self, owner: str | None, after: Place | None, count: int
    ) -> list[UploadRecord]:
        """Return up to `count` uploads of an owner that have not expired, from `after` on."""
        places = (
            known.place
            for known in list(self._uploads.values())
            if known.place and known.owner == owner and (after is None or known.place < after)
        )
        found = (self._uploads.get(upload_id) for _, upload_id in nlargest(count, places))
        return [known.record for known in found if known and known.record]

    def _look_at(self, upload_id: str) -> None:
        seen = self._store.survey(upload_id)
        if seen is None:
            self._uploads.pop(upload_id, None)
            self._growing.discard(upload_id)
            self._entries.put(upload_id, None)
            return
        record = self._read(upload_id, seen)
        place = (record.created_at.timestamp(), upload_id) if record and seen.file else None
        upload = StoredUpload(seen.changed, record, seen.file is not None, place)
        self._uploads[upload_id] = upload
        (self._growing.discard if upload.is_settled else self._growing.add)(upload_id)
        if upload.is_settled:
            own = Entry.of_files(upload.owner, len(seen.record or b""))
            self._entries.put(upload_id, own, seen.file)
        else:
            assert record
            assert seen.file
            entry = Entry.of_video(record.owner, record.bytes or 0, seen.file.bytes)
            self._entries.put(upload_id, entry)

    def _read(self, upload_id: str, seen: UploadSurvey) -> UploadRecord | None:
        if seen.record is None:
            self._faults.report(upload_id, "cannot be read", "it has no upload.json")
            return None
        try:
            return UploadRecord.from_json(seen.record)
        except UnknownFormat as error:
            self._faults.report(upload_id, "cannot be read", error)
            return None
