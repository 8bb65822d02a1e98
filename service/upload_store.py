"""Uploads: videos that any number of jobs can explain.

An artifact store has its uploads beside its jobs: `FolderUploads` has those of a folder,
`ObjectUploads` those of a bucket. Both keep the promises of `UploadStore`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from hashlib import file_digest
from pathlib import Path, PurePath
from typing import Self

from pydantic import Field

from rollout_core.contract import UploadId
from rollout_core.jobs.records import StoredRecord
from rollout_core.jobs.store import ArtifactStore
from rollout_core.jobs.survey import UploadSurvey
from rollout_core.patterns import SHA256
from service.upload_writer import UploadWriter

RECORD_NAME = "upload.json"

UPLOAD_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Received:
    """A video that has arrived: its size and its digest."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return the size and the digest of a file."""
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
            return cls(file.tell(), digest)


class UploadRecord(StoredRecord):
    """What is known about an upload; `upload.json` in its folder.

    Attributes:
        bytes: size of the whole file; None while it is not known.
        sha256: None until all bytes have arrived.
        with_job: it was sent with a job, and is removed with the last job made from it.
    """

    id: UploadId
    created_at: datetime
    owner: str | None = None
    bytes: int | None = None
    filename: str | None = None
    sha256: str | None = Field(None, pattern=SHA256)
    with_job: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether all bytes have arrived."""
        return self.sha256 is not None


class UploadStore(ABC):
    """The uploads of an artifact store.

    Attributes:
        store: the artifact store.
    """

    store: ArtifactStore

    @abstractmethod
    def begin(self, record: UploadRecord) -> None:
        """Store a new, empty upload."""

    @abstractmethod
    def add(self, record: UploadRecord, received: Path) -> None:
        """Store an upload that has arrived at a path of this machine. It survives a power cut."""

    @abstractmethod
    def complete(self, record: UploadRecord) -> None:
        """Store the size and the digest of an upload that has arrived. It survives a power cut.

        Args:
            record: with both of them.
        """

    @abstractmethod
    def writing(self, upload_id: str) -> AbstractAsyncContextManager[UploadWriter]:
        """Become the only writer of an upload that arrives in parts, until the end.

        Raises:
            UploadLocked: the writer did not stop, or a third call wants the upload, too.
            FileNotFoundError: the upload is gone.
        """

    @abstractmethod
    def record(self, upload_id: str) -> UploadRecord | None:
        """Return what is known about an upload, or None if there is no such upload.

        Raises:
            UnknownFormat: this version cannot read it.
        """

    @abstractmethod
    def location(self, upload_id: str) -> PurePath:
        """Return where the artifact store has a complete upload; see `ArtifactStore.accept`."""

    @abstractmethod
    def has_bytes(self, upload_id: str) -> bool:
        """Return whether there is such an upload, and its bytes were not removed."""

    @abstractmethod
    def received_bytes(self, upload_id: str) -> int:
        """Return how many bytes have arrived, 0 if they were removed."""

    @abstractmethod
    def attach(self, upload_id: str, job_id: str) -> None:
        """Note that a job is made from an upload.

        Raises:
            FileNotFoundError: the upload is gone.
        """

    @abstractmethod
    def detach(self, upload_id: str, job_id: str) -> None:
        """Note that a job is gone; delete the upload if it was sent with a job and has none now."""

    @abstractmethod
    def jobs(self, upload_id: str) -> Sequence[str]:
        """Return the ids of the jobs made from an upload."""

    @abstractmethod
    def delete(self, record: UploadRecord) -> bool:
        """Remove an upload, and its bytes unless a job needs them; return whether it existed."""

    @abstractmethod
    def expire(self, record: UploadRecord) -> None:
        """Remove the bytes of an old upload, but keep its record."""

    @abstractmethod
    def has_expired(self, upload_id: str) -> bool:
        """Return whether an upload's bytes were removed because of their age."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Return the ids of all uploads, and the names of anything else beside them."""

    @abstractmethod
    def names_changed(self) -> int:
        """Return a number that changes when an upload appears or vanishes; nanoseconds."""

    @abstractmethod
    def changed(self, upload_id: str) -> int | None:
        """Return a number that changes when an upload is completed or expires; None if gone."""

    @abstractmethod
    def survey(self, upload_id: str) -> UploadSurvey | None:
        """Return what the store holds of an upload, or None if there is no such upload."""

    @abstractmethod
    def remove_leftovers(self, age_seconds: float) -> None:
        """Remove what belongs to no upload, and was left by a process that was killed.

        Args:
            age_seconds: since this object first saw it as it is now, if that must be known.
        """
