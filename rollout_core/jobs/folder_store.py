"""A store in a folder: a folder per job. Files and folders appear in it only when complete.

    identity/id                   a random id, by which a process tells this store from others
    gpus/<uuid>.<n>               locked by the worker that uses this GPU; see `worker.gpu_claims`
    session/secret                signs the sessions of browsers; see `service.sessions`
    incoming/<random>/video       an upload while it is received
    jobs/<id>/job.json            the `Ticket`: what never changes about the job
    jobs/<id>/submission.json     the `Submission`: what the service keeps besides
    jobs/<id>/origin.json         the `Origin`: the request that submitted it, for logs and traces
    jobs/<id>/upload/video        the upload, always under this name; its folder stays until expiry
    jobs/<id>/attempts/<n>-<token>/  working folder of attempt n; the token is that of its claim
    jobs/<id>/result/             the end of the job: a published result, or `ended.json` alone
    jobs/<id>/expired             marker: the files were removed because of their age

Each folder appears by one atomic `rename`, and `result/` can appear only once: a job has exactly
one end, whichever process crashes. An attempt that lost the job finds its folder gone, and cannot
publish. Two attempts never share a folder, even if both got the same number from a Redis that went
back to an older snapshot: their tokens differ. Releases before the token named the folder `<n>`.
"""

import errno
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from pydantic import ValidationError

from rollout_core.contract import RESULT_NAME, ExplainResult
from rollout_core.errors import AttemptLost, UnknownFormat
from rollout_core.jobs.disk import (
    PRIVATE,
    PRIVATE_FILE,
    is_plain,
    link_or_copy,
    list_folder,
    read_if_exists,
    sync,
    write_atomically,
)
from rollout_core.jobs.records import Ended, Origin, Submission, Ticket
from rollout_core.jobs.small_files import FilesOnDisk
from rollout_core.jobs.spool import Spool
from rollout_core.jobs.store import UPLOAD_NAME, ArtifactStore, StoredFile, unavailable
from rollout_core.jobs.survey import Survey, changed_at, survey

ENDED_NAME = "ended.json"
SUBMISSION_NAME = "submission.json"
ORIGIN_NAME = "origin.json"
ID_NAME = "id"

ATTEMPT = re.compile(r"([0-9]+)(-[0-9a-f]+)?")
"""Name of an attempt's folder: its number, and the token of its claim if it has one."""


@dataclass(frozen=True)
class FileOnDisk(StoredFile):
    """A file of a result in a folder."""

    path: Path

    def read(self) -> bytes:
        """See `StoredFile.read`."""
        return self.path.read_bytes()


