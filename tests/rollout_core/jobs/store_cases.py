"""Stores of both kinds, for tests of what both promise."""

import errno
import os
import socket
import uuid
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import pytest

from rollout_core.contract import Artifact, ExplainRequest, ExplainResult
from rollout_core.jobs.bucket import Bucket
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.object_store import ObjectStore
from rollout_core.jobs.records import Ended, JobError, Ticket
from rollout_core.jobs.store import ArtifactStore

JOB = "0123456789abcdef" * 2
OTHER = "f" * 32
NOW = datetime(2026, 1, 1, tzinfo=UTC)

FAILED = Ended(
    state="failed",
    attempt=1,
    started_at=NOW,
    ended_at=NOW,
    error=JobError(code="c", title="t", detail="d"),
)
CANCELED = Ended(state="canceled", attempt=0, started_at=None, ended_at=NOW)


def ticket(job_id: str = JOB, upload_bytes: int = 7) -> Ticket:
    request = ExplainRequest()
    return Ticket(id=job_id, request=request, created_at=NOW, upload_bytes=upload_bytes)


def result(attempt: int, *names: str) -> ExplainResult:
    """A result with some artifacts."""
    return ExplainResult(
        model="m",
        checkpoint_sha256=None,
        request=ExplainRequest(),
        predictions=(),
        clips=1,
        frames=8,
        artifacts=tuple(Artifact(name=name, bytes=1, sha256="0" * 64) for name in names),
        timings_seconds={},
        attempt=attempt,
        started_at=NOW,
        ended_at=NOW,
    )


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class StoreCase(ABC):
    """A store, and what a test needs to know about its kind.

    Attributes:
        store: empty at first.
        seconds: the time of its monotonic clock.
    """

    store: ArtifactStore

    def __init__(self) -> None:
        self.seconds = 1000.0

    @abstractmethod
    def another(self) -> ArtifactStore:
        """Return the same store, as another process opens it."""

    @abstractmethod
    def upload(self, content: bytes) -> PurePath:
        """Store the bytes of an upload, and return where."""

    @abstractmethod
    def remove_upload(self, upload: PurePath) -> None:
        """Remove the bytes of an upload."""

    @abstractmethod
    def kept(self) -> list[str]:
        """Return the names of all files of the store, uploads aside."""

    @abstractmethod
    def write(self, job_id: str, name: str, text: bytes) -> None:
        """Replace a document of a job; `name` is "ticket" or "end"."""

    @abstractmethod
    def fall_ill(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the store unusable."""

    def accept(self, job_id: str = JOB, content: bytes = b"a video", **options: Any) -> str:
        """Accept a job for an upload of its own."""
        upload = self.upload(content)
        self.store.accept(ticket(job_id, len(content)), upload, **options)
        self.remove_upload(upload)
        return job_id

    def publish(self, job_id: str = JOB, attempt: int = 1, **files: bytes) -> ExplainResult:
        """Make an attempt; `sheet=b"png"` is a file sheet.png."""
        folder = self.store.begin_attempt(job_id, attempt, "a")
        for name, content in files.items():
            (folder / f"{name}.png").write_bytes(content)
        published = result(attempt, *(f"{name}.png" for name in files))
        self.store.publish(job_id, attempt, published, "a")
        return published


class FolderCase(StoreCase):
    """A store in a folder."""

    store: FolderStore

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.store = FolderStore(folder / "data", clock=lambda: self.seconds)

    def another(self) -> FolderStore:
        return FolderStore(self._folder / "data")

    def upload(self, content: bytes) -> Path:
        path = self._folder / f"upload-{uuid.uuid4().hex}"
        path.write_bytes(content)
        return path

    def remove_upload(self, upload: PurePath) -> None:
        Path(upload).unlink()

    def kept(self) -> list[str]:
        return files_below(self._folder / "data")

    def write(self, job_id: str, name: str, text: bytes) -> None:
        folder = self._folder / "data" / "jobs" / job_id
        path = folder / "job.json" if name == "ticket" else folder / "result" / "ended.json"
        path.write_bytes(text)

    def fall_ill(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        for name in ("stat", "write_bytes", "read_bytes", "rename", "mkdir"):
            monkeypatch.setattr(Path, name, fail)


class BucketCase(StoreCase):
    """A store in a bucket."""

    store: ObjectStore

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        super().__init__()
        self.bucket = bucket
        self._folder = folder
        self.store = ObjectStore(bucket, folder / "here", clock=lambda: self.seconds)

    def another(self) -> ObjectStore:
        return ObjectStore(self.bucket, self._folder / f"other-{uuid.uuid4().hex}")

    def upload(self, content: bytes) -> PurePosixPath:
        key = f"uploads/{uuid.uuid4().hex}/video"
        self.bucket.put(key, content)
        return PurePosixPath(key)

    def remove_upload(self, upload: PurePath) -> None:
        self.bucket.delete([str(upload)])

    def kept(self) -> list[str]:
        keys = [found.key for found in self.bucket.objects("")]
        keys = [key for key in keys if not key.startswith("uploads/")]
        return sorted(keys) + files_below(self._folder)

    def write(self, job_id: str, name: str, text: bytes) -> None:
        key = f"jobs/{job_id}/job.json"
        if name == "end":
            document = self.store._find(job_id)
            assert document
            key = f"jobs/{job_id}/{document.life}/end.json"
        self.bucket.put(key, text)
        self.seconds += 60  # what is remembered about it is old

    def fall_ill(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds += 60
        gone = gone_bucket(monkeypatch)
        monkeypatch.setattr(self.bucket, "_store", gone._store)


def gone_bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Return a bucket whose server does not exist; requests to it fail soon."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setattr("rollout_core.jobs.bucket.TRY_AGAIN_SECONDS", 0.3)
        return Bucket("rollout")
