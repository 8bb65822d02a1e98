"""The artifact store: what jobs are made of, for the service and all its workers.

There are two: `FolderStore` keeps everything in a folder, `ObjectStore` in a bucket. Both keep the
same promises, which are those of `ArtifactStore`, and both pass the same tests. `open_store` is in
`rollout_core.jobs.stores`.

A job has exactly one end, whichever process crashes. It appears as a whole, and what belongs to it
is gone once it is deleted. Two attempts never share a folder, even if both got the same number from
a Redis that went back to an older snapshot: their tokens differ.
"""

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import ClassVar

from rollout_core.contract import ExplainResult
from rollout_core.errors import StoreFull, StoreUnavailable
from rollout_core.jobs.records import Ended, Origin, Submission, Ticket
from rollout_core.jobs.small_files import SmallFiles
from rollout_core.jobs.survey import Survey

UPLOAD_NAME = "video"

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a store without room."""

ILL = frozenset(
    getattr(errno, name)
    for name in (
        *("EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ENOTCONN", "ENODEV", "ENXIO", "EREMOTEIO"),
        *("ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ESHUTDOWN", "EUCLEAN", "ENOLCK"),
    )
)
"""Error numbers of a store that cannot be used at present: read-only, broken or not connected."""

_OF_ONE_FILE = (
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
)

_OF_ONE_BLOCK = (errno.EIO, errno.EUCLEAN, errno.ESTALE)


@dataclass(frozen=True)
class StoredFile(ABC):
    """A file of a result.

    Attributes:
        name: its name among the artifacts.
        size: in bytes.
    """

    name: str
    size: int

    @abstractmethod
    def read(self) -> bytes:
        """Return its content.

        Raises:
            FileNotFoundError: it has just been deleted.
        """


class ArtifactStore(ABC):
    """The jobs of one store. All methods may raise OSError if the store cannot be used.

    Attributes:
        root: a folder of this machine: the store itself, or what a process needs besides.
        small_files: of the service, beside the jobs.
        is_on_disk: all is on the disk of `root`, where uploads and jobs share a video. Otherwise
            that disk has only what arrives or is being worked on, and each has a copy elsewhere.
    """

    is_on_disk: ClassVar[bool] = True
    root: Path
    small_files: SmallFiles

    @abstractmethod
    def identity(self) -> str:
        """Return the id of this store, the same for all processes that use it."""

    @abstractmethod
    def made_once(self, folder_name: str, name: str, make: Callable[[], str]) -> str:
        """Return the text of a file that is the same for all processes that use this store.

        The first call makes it. Of two processes that make one at the same time, one succeeds.
        """

    @abstractmethod
    def check_writable(self) -> None:
        """Write a file of one byte, and remove it.

        Raises:
            StoreUnavailable: the file could not be written or removed.
        """

    @abstractmethod
    def free_bytes(self) -> int:
        """Return the bytes that are free on the disk of `root`."""

    @abstractmethod
    def total_bytes(self) -> int:
        """Return the bytes of the disk of `root`."""

    def blames_one_job(self, error: OSError) -> bool:
        """Return whether an error is one of the files it names, while the store can be written.

        A damaged block of a disk may hurt one file, too.
        """
        if error.errno in _OF_ONE_FILE:
            return True
        if error.errno not in _OF_ONE_BLOCK:
            return False
        try:
            self.check_writable()
        except StoreUnavailable:
            return False
        return True

    @abstractmethod
    def receiving(self) -> AbstractContextManager[Path]:
        """Yield a path on this machine for an upload. It is removed at the end."""

    @abstractmethod
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

        The job keeps its video whatever becomes of the upload.

        Args:
            upload: where this store has the upload.
            answer: a job that has succeeded. The new one succeeds at once, with the same files.
            origin: may be lost by a power cut.

        Raises:
            FileNotFoundError: the upload is gone, or a file of the answer.
            FileExistsError: there is a job with this id.
        """

    @abstractmethod
    def submission(self, job_id: str) -> Submission:
        """Return what the service keeps about a job; empty for a job of an older release.

        Raises:
            UnknownFormat: this version cannot read it.
        """

    @abstractmethod
    def origin(self, job_id: str) -> Origin:
        """Return where a job comes from; empty if that cannot be read."""

    @abstractmethod
    def ticket(self, job_id: str) -> Ticket | None:
        """Return the ticket of a job, or None if there is no such job.

        Raises:
            UnknownFormat: this version cannot read it.
        """

    @abstractmethod
    def begin_attempt(self, job_id: str, attempt: int, token: str | None = None) -> Path:
        """Create a folder on this machine for the files of a new attempt.

        An older attempt cannot publish any more. One of the same number with another token can:
        which of the two has the job is decided by their tokens, not here.

        Raises:
            AttemptLost: the job has been deleted.
        """

    @abstractmethod
    def stage_upload(self, job_id: str, attempt_folder: Path) -> Path:
        """Return a path on this machine of a job's video, for an attempt.

        Its folder holds no other file.

        Raises:
            FileNotFoundError: the video is gone.
        """

    @abstractmethod
    def latest_attempt(self, job_id: str) -> int:
        """Return the highest number of an attempt that has begun and was not removed, or 0."""

    @abstractmethod
    def end_attempt(self, job_id: str, attempt: int, token: str | None = None) -> None:
        """Remove the files of one attempt, unless they are the result."""

    @abstractmethod
    def end_attempts(self, job_id: str) -> None:
        """Remove the files of all attempts, except the result."""

    @abstractmethod
    def publish(
        self, job_id: str, attempt: int, result: ExplainResult, token: str | None = None
    ) -> None:
        """End a job with the files of an attempt as its result, and `result.json` beside them.

        The attempt has flushed its own files to the disk, see `fsync_files`.

        Raises:
            AttemptLost: a newer attempt has started, or the job has ended or was deleted.
        """

    @abstractmethod
    def end(self, job_id: str, ended: Ended) -> None:
        """End a job without a result. No attempt can publish any more.

        Raises:
            AttemptLost: the job has ended before, or was deleted.
        """

    @abstractmethod
    def exists(self, job_id: str) -> bool:
        """Return whether there is such a job."""

    @abstractmethod
    def has_ended(self, job_id: str) -> bool:
        """Return whether the job has ended, in any way."""

    def is_open(self, job_id: str) -> bool:
        """Return whether there is such a job, and it has not ended."""
        return self.exists(job_id) and not self.has_ended(job_id)

    @abstractmethod
    def ending(self, job_id: str) -> ExplainResult | Ended | None:
        """Return how the job ended, or None if it has not.

        Raises:
            UnknownFormat: this version cannot read it.
        """

    @abstractmethod
    def result(self, job_id: str) -> ExplainResult | None:
        """Return the published result, or None if there is none.

        Raises:
            UnknownFormat: this version cannot read it.
        """

    @abstractmethod
    def artifact(self, job_id: str, name: str) -> StoredFile | None:
        """Return a file of the result, or None if there is none of that name."""

    @abstractmethod
    def delete(self, job_id: str) -> bool:
        """Remove every byte of a job; return whether it existed."""

    @abstractmethod
    def has_files(self, job_id: str) -> bool:
        """Return whether a job's files have not expired: `expire` has not ended."""

    @abstractmethod
    def remove_video(self, job_id: str) -> None:
        """Remove the video of a job that has ended, and nothing else.

        Other processes notice, and count the job again.
        """

    @abstractmethod
    def has_expired(self, job_id: str) -> bool:
        """Return whether the job's files were removed because of their age."""

    @abstractmethod
    def expire(self, job_id: str) -> None:
        """Remove an old job's files, but keep its ticket and how it ended."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Return the ids of all jobs, and the names of anything else beside them."""

    @abstractmethod
    def names_changed(self) -> int:
        """Return a number that changes when a name appears or vanishes; nanoseconds."""

    @abstractmethod
    def changed(self, job_id: str) -> int | None:
        """Return a number that changes when a job ends or expires; None if there is no such job."""

    @abstractmethod
    def survey(self, job_id: str) -> Survey | None:
        """Return what the store holds of a job, or None if there is no such job."""

    @abstractmethod
    def accepted_at(self, job_id: str) -> float:
        """Return when a job was accepted, in Unix seconds; infinity if there is no such job."""

    @abstractmethod
    def remove_stale_uploads(self, age_seconds: float) -> None:
        """Remove what a process that was killed has left, such as half an upload.

        Only what did not change between calls of this object counts, by the monotonic clock.

        Args:
            age_seconds: of the first call that saw it as it is now.
        """


def unavailable(error: OSError, detail: str) -> StoreUnavailable:
    """Return the project's error for an OSError of the store."""
    full = error.errno in FULL
    return StoreFull("the disk is full") if full else StoreUnavailable(detail)
