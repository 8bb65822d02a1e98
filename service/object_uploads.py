"""Uploads in a bucket; see `service.upload_store`.

    uploads/<id>/upload.json     the `UploadRecord`: the upload exists while this object does
    uploads/<id>/complete.json   the same of an upload that arrived in parts, once it is complete
    uploads/<id>/video           the bytes of an upload, once all have arrived
    uploads/<id>/parts/<offset>  bytes that have arrived in parts; see `Part`
    uploads/<id>/jobs/<job id>   an empty object for each job made from it
    uploads/<id>/expired         marker: the bytes were removed because of their age

No object is ever replaced by another content, so a call that is late changes nothing: an upload
that was deleted does not come back, and what such a call leaves is removed after a while.

Each upload and each job has its own copy of the bytes. Nothing is shared that would have to be
counted before it is deleted.
"""

import errno
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import groupby
from pathlib import Path, PurePosixPath

from rollout_core.jobs.bucket import Object, digest
from rollout_core.jobs.object_store import ObjectStore
from rollout_core.jobs.store import UPLOAD_NAME
from rollout_core.jobs.survey import File, UploadSurvey
from rollout_core.jobs.watch import Watch
from service.object_upload_writer import (
    COMPLETE_NAME,
    PARTS_NAME,
    ObjectUploadWriter,
    arrived_bytes,
    has_bytes,
    is_part,
)
from service.pools import entered
from service.upload_store import RECORD_NAME, UploadRecord, UploadStore

EXPIRED_NAME = "expired"


