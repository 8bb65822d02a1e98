"""The artifact store: a folder per job, in which nothing is ever seen half made.

    incoming/<random>/video       an upload while it is received
    jobs/<id>/job.json            the `Ticket`: what was fixed when the job was accepted
    jobs/<id>/upload/video        the upload, under a name of ours
    jobs/<id>/attempts/<n>/       where attempt n works
    jobs/<id>/result/             its end: what one attempt published, or `ended.json` alone
    jobs/<id>/expired             the result and the upload are gone because of their age

Folders become visible by one `rename` each, which is what makes them atomic, and `result/` can
appear but once: whatever dies, a job has one end. An attempt that has lost the job finds its
folder gone, and cannot publish.
"""

import errno
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

from rollout_core.contract import RESULT_NAME, ExplainResult
from rollout_core.errors import AttemptLost, StoreFull, StoreUnavailable
from rollout_core.jobs.records import Ended, Ticket

UPLOAD_NAME = "video"
ENDED_NAME = "ended.json"


class ArtifactStore:
    """Jobs' files below one folder, shared by the service and its workers."""

    def __init__(self, root: Path) -> None:
        """Use `root`, and make it if need be."""
        self.root = root
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
            raise unavailable(error, "the store cannot be written") from error

    @contextmanager
    def receiving(self) -> Iterator[Path]:
        """Yield a path for an upload; what `accept` has not taken by the end is removed."""
        with self._beside() as folder:
            yield folder / UPLOAD_NAME

    def accept(self, ticket: Ticket, upload: Path) -> None:
        """Turn a received upload into the folder of a new job, which outlives a power cut."""
        folder = upload.parent
        (folder / "upload").mkdir()
        upload.rename(folder / "upload" / UPLOAD_NAME)
        (folder / "attempts").mkdir()
        _write(folder / "job.json", ticket.model_dump_json())
        _sync(folder / "upload" / UPLOAD_NAME, folder / "upload", folder)
        folder.rename(self._job(ticket.id))
        _sync(self._jobs)

    def ticket(self, job_id: str) -> Ticket | None:
        """Return what the job was accepted with, or None if there is no such job."""
        text = _read(self._job(job_id) / "job.json")
        return None if text is None else Ticket.model_validate_json(text)

    def upload_path(self, job_id: str) -> Path:
        """Return where the job's upload is: alone in its folder."""
        return self._job(job_id) / "upload" / UPLOAD_NAME

    def begin_attempt(self, job_id: str, attempt: int) -> Path:
        """Make the folder of a new attempt, and take the folders of older ones away.

        Raises:
            AttemptLost: the job has been deleted.
        """
        folder = self._attempt(job_id, attempt)
        for number in self._attempts(job_id):
            if number <= attempt:  # one that begins late leaves those that have overtaken it alone
                self._bury(self._attempt(job_id, number))
        try:
            folder.mkdir()
        except FileNotFoundError as error:
            raise AttemptLost("the job has been deleted") from error
        return folder

    def latest_attempt(self, job_id: str) -> int:
        """Return the number of the latest attempt that has left something, or 0."""
        return max(self._attempts(job_id), default=0)

    def end_attempts(self, job_id: str) -> None:
        """Take away what every attempt has left; one that still runs cannot publish."""
        for folder in _listed(self._job(job_id) / "attempts"):
            self._bury(folder)

    def publish(self, job_id: str, attempt: int, result: ExplainResult) -> None:
        """End a job with an attempt's folder as its result; `result.json` is written last.

        Raises:
            AttemptLost: a newer attempt has begun, the job has ended, or is deleted.
        """
        folder = self._attempt(job_id, attempt)
        try:
            _write(folder / RESULT_NAME, result.model_dump_json(indent=2))
            fsync_folder(folder)
        except FileNotFoundError as error:
            raise AttemptLost(f"attempt {attempt} no longer has the job") from error
        self._end(job_id, folder)

    def end(self, job_id: str, ended: Ended) -> None:
        """End a job without a result.

        Raises:
            AttemptLost: it has ended before, or is deleted.
        """
        with self._beside() as folder:
            _write(folder / ENDED_NAME, ended.model_dump_json(indent=2))
            self._end(job_id, folder)

    def exists(self, job_id: str) -> bool:
        """Whether there is such a job."""
        return self._job(job_id).exists()

    def has_ended(self, job_id: str) -> bool:
        """Whether the job has its end, of whatever kind."""
        return (self._job(job_id) / "result").exists()

    def is_open(self, job_id: str) -> bool:
        """Whether there is such a job, and it has no end yet."""
        return self.exists(job_id) and not self.has_ended(job_id)

    def ending(self, job_id: str) -> ExplainResult | Ended | None:
        """Return how the job ended, or None while it has not."""
        result = self.result(job_id)
        if result is not None:
            return result
        text = _read(self._job(job_id) / "result" / ENDED_NAME)
        return None if text is None else Ended.model_validate_json(text)

    def result(self, job_id: str) -> ExplainResult | None:
        """Return the published result, or None if there is none."""
        text = _read(self._job(job_id) / "result" / RESULT_NAME)
        return None if text is None else ExplainResult.model_validate_json(text)

    def artifact_path(self, job_id: str, name: str) -> Path | None:
        """Return the path of a published file, or None if there is none of that name."""
        path = self._job(job_id) / "result" / name
        return path if path.parent.name == "result" and is_plain(path) else None

    def delete(self, job_id: str) -> bool:
        """Remove every byte kept for a job; say whether there was one."""
        return self._bury(self._job(job_id))

    def keeps_upload(self, job_id: str) -> bool:
        """Whether a job's upload is kept: until it has expired to the end."""
        return self.upload_path(job_id).parent.exists()

    def has_expired(self, job_id: str) -> bool:
        """Whether the job's files were removed because of their age."""
        return (self._job(job_id) / "expired").exists()

    def expire(self, job_id: str) -> None:
        """Remove a job's files for their age; its ticket and how it ended stay.

        The upload goes last: while it is there, this is not done.
        """
        folder = self._job(job_id)
        with suppress(FileNotFoundError):  # deleted meanwhile
            (folder / "expired").touch()
        self.end_attempts(job_id)
        for path in _listed(folder / "result"):
            if path.name not in (RESULT_NAME, ENDED_NAME):
                path.unlink(missing_ok=True)
        shutil.rmtree(folder / "upload", ignore_errors=True)

    def jobs(self) -> Iterator[tuple[str, int]]:
        """Yield the id of every job, and a number that changes with what lies in its folder."""
        with os.scandir(self._jobs) as folders:
            for folder in folders:
                with suppress(FileNotFoundError):
                    yield folder.name, folder.stat().st_mtime_ns

    def bytes_of(self, job_id: str) -> int:
        """Return how many bytes the files of a job have."""
        below = os.walk(self._job(job_id))  # unlike a glob's, its folders may go meanwhile
        return sum(_size(Path(folder, name)) for folder, _, names in below for name in names)

    def older_than(self, age_seconds: float) -> Iterator[str]:
        """Yield the ids of jobs that were accepted so long ago."""
        limit = time.time() - age_seconds
        for folder in self._jobs.iterdir():
            if _written_at(folder / "job.json") < limit:
                yield folder.name

    def remove_stale_uploads(self, age_seconds: float) -> None:
        """Remove what a killed process has left half received, or half deleted, so long ago."""
        limit = time.time() - age_seconds
        for folder in self._incoming.iterdir():
            if _written_at(folder, *_listed(folder)) < limit:
                shutil.rmtree(folder, ignore_errors=True)

    def _job(self, job_id: str) -> Path:
        return self._jobs / job_id

    def _attempt(self, job_id: str, attempt: int) -> Path:
        return self._job(job_id) / "attempts" / str(attempt)

    def _attempts(self, job_id: str) -> list[int]:
        folders = _listed(self._job(job_id) / "attempts")
        return [int(folder.name) for folder in folders if folder.name.isdecimal()]

    def _end(self, job_id: str, folder: Path) -> None:
        """Make a folder the job's end, unless it has one."""
        try:
            folder.rename(self._job(job_id) / "result")
        except OSError as error:
            if folder.exists() and self.is_open(job_id):
                raise
            raise AttemptLost("the job has ended before, or is gone") from error
        _sync(self._job(job_id))

    @contextmanager
    def _beside(self) -> Iterator[Path]:
        """Yield a new folder outside all jobs; what is left of it in the end is removed."""
        folder = self._incoming / uuid.uuid4().hex
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

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


def is_plain(path: Path) -> bool:
    """Whether this is a plain file; a link to one is not."""
    return path.is_file() and not path.is_symlink()


def fsync_folder(folder: Path) -> None:
    """Have the disk take the files of a folder: a busy one needs longer for that than a lease."""
    _sync(*folder.iterdir(), folder)


def unavailable(error: OSError, detail: str) -> StoreUnavailable:
    """Return what the project calls a failure of the store's disk."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StoreFull("the disk is full") if full else StoreUnavailable(detail)


def _listed(folder: Path) -> list[Path]:
    """Return what lies in a folder, nothing if it has just gone or is none."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _written_at(*paths: Path) -> float:
    """Return when the last of them was written, in Unix seconds; never, if one has just gone."""
    try:
        return max(path.stat().st_mtime for path in paths)
    except FileNotFoundError:
        return math.inf


def _size(path: Path) -> int:
    """Return the size of a file, 0 for a link or what has just gone."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0
    return status.st_size if S_ISREG(status.st_mode) else 0


def _sync(*paths: Path) -> None:
    """Have the kernel write files and folders to the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    """Write a whole file beside its place, then move it there."""
    beside = path.with_name(f".{path.name}.part")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
