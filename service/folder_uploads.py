"""Uploads in a folder; see `service.upload_store`.

    uploads/<id>/upload.json     the `UploadRecord`
    uploads/<id>/file/video      the bytes, as far as they have arrived
    uploads/<id>/jobs/<job id>   an empty file for each job made from it
    uploads/<id>/expired         marker: the bytes were removed because of their age
    blobs/<name>                 a second link to the bytes of complete uploads; see `_blob`

Equal uploads of one owner share their bytes: all are hard links to one file. A job has a link too,
so it keeps its video whatever becomes of the upload. Bytes are gone once the last link is.
"""

import os
import shutil
from contextlib import AbstractAsyncContextManager, suppress
from hashlib import sha256
from pathlib import Path, PurePath

from rollout_core.jobs.disk import (
    NO_LINKS,
    PRIVATE,
    link_or_copy,
    read_if_exists,
    sync,
    write_atomically,
)
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.store import UPLOAD_NAME
from rollout_core.jobs.survey import UploadSurvey, changed_at, survey_upload
from service.folder_upload_writer import FolderUploadWriter, writing
from service.upload_store import RECORD_NAME, UploadRecord, UploadStore


class FolderUploads(UploadStore):
    """The uploads of a store in a folder."""

    store: FolderStore

    def __init__(self, store: FolderStore) -> None:
        """Use the folders `uploads` and `blobs` of a store, and create them if missing."""
        self.store = store
        self._uploads = store.root / "uploads"
        self._blobs = store.root / "blobs"
        for folder in (self._uploads, self._blobs):
            folder.mkdir(mode=PRIVATE, exist_ok=True)

    def begin(self, record: UploadRecord) -> None:
        """See `UploadStore.begin`."""
        with self.store.temporary_folder() as folder:
            for name in ("file", "jobs"):
                (folder / name).mkdir()
            (folder / "file" / UPLOAD_NAME).touch()
            write_atomically(folder / RECORD_NAME, record.to_json())
            folder.rename(self._folder(record.id))
        sync(self._uploads)

    def add(self, record: UploadRecord, received: Path) -> None:
        """Store an upload that has arrived at another path. It survives a power cut."""
        with self.store.temporary_folder() as folder:
            for name in ("file", "jobs"):
                (folder / name).mkdir()
            received.rename(folder / "file" / UPLOAD_NAME)
            self._share(folder / "file" / UPLOAD_NAME, record)
            write_atomically(folder / RECORD_NAME, record.to_json())
            sync(folder / "file" / UPLOAD_NAME, folder / "file", folder)
            folder.rename(self._folder(record.id))
        sync(self._uploads)

    def complete(self, record: UploadRecord) -> None:
        """Store the size and the digest of an upload that has arrived. It survives a power cut.

        Args:
            record: with both of them.
        """
        path = self.path(record.id)
        self._share(path, record)
        sync(path, path.parent)
        write_atomically(self._folder(record.id) / RECORD_NAME, record.to_json())
        sync(self._folder(record.id))

    def record(self, upload_id: str) -> UploadRecord | None:
        """Return what is known about an upload, or None if there is no such upload.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        text = read_if_exists(self._folder(upload_id) / RECORD_NAME)
        return None if text is None else UploadRecord.from_json(text)

    def path(self, upload_id: str) -> Path:
        """Return the path of an upload's bytes."""
        return self._folder(upload_id) / "file" / UPLOAD_NAME

    def location(self, upload_id: str) -> PurePath:
        """See `UploadStore.location`."""
        return self.path(upload_id)

    def has_bytes(self, upload_id: str) -> bool:
        """See `UploadStore.has_bytes`."""
        return self.path(upload_id).exists()

    def writing(self, upload_id: str) -> AbstractAsyncContextManager[FolderUploadWriter]:
        """See `UploadStore.writing`."""
        return writing(self.path(upload_id))

    def received_bytes(self, upload_id: str) -> int:
        """Return how many bytes have arrived, 0 if they were removed."""
        try:
            return self.path(upload_id).stat().st_size
        except FileNotFoundError:
            return 0

    def attach(self, upload_id: str, job_id: str) -> None:
        """Note that a job is made from an upload.

        Raises:
            FileNotFoundError: the upload is gone.
        """
        jobs = self._folder(upload_id) / "jobs"
        (jobs / job_id).touch()
        sync(jobs)

    def detach(self, upload_id: str, job_id: str) -> None:
        """Note that a job is gone; delete the upload if it was sent with a job and has none now."""
        jobs = self._folder(upload_id) / "jobs"
        (jobs / job_id).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            record = self.record(upload_id)
            if record and record.with_job and not any(jobs.iterdir()):
                self.delete(record)

    def jobs(self, upload_id: str) -> list[str]:
        """Return the ids of the jobs made from an upload."""
        with suppress(FileNotFoundError):
            return os.listdir(f"{self._uploads}/{upload_id}/jobs")  # noqa: PTH208, of all uploads
        return []

    def delete(self, record: UploadRecord) -> bool:
        """Remove an upload, and its bytes unless a job needs them; return whether it existed."""
        existed = self.store.remove_atomically(self._folder(record.id))
        self.remove_unused_blob(record.owner, record.sha256)
        return existed

    def remove_unused_blob(self, owner: str | None, digest: str | None) -> None:
        """Remove bytes to which neither an upload nor a job has a link."""
        if digest is None:
            return
        blob = self._blob(owner, digest)
        with suppress(FileNotFoundError):
            if blob.stat().st_nlink == 1:
                blob.unlink()

    def expire(self, record: UploadRecord) -> None:
        """Remove the bytes of an old upload, but keep its record."""
        folder = self._folder(record.id)
        with suppress(FileNotFoundError):
            (folder / "expired").touch()
        shutil.rmtree(folder / "file", ignore_errors=True)
        self.remove_unused_blob(record.owner, record.sha256)

    def has_expired(self, upload_id: str) -> bool:
        """Return whether an upload's bytes were removed because of their age."""
        return (self._folder(upload_id) / "expired").exists()

    def names(self) -> list[str]:
        """Return the ids of all uploads, and the names of anything else beside them."""
        return os.listdir(self._uploads)  # noqa: PTH208, a Path for each of many uploads is slow

    def names_changed(self) -> int:
        """Return a number that changes when an upload appears or vanishes."""
        return changed_at(str(self._uploads))

    def changed(self, upload_id: str) -> int | None:
        """Return a number that changes when an upload is completed or expires; None if gone."""
        try:
            return changed_at(f"{self._uploads}/{upload_id}")
        except FileNotFoundError:
            return None

    def survey(self, upload_id: str) -> UploadSurvey | None:
        """Return what an upload's folder holds, or None if there is no such upload."""
        try:
            return survey_upload(f"{self._uploads}/{upload_id}")
        except FileNotFoundError:
            return None

    def remove_leftovers(self, age_seconds: float) -> None:
        """See `UploadStore.remove_leftovers`: bytes to which nothing has a link, at once."""
        del age_seconds
        self.remove_unused_blobs()

    def remove_unused_blobs(self) -> None:
        """Remove all bytes to which neither an upload nor a job has a link."""
        for blob in self._blobs.iterdir():
            with suppress(FileNotFoundError):
                if blob.stat().st_nlink == 1:
                    blob.unlink()

    def _share(self, path: Path, record: UploadRecord) -> None:
        """Make a complete file a link to equal bytes of the same owner, if there are any."""
        assert record.sha256 is not None
        blob = self._blob(record.owner, record.sha256)
        try:
            blob.hardlink_to(path)
        except FileExistsError:
            beside = path.with_name(f".{path.name}.shared")
            beside.unlink(missing_ok=True)
            with suppress(FileNotFoundError):  # the other upload has just been deleted
                link_or_copy(blob, beside)
                beside.replace(path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise

    def _blob(self, owner: str | None, digest: str) -> Path:
        """Return the path of the second link. Its name tells nothing to other owners."""
        name = sha256(f"{owner or ''}\0{digest}".encode()).hexdigest()
        return self._blobs / name

    def _folder(self, upload_id: str) -> Path:
        return self._uploads / upload_id
