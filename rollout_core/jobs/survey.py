"""What the folder of a job or an upload holds, read with few calls.

A service looks at all of them when it starts, so this is the one place where the layout of these
folders is read by names rather than by the methods of `ArtifactStore` and `UploadStore`.
"""

import os
from dataclasses import dataclass
from stat import S_ISREG
from typing import NamedTuple


class File(NamedTuple):
    """A file to which several folders may have links: it counts once for all of them."""

    inode: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Survey:
    """What a job's folder held.

    Attributes:
        changed: a number that changes when an entry of the folder appears or vanishes.
        total_bytes: size of the job's files, without `shared`.
        shared: the video, if others have links to it, too.
        has_ended: whether the job has ended, in any way.
        ended: the content of `ended.json`; None if it has not ended, or with a result.
        ticket: the content of `job.json`; None if there is none.
    """

    changed: int
    total_bytes: int
    shared: File | None
    has_ended: bool
    ended: bytes | None
    ticket: bytes | None


@dataclass(frozen=True, slots=True)
class UploadSurvey:
    """What an upload's folder held.

    Attributes:
        changed: a number that changes when an entry of the folder appears or vanishes.
        record: the content of `upload.json`; None if there is none.
        file: its bytes; None if they were removed.
    """

    changed: int
    record: bytes | None
    file: File | None


def changed_at(folder: str) -> int:
    """Return a number that changes when an entry of a folder appears or vanishes.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    return os.stat(folder).st_mtime_ns  # noqa: PTH116, a Path costs more than the call


def survey(folder: str, *, ended_name: str, submission_name: str = "submission.json") -> Survey:
    """Look at a job's folder.

    Raises:
        FileNotFoundError: there is no such folder.
        IsADirectoryError: `job.json` is a folder.
        NotADirectoryError: the job's folder is a file.
    """
    changed = changed_at(folder)
    ticket = _read(f"{folder}/job.json")
    result = _sizes(f"{folder}/result")
    video, shared = look_at_file(f"{folder}/upload/video")
    total = len(ticket or b"") + _size(f"{folder}/{submission_name}") + _attempts_bytes(folder)
    total += _size(f"{folder}/origin.json") + (0 if shared else video.bytes)
    ended = None
    if result is not None:
        total += sum(result.values())
        ended = _read(f"{folder}/result/{ended_name}") if ended_name in result else None
    return Survey(changed, total, video if shared else None, result is not None, ended, ticket)


def survey_upload(folder: str) -> UploadSurvey:
    """Look at an upload's folder.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: the upload's folder is a file.
    """
    changed = changed_at(folder)
    file, _ = look_at_file(f"{folder}/file/video")
    return UploadSurvey(changed, _read(f"{folder}/upload.json"), file if file.inode else None)


def look_at_file(path: str) -> tuple[File, bool]:
    """Return a regular file and whether it has several links; an empty one for anything else."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return File(0, 0), False
    return File(status.st_ino, _file_size(status)), status.st_nlink > 1 and S_ISREG(status.st_mode)


def _read(path: str) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        return os.read(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _sizes(folder: str) -> dict[str, int] | None:
    """Return the size of each file in a folder by name; None if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: _file_size(entry.stat(follow_symlinks=False)) for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return None


def _attempts_bytes(folder: str) -> int:
    """Return the size of the files of all attempts; mostly there are none."""
    attempts = f"{folder}/attempts"
    try:
        if os.stat(attempts).st_nlink == 2:  # noqa: PTH116, it has no folders, and never files
            return 0
    except (FileNotFoundError, NotADirectoryError):
        return 0
    below = os.walk(attempts)  # it tolerates folders that vanish
    return sum(_size(os.path.join(path, name)) for path, _, names in below for name in names)  # noqa: PTH118


def _size(path: str) -> int:
    """Return the size of a regular file in bytes; 0 for a link or a missing file."""
    try:
        return _file_size(os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _file_size(status: os.stat_result) -> int:
    return status.st_size if S_ISREG(status.st_mode) else 0