class ObjectUploads(UploadStore):
    """The uploads of a store in a bucket."""

    store: ObjectStore

    def __init__(self, store: ObjectStore) -> None:
        """Use the bucket of a store."""
        self.store = store
        self._bucket = store.bucket
        self._watch = Watch()

    def begin(self, record: UploadRecord) -> None:
        """See `UploadStore.begin`."""
        self._bucket.put(self._key(record.id, RECORD_NAME), record.to_json().encode())

    def add(self, record: UploadRecord, received: Path) -> None:
        """See `UploadStore.add`."""
        try:
            self._bucket.put(self._key(record.id, UPLOAD_NAME), received)
            self.begin(record)
        except BaseException:
            self._bucket.delete_folder(self._folder(record.id))
            raise

    def complete(self, record: UploadRecord) -> None:
        """See `UploadStore.complete`; the writer has put the bytes together.

        Raises:
            FileNotFoundError: the upload was deleted meanwhile.
        """
        self._bucket.create(self._key(record.id, COMPLETE_NAME), record.to_json().encode())
        if not self._has(record.id, RECORD_NAME):
            self._bucket.delete_folder(self._folder(record.id))
            raise FileNotFoundError(errno.ENOENT, "the upload was deleted", record.id)
        self._bucket.delete_folder(self._key(record.id, PARTS_NAME))

    def writing(self, upload_id: str) -> AbstractAsyncContextManager[ObjectUploadWriter]:
        """See `UploadStore.writing`; no call waits for another, see `ObjectUploadWriter`."""
        folder = self._folder(upload_id)
        return entered(lambda: ObjectUploadWriter(self._bucket, folder, self.store.receiving))

    def record(self, upload_id: str) -> UploadRecord | None:
        """See `UploadStore.record`."""
        text = self._bucket.get(self._key(upload_id, RECORD_NAME))
        if text is None:
            return None
        record = UploadRecord.from_json(text)
        if record.is_complete:
            return record
        text = self._bucket.get(self._key(upload_id, COMPLETE_NAME))
        return record if text is None else UploadRecord.from_json(text)

    def location(self, upload_id: str) -> PurePosixPath:
        """Return the key of a complete upload's bytes."""
        return PurePosixPath(self._key(upload_id, UPLOAD_NAME))

    def has_bytes(self, upload_id: str) -> bool:
        """See `UploadStore.has_bytes`; before any have arrived, there is nothing to be removed."""
        return self._has_bytes(upload_id, self._objects(upload_id))

    def received_bytes(self, upload_id: str) -> int:
        """See `UploadStore.received_bytes`."""
        found = self._objects(upload_id)
        return arrived_bytes(found) if _exists(found) else 0

    def attach(self, upload_id: str, job_id: str) -> None:
        """See `UploadStore.attach`.

        A deletion that has begun finds the marker, or this call finds that the upload is gone.
        """
        marker = self._key(upload_id, f"jobs/{job_id}")
        self._bucket.put(marker, b"")
        if not self._has(upload_id, RECORD_NAME):
            self._bucket.delete([marker])
            raise FileNotFoundError(errno.ENOENT, "there is no such upload", upload_id)

    def detach(self, upload_id: str, job_id: str) -> None:
        """See `UploadStore.detach`."""
        self._bucket.delete([self._key(upload_id, f"jobs/{job_id}")])
        record = self.record(upload_id)
        if record and record.with_job and not self.jobs(upload_id):
            self.delete(record)

    def jobs(self, upload_id: str) -> Sequence[str]:
        """See `UploadStore.jobs`."""
        _, names = self._bucket.list_children(self._key(upload_id, "jobs"))
        return names

    def delete(self, record: UploadRecord) -> bool:
        """See `UploadStore.delete`; each job has a copy of the bytes."""
        existed = self._has(record.id, RECORD_NAME)
        self._bucket.delete([self._key(record.id, RECORD_NAME)])
        self._bucket.delete_folder(self._folder(record.id))
        return existed

    def expire(self, record: UploadRecord) -> None:
        """See `UploadStore.expire`."""
        if self._has(record.id, RECORD_NAME):
            self._bucket.put(self._key(record.id, EXPIRED_NAME), b"")
        self._bucket.delete_folder(self._key(record.id, PARTS_NAME))
        self._bucket.delete([self._key(record.id, UPLOAD_NAME)])

    def has_expired(self, upload_id: str) -> bool:
        """See `UploadStore.has_expired`."""
        return self._has(upload_id, EXPIRED_NAME)

    def names(self) -> Sequence[str]:
        """See `UploadStore.names`."""
        names, others = self._bucket.list_children("uploads")
        return [*names, *others]

    def names_changed(self) -> int:
        """Return the present time: a bucket does not tell when it changes."""
        return time.time_ns()

    def changed(self, upload_id: str) -> int | None:
        """See `UploadStore.changed`."""
        found = self._objects(upload_id)
        return digest(found) if _exists(found) else None

    def survey(self, upload_id: str) -> UploadSurvey | None:
        """See `UploadStore.survey`; the number of its file is the id, since nothing is shared."""
        found = self._objects(upload_id)
        if not _exists(found):
            return None
        name = COMPLETE_NAME if COMPLETE_NAME in _names(found) else RECORD_NAME
        record = self._bucket.get(self._key(upload_id, name))
        if record is None:  # it has just been deleted
            return None
        file = File(int(upload_id, 16), arrived_bytes(found))
        has_file = self._has_bytes(upload_id, found)
        return UploadSurvey(digest(found), record, file if has_file else None)

    def remove_leftovers(self, age_seconds: float) -> None:
        """See `UploadStore.remove_leftovers`.

        These are objects of an upload that does not exist, and parts of one that is complete.
        """
        self._watch.begin()
        for upload_id, group in groupby(self._bucket.iterate("uploads"), _id_of):
            found = [item for item in group if item.key.count("/") > 1]
            left = _leftovers(found)
            if left and self._watch.seconds(upload_id, str(digest(left))) >= age_seconds:
                self._bucket.delete(item.key for item in left)

    def _has_bytes(self, upload_id: str, found: Sequence[Object]) -> bool:
        """Return whether an upload exists whose bytes were not removed, by its objects."""
        if not _exists(found):
            return False
        if has_bytes(found):
            return True
        if EXPIRED_NAME in _names(found) or COMPLETE_NAME in _names(found):
            return False
        record = self.record(upload_id)
        return record is not None and not record.is_complete

    def _objects(self, upload_id: str) -> list[Object]:
        return self._bucket.objects(self._folder(upload_id))

    def _has(self, upload_id: str, name: str) -> bool:
        return self._bucket.head(self._key(upload_id, name)) is not None

    def _key(self, upload_id: str, name: str) -> str:
        return f"{self._folder(upload_id)}/{name}"

    def _folder(self, upload_id: str) -> str:
        return f"uploads/{upload_id}"


def _names(found: Iterable[Object]) -> set[str]:
    """Return the names of an upload's objects below its folder."""
    return {item.key.split("/", 2)[2] for item in found}


def _exists(found: Iterable[Object]) -> bool:
    return RECORD_NAME in _names(found)


def _leftovers(found: Sequence[Object]) -> list[Object]:
    """Return those of the objects with one id that belong to no upload any more."""
    if not _exists(found):
        return list(found)
    if COMPLETE_NAME not in _names(found):
        return []
    return list(filter(is_part, found))


def _id_of(found: Object) -> str:
    """Return the id of the upload that an object below `uploads` belongs to."""
    return found.key.split("/")[1]
