"""Files on the disk that survive a power cut, or appear as a whole."""

import errno
import os
import shutil
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from rollout_core.errors import UnknownFormat

NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK})
"""Error numbers of a file system that cannot make a hard link to a file."""

PRIVATE = 0o700
"""Mode of the store's folders: its user's alone. Commands also call `make_files_private`."""

PRIVATE_FILE = 0o600


def is_plain(path: Path) -> bool:
    """Return whether this is a regular file, and not a link to one."""
    return path.is_file() and not path.is_symlink()


def open_plain(path: Path) -> BinaryIO | None:
    """Open a regular file for reading; return None for a link, or anything else.

    Raises:
        FileNotFoundError: there is nothing.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            return None
        raise
    if S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    return None


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to a file, or a flushed copy where there are no hard links."""
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with source.open("rb") as file, target.open("xb") as copy:
            shutil.copyfileobj(file, copy)
        sync(target)


def fsync_files(folder: Path) -> None:
    """Flush the files of a folder to the disk. A busy disk may need longer than a lease."""
    sync(*folder.iterdir())


def sync(*paths: Path) -> None:
    """Flush files and folders to the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_if_exists(path: Path) -> bytes | None:
    """Return the content of a file, None if it does not exist.

    Raises:
        UnknownFormat: it is a folder.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        raise UnknownFormat(f"{path.name} is a folder") from error


def write_atomically(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it."""
    beside = path.with_name(f".{path.name}.part")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def list_folder(folder: Path) -> list[Path]:
    """Return the entries of a folder; none if it does not exist or is not a folder."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