class FolderStore(ArtifactStore):
    """Jobs' files below one folder, shared by the service and its workers."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Use the folder `root`, and create it if it is missing."""
        self.root = root
        self.small_files = FilesOnDisk(root)
        self._incoming = root / "incoming"
        self._spool = Spool(self._incoming, clock)
        self._jobs = root / "jobs"
        root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        for folder in (self._incoming, self._jobs):
            folder.mkdir(mode=PRIVATE, exist_ok=True)
            if folder.stat().st_uid == os.geteuid():
                folder.chmod(PRIVATE)  # an older version let others read it

    def identity(self) -> str:
        """Return the id of this store, the same for all processes that use it."""
        return self.made_once("identity", ID_NAME, lambda: uuid.uuid4().hex)

    def made_once(self, folder_name: str, name: str, make: Callable[[], str]) -> str:
        """Return the text of a file that is the same for all processes that use this store.

        The first call makes it. Of two processes that make one at the same time, one succeeds.
        """
        path = self.root / folder_name / name
        text = read_if_exists(path)
        if text is None:
            with self.temporary_folder() as folder:
                write_atomically(folder / name, make())
                (folder / name).chmod(PRIVATE_FILE)
                with suppress(OSError):  # another process was faster; if not, the next line fails
                    folder.rename(path.parent)
            text = path.read_bytes()
        return text.decode()

    def check_writable(self) -> None:
        """Write a file of one byte, and remove it.

        Raises:
            StoreUnavailable: the file could not be written or removed.
        """
        probe = self._incoming / f"probe-{uuid.uuid4().hex}"
        try:
            self._jobs.stat()
            try:
                probe.write_bytes(b"\0")
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise unavailable(error, "the store cannot be written") from error

    def free_bytes(self) -> int:
        """Return the bytes that are free on the disk."""
        return shutil.disk_usage(self.root).free

    def total_bytes(self) -> int:
        """Return the bytes of the disk."""
        return shutil.disk_usage(self.root).total

    @contextmanager
    def receiving(self) -> Iterator[Path]:
        """Yield a path for an upload. It is removed at the end: `accept` links it."""
        with self.temporary_folder() as folder:
            yield folder / UPLOAD_NAME

    def accept(
        self,
        ticket: Ticket,
        upload: PurePath,
        submission: Submission | None = None,
        *,
        answer: str | None = None,
        origin: Origin | None = None,
    ) -> None:
        """Store a new job for an upload. It survives a power cut.

        The job gets a hard link to the upload, and keeps it whatever becomes of the upload. Where
        the file system has no hard links, it gets a copy.

        Args:
            upload: a file that has been flushed to the disk.
            answer: a job that has succeeded. The new one succeeds at once, with links to its files.
            origin: may be lost by a power cut.

        Raises:
            FileNotFoundError: the upload is gone, or a file of the answer.
            FileExistsError: there is a job with this id.
        """
        with self.temporary_folder() as folder:
            (folder / "upload").mkdir()
            link_or_copy(Path(upload), folder / "upload" / UPLOAD_NAME)
            (folder / "attempts").mkdir()
            if answer is not None:
                self._link_result(answer, folder / "result")
            write_atomically(folder / "job.json", ticket.to_json())
            write_atomically(folder / SUBMISSION_NAME, (submission or Submission()).to_json())
            if origin is not None and origin != Origin():
                (folder / ORIGIN_NAME).write_text(origin.to_json())
            sync(folder / "upload", folder)
            try:
                folder.rename(self._job(ticket.id))
            except OSError as error:
                if error.errno == errno.ENOTEMPTY:
                    raise FileExistsError(errno.EEXIST, "the job exists", ticket.id) from error
                raise
        sync(self._jobs)

    def submission(self, job_id: str) -> Submission:
        """Return what the service keeps about a job; empty for a job of an older release.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        text = read_if_exists(self._job(job_id) / SUBMISSION_NAME)
        return Submission() if text is None else Submission.from_json(text)

    def origin(self, job_id: str) -> Origin:
        """Return where a job comes from; empty if that cannot be read."""
        try:
            return Origin.read(read_if_exists(self._job(job_id) / ORIGIN_NAME))
        except (OSError, UnknownFormat):
            return Origin()

    def ticket(self, job_id: str) -> Ticket | None:
        """Return the ticket of a job, or None if there is no such job.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        try:
            text = read_if_exists(self._job(job_id) / "job.json")
        except NotADirectoryError:
            if not self._jobs.is_dir():
                raise
            return None  # a stray file
        return None if text is None else Ticket.from_json(text)

    def upload_path(self, job_id: str) -> Path:
        """Return the path of a job's upload. Its folder holds no other file."""
        return self._job(job_id) / "upload" / UPLOAD_NAME

    def begin_attempt(self, job_id: str, attempt: int, token: str | None = None) -> Path:
        """Create the folder of a new attempt, and remove the folders of older ones.

        A folder of the same number with another token stays: which of the two attempts has the job
        is decided by their tokens, not here.

        Raises:
            AttemptLost: the job has been deleted.
        """
        own = self._attempt(job_id, attempt, token)
        for number, folder in self._attempts(job_id):
            if number < attempt or folder == own:  # a late attempt must not remove newer ones
                self.remove_atomically(folder)
        try:
            own.mkdir()
        except FileNotFoundError as error:
            if self.exists(job_id):  # the folder of all attempts is missing
                raise
            raise AttemptLost("the job has been deleted") from error
        return own

    def stage_upload(self, job_id: str, attempt_folder: Path) -> Path:
        """See `ArtifactStore.stage_upload`: it is the file of the store."""
        del attempt_folder
        path = self.upload_path(job_id)
        path.stat()
        return path

    def latest_attempt(self, job_id: str) -> int:
        """Return the number of the latest attempt that has a folder, or 0."""
        return max((number for number, _ in self._attempts(job_id)), default=0)

    def end_attempt(self, job_id: str, attempt: int, token: str | None = None) -> None:
        """Remove the folder of one attempt, if there is one."""
        self.remove_atomically(self._attempt(job_id, attempt, token))

    def end_attempts(self, job_id: str) -> None:
        """Remove the folders of all attempts. One that still runs cannot publish any more."""
        for folder in list_folder(self._job(job_id) / "attempts"):
            self.remove_atomically(folder)

    def publish(
        self, job_id: str, attempt: int, result: ExplainResult, token: str | None = None
    ) -> None:
        """End a job with an attempt's folder as its result; `result.json` is written last.

        The attempt has flushed its own files to the disk, see `fsync_files`.

        Raises:
            AttemptLost: a newer attempt has started, or the job has ended or was deleted.
        """
        folder = self._attempt(job_id, attempt, token)
        try:
            write_atomically(folder / RESULT_NAME, result.model_dump_json(indent=2))
            sync(folder)
        except FileNotFoundError as error:
            raise AttemptLost(f"attempt {attempt} no longer has the job") from error
        self._end(job_id, folder)

    def end(self, job_id: str, ended: Ended) -> None:
        """End a job without a result.

        Raises:
            AttemptLost: the job has ended before, or was deleted.
        """
        with self.temporary_folder() as folder:
            write_atomically(folder / ENDED_NAME, ended.to_json())
            self._end(job_id, folder)

    def exists(self, job_id: str) -> bool:
        """Return whether there is such a job."""
        return _exists(self._job(job_id))

    def has_ended(self, job_id: str) -> bool:
        """Return whether the job has ended, in any way."""
        return _exists(self._job(job_id) / "result")

    def ending(self, job_id: str) -> ExplainResult | Ended | None:
        """Return how the job ended, or None if it has not.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        result = self.result(job_id)
        if result is not None:
            return result
        text = read_if_exists(self._job(job_id) / "result" / ENDED_NAME)
        return None if text is None else Ended.from_json(text)

    def result(self, job_id: str) -> ExplainResult | None:
        """Return the published result, or None if there is none.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        text = read_if_exists(self._job(job_id) / "result" / RESULT_NAME)
        if text is None:
            return None
        try:
            return ExplainResult.model_validate_json(text, extra="ignore")
        except ValidationError as error:
            raise UnknownFormat(f"the result of job {job_id} cannot be read") from error

    def artifact_path(self, job_id: str, name: str) -> Path | None:
        """Return the path of a published file, or None if there is none of that name."""
        path = self._job(job_id) / "result" / name
        return path if path.parent.name == "result" and is_plain(path) else None

    def artifact(self, job_id: str, name: str) -> FileOnDisk | None:
        """See `ArtifactStore.artifact`."""
        path = self.artifact_path(job_id, name)
        try:
            return FileOnDisk(name, path.stat().st_size, path) if path else None
        except FileNotFoundError:
            return None

    def delete(self, job_id: str) -> bool:
        """Remove every byte of a job; return whether it existed."""
        return self.remove_atomically(self._job(job_id))

    def has_files(self, job_id: str) -> bool:
        """Return whether a job's files have not expired; `expire` removes this folder last."""
        return self.upload_path(job_id).parent.exists()

    def remove_video(self, job_id: str) -> None:
        """Remove the video of a job that has ended, and nothing else.

        Its folder stays: that says that the job has not expired. The time of the job's folder is
        set, so that other processes notice and count the job again.
        """
        with suppress(FileNotFoundError):
            self.upload_path(job_id).unlink()
            os.utime(self._job(job_id))

    def has_expired(self, job_id: str) -> bool:
        """Return whether the job's files were removed because of their age."""
        return (self._job(job_id) / "expired").exists()

    def expire(self, job_id: str) -> None:
        """Remove an old job's files, but keep its ticket and how it ended.

        The upload is removed last: while it exists, expiry is not complete.
        """
        folder = self._job(job_id)
        with suppress(FileNotFoundError):  # deleted meanwhile
            (folder / "expired").touch()
        self.end_attempts(job_id)
        for path in list_folder(folder / "result"):
            if path.name not in (RESULT_NAME, ENDED_NAME):
                path.unlink(missing_ok=True)
        shutil.rmtree(folder / "upload", ignore_errors=True)

    def names(self) -> list[str]:
        """Return the names of all jobs' folders, and of anything else beside them."""
        return os.listdir(self._jobs)  # noqa: PTH208, a Path for each of 50,000 jobs is slow

    def names_changed(self) -> int:
        """Return a number that changes when a name appears or vanishes."""
        return changed_at(str(self._jobs))

    def changed(self, job_id: str) -> int | None:
        """Return a number that changes when a job ends or expires; None if there is no such job."""
        try:
            return changed_at(f"{self._jobs}/{job_id}")
        except FileNotFoundError:
            return None

    def survey(self, job_id: str) -> Survey | None:
        """Return what a job's folder holds, or None if there is no such job."""
        try:
            return survey(
                f"{self._jobs}/{job_id}", ended_name=ENDED_NAME, submission_name=SUBMISSION_NAME
            )
        except FileNotFoundError:
            return None

    def accepted_at(self, job_id: str) -> float:
        """Return when a job was accepted, in Unix seconds; infinity if there is no such job."""
        return _written_at(self._job(job_id) / "job.json")

    def remove_stale_uploads(self, age_seconds: float) -> None:
        """Remove uploads and deletions that did not change while this object looked on.

        Only the time between calls counts, by the monotonic clock: other clocks may jump.

        Args:
            age_seconds: of the first call that saw such a folder as it is now.
        """
        self._spool.remove_stale(age_seconds)

    def _link_result(self, job_id: str, folder: Path) -> None:
        """Fill a new folder with links to the files of a job's result."""
        result = self.result(job_id)
        if result is None:
            raise FileNotFoundError(errno.ENOENT, "the job has no result", job_id)
        folder.mkdir()
        for name in (RESULT_NAME, *(artifact.name for artifact in result.artifacts)):
            link_or_copy(self._job(job_id) / "result" / name, folder / name)
        sync(folder)

    def _job(self, job_id: str) -> Path:
        return self._jobs / job_id

    def _attempt(self, job_id: str, attempt: int, token: str | None) -> Path:
        name = str(attempt) if token is None else f"{attempt}-{token}"
        return self._job(job_id) / "attempts" / name

    def _attempts(self, job_id: str) -> list[tuple[int, Path]]:
        """Return the number and the folder of each attempt that has one."""
        folders = list_folder(self._job(job_id) / "attempts")
        named = ((ATTEMPT.fullmatch(folder.name), folder) for folder in folders)
        return [(int(match[1]), folder) for match, folder in named if match]

    def _end(self, job_id: str, folder: Path) -> None:
        """Make a folder the job's end, unless the job has ended already."""
        try:
            folder.rename(self._job(job_id) / "result")
        except OSError as error:
            if folder.exists() and self.is_open(job_id):
                raise
            raise AttemptLost("the job has ended before, or was deleted") from error
        sync(self._job(job_id))

    def temporary_folder(self) -> AbstractContextManager[Path]:
        """Yield a new folder outside all jobs. It is removed at the end unless it was moved."""
        return self._spool.temporary_folder()

    def remove_atomically(self, folder: Path) -> bool:
        """Rename a folder out of the way, then remove it; return whether it existed.

        A process still working in the folder can no longer publish it: its old path is gone.
        """
        trash = self._incoming / f"deleted-{uuid.uuid4().hex}"
        try:
            folder.rename(trash)
        except FileNotFoundError:
            if folder.exists():  # the folder of the new name is missing
                raise
            return False
        shutil.rmtree(trash, ignore_errors=True)
        return True


def _exists(path: Path) -> bool:
    """Return whether there is such a file or folder.

    Raises:
        OSError: that cannot be told, because the store is ill. `Path.exists` may call it missing.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _written_at(path: Path) -> float:
    """Return the modification time in Unix seconds; infinity if the path is missing."""
    try:
        return path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return math.inf
