"""The artifact store: a folder per job, in which nothing is ever seen half made.

    incoming/<random>/video       an upload while it is received
    jobs/<id>/job.json            the `Ticket`: what was fixed when the job was accepted
    jobs/<id>/upload/video        the upload, under a name of ours
    jobs/<id>/attempts/<n>/       where attempt n works
    jobs/<id>/result/             what one attempt published; `result.json` was written last
    jobs/<id>/expired             the result and the upload are gone because of their age

Folders become visible by one `rename` each, which is what makes them atomic. An attempt that
has lost the job finds its folder gone, and cannot publish.
"""

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path

from rollout_core.contract import RESULT_NAME, Artifact, ExplainResult, Ticket
from rollout_core.errors import AttemptLost, StoreUnavailable

UPLOAD_NAME = "video"


class ArtifactStore:
    """Jobs' files below one folder, shared by the service and its workers."""

    def __init__(self, root: Path) -> None:
        """Use `root`, and make it if need be."""
        self._incoming = root / "incoming"
        self._jobs = root / "jobs"
        for folder in (self._incoming, self._jobs):
            folder.mkdir(parents=True, exist_ok=True)

    def check_writable(self) -> None:
        """Write a byte and remove it.

        Raises:
            StoreUnavailable: that did not work.
        """
        probe = self._incoming / f"probe-{uuid.uuid4().hex}"
        try:
            try:
                probe.write_bytes(b"\0")
            finally:
                probe.unlink()
        except OSError as error:
            raise StoreUnavailable("the store cannot be written") from error

    @contextmanager
    def receiving(self) -> Iterator[Path]:
        """Yield a path for an upload; what `accept` has not taken by the end is removed.

        Raises:
            StoreUnavailable: there is no place for it.
        """
        folder = self._incoming / uuid.uuid4().hex
        try:
            folder.mkdir()
        except OSError as error:
            raise StoreUnavailable("the store cannot be written") from error
        try:
            yield folder / UPLOAD_NAME
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def accept(self, ticket: Ticket, upload: Path) -> None:
        """Turn a received upload into the folder of a new job."""
        folder = upload.parent
        (folder / "upload").mkdir()
        upload.rename(folder / "upload" / UPLOAD_NAME)
        (folder / "attempts").mkdir()
        _write(folder / "job.json", ticket.model_dump_json())
        folder.rename(self._job(ticket.id))

    def ticket(self, job_id: str) -> Ticket | None:
        """Return what the job was accepted with, or None if there is no such job."""
        try:
            return Ticket.model_validate_json((self._job(job_id) / "job.json").read_bytes())
        except FileNotFoundError:
            return None

    def upload_path(self, job_id: str) -> Path:
        """Return where the job's upload is: alone in its folder."""
        return self._job(job_id) / "upload" / UPLOAD_NAME

    def begin_attempt(self, job_id: str, attempt: int) -> Path:
        """Make the folder of a new attempt, and take the folders of older ones away.

        Raises:
            AttemptLost: the job has been deleted.
        """
        folder = self._job(job_id) / "attempts" / str(attempt)
        self.end_attempts(job_id)
        try:
            folder.mkdir()
        except FileNotFoundError as error:
            raise AttemptLost("the job has been deleted") from error
        return folder

    def end_attempts(self, job_id: str) -> None:
        """Take away what every attempt has left; one that still runs cannot publish."""
        for folder in (self._job(job_id) / "attempts").glob("*"):
            self._bury(folder)

    def publish(self, job_id: str, attempt: int, result: ExplainResult) -> None:
        """Make an attempt's folder the job's result; `result.json` is written last.

        Raises:
            AttemptLost: a newer attempt has begun, a result is published, or the job is deleted.
        """
        folder = self._job(job_id) / "attempts" / str(attempt)
        try:
            _write(folder / RESULT_NAME, result.model_dump_json(indent=2))
            folder.rename(self._job(job_id) / "result")
        except OSError as error:
            if folder.exists() and not self.has_result(job_id):
                raise
            raise AttemptLost(f"attempt {attempt} no longer has the job") from error

    def has_result(self, job_id: str) -> bool:
        """Whether the job has succeeded."""
        return (self._job(job_id) / "result" / RESULT_NAME).exists()

    def result(self, job_id: str) -> ExplainResult | None:
        """Return the published result, or None while there is none."""
        try:
            text = (self._job(job_id) / "result" / RESULT_NAME).read_bytes()
        except FileNotFoundError:
            return None
        return ExplainResult.model_validate_json(text)

    def artifact_path(self, job_id: str, name: str) -> Path | None:
        """Return the path of a published file, or None if there is none of that name."""
        path = self._job(job_id) / "result" / name
        return path if path.parent.name == "result" and path.is_file() else None

    def delete(self, job_id: str) -> bool:
        """Remove every byte kept for a job; say whether there was one."""
        return self._bury(self._job(job_id))

    def has_expired(self, job_id: str) -> bool:
        """Whether the job's files were removed because of their age."""
        return (self._job(job_id) / "expired").exists()

    def expire(self, job_id: str) -> None:
        """Remove a job's files for their age; its ticket and `result.json` stay."""
        folder = self._job(job_id)
        (folder / "expired").touch()
        self.end_attempts(job_id)
        shutil.rmtree(folder / "upload", ignore_errors=True)
        for path in (folder / "result").glob("*"):
            if path.name != RESULT_NAME:
                path.unlink(missing_ok=True)

    def older_than(self, age_seconds: float) -> Iterator[str]:
        """Yield the ids of jobs that were accepted so long ago and have not expired."""
        limit = time.time() - age_seconds
        for folder in self._jobs.iterdir():
            if _is_older(folder / "job.json", limit) and not self.has_expired(folder.name):
                yield folder.name

    def remove_stale_uploads(self, age_seconds: float) -> None:
        """Remove what a killed process has left half received, or half deleted, so long ago."""
        limit = time.time() - age_seconds
        for folder in self._incoming.iterdir():
            if _is_older(folder, limit):
                shutil.rmtree(folder, ignore_errors=True)

    def _job(self, job_id: str) -> Path:
        return self._jobs / job_id

    def _bury(self, folder: Path) -> bool:
        """Take a folder out of sight at once, then remove it; say whether it was there.

        Whoever still works in it can no more finish by its old path than if it had never been.
        """
        grave = self._incoming / f"deleted-{uuid.uuid4().hex}"
        try:
            folder.rename(grave)
        except FileNotFoundError:
            if folder.exists():  # it is the place of the grave that is missing
                raise
            return False
        shutil.rmtree(grave, ignore_errors=True)
        return True


def describe(path: Path) -> Artifact:
    """Return a file's name, size and digest."""
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    return Artifact(name=path.name, bytes=path.stat().st_size, sha256=digest)


def _is_older(path: Path, limit: float) -> bool:
    """Whether it was written before `limit`, in Unix seconds; what has just gone was not."""
    try:
        return path.stat().st_mtime < limit
    except FileNotFoundError:
        return False


def _write(path: Path, text: str) -> None:
    """Write a whole file beside its place, then move it there."""
    beside = path.with_name(f".{path.name}.part")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
