"""The names of all jobs or uploads of a store, read again only if they may have changed."""

import time
from collections.abc import Collection
from typing import Protocol

LIST_SECONDS = 60.0
"""The names are read at least this often, even if their folder has not changed."""

SETTLED_SECONDS = 2.0
"""A folder that changed less than this before it was read may have changed again since: the times
of some file systems are this coarse."""

LISTS_SHARE = 0.005
"""Most of the processor time that the passes may spend on reading the names. With 50,000 names, one
read takes as long as the rest of a pass."""


class Folder(Protocol):
    """A folder with an entry for each name."""

    def names(self) -> Collection[str]:
        """Return the names of all entries."""

    def names_changed(self) -> int:
        """Return a number that changes when an entry appears or vanishes; nanoseconds."""


class Names:
    """The names in a folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._changed: int | None = None
        self._read_again_at = 0.0
        self._not_before = 0.0

    def read(self, *, sparingly: bool = False) -> set[str] | None:
        """Return the names; None if they are as they were.

        Args:
            sparingly: also return None if they were read so recently that reading them again would
                take more than `LISTS_SHARE`.
        """
        now, changed = time.monotonic(), self._folder.names_changed()
        if changed == self._changed and now < self._read_again_at:
            return None
        if sparingly and now < self._not_before:
            return None
        began = time.thread_time()
        names = set(self._folder.names())
        self._not_before = now + (time.thread_time() - began) / LISTS_SHARE
        self._read_again_at = now + LIST_SECONDS
        is_settled = time.time() - changed / 1e9 > SETTLED_SECONDS
        self._changed = changed if is_settled else None
        return names
