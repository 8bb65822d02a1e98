"""Small files of the service beside the jobs: what is still to be delivered, who has which answer.

A key is a path of names, as `webhooks/done/<id>.json`.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rollout_core.jobs.disk import PRIVATE, read_if_exists, sync, write_atomically
from rollout_core.jobs.survey import changed_at


class SmallFiles(ABC):
    """Small files by key."""

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """Return the content of a file, None if there is none."""

    @abstractmethod
    def write(self, key: str, text: str) -> None:
        """Create or replace a file. It survives a power cut."""

    @abstractmethod
    def add(self, key: str, *, flush: bool = True) -> None:
        """Create an empty file unless there is one.

        Args:
            flush: it survives a power cut.
        """

    @abstractmethod
    def remove(self, key: str, *, prune: bool = False) -> None:
        """Remove a file, if there is one.

        Args:
            prune: remove its folder, too, if it is empty then.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Return whether there is such a file."""

    @abstractmethod
    def written_at(self, key: str) -> float:
        """Return when a file was written, in Unix seconds.

        Raises:
            FileNotFoundError: there is no such file.
        """

    @abstractmethod
    def names(self, folder: str) -> Sequence[str]:
        """Return the names of all files directly in a folder; none if there is no such folder."""

    @abstractmethod
    def changed(self, folder: str) -> int:
        """Return a number that changes when a file of a folder appears or vanishes; nanoseconds.

        It is the time of the change, or the present time if that is not known.
        """


class FilesOnDisk(SmallFiles):
    """Small files in a folder."""

    def __init__(self, root: Path) -> None:
        """Keep the files below `root`."""
        self._root = root

    def read(self, key: str) -> bytes | None:
        """See `SmallFiles.read`."""
        return read_if_exists(self._root / key)

    def write(self, key: str, text: str) -> None:
        """See `SmallFiles.write`."""
        path = self._root / key
        _make_folders(path.parent)
        write_atomically(path, text)

    def add(self, key: str, *, flush: bool = True) -> None:
        """See `SmallFiles.add`."""
        path = self._root / key
        for _ in range(2):  # `remove` may remove the empty folder in between
            with suppress(FileNotFoundError):
                _make_folders(path.parent)
                path.touch()
                break
        if flush:
            sync(path.parent)

    def remove(self, key: str, *, prune: bool = False) -> None:
        """See `SmallFiles.remove`."""
        path = self._root / key
        path.unlink(missing_ok=True)
        if prune:
            with suppress(OSError):  # there are others
                path.parent.rmdir()

    def exists(self, key: str) -> bool:
        """See `SmallFiles.exists`."""
        return (self._root / key).exists()

    def written_at(self, key: str) -> float:
        """See `SmallFiles.written_at`."""
        return (self._root / key).stat().st_mtime

    def names(self, folder: str) -> Sequence[str]:
        """See `SmallFiles.names`; temporary files, whose names begin with a dot, are left out."""
        try:
            names = os.listdir(self._root / folder)  # noqa: PTH208, there may be 50,000
        except FileNotFoundError:
            return []
        return [name for name in names if not name.startswith(".")]

    def changed(self, folder: str) -> int:
        """See `SmallFiles.changed`; 0 if there is no such folder."""
        try:
            return changed_at(str(self._root / folder))
        except FileNotFoundError:
            return 0


def _make_folders(folder: Path) -> None:
    """Create a folder, and those above it, for this user alone."""
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir(mode=PRIVATE, exist_ok=True)
