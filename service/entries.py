"""The ledger's entries of everything in the store: each file counts once, whoever has links to it.

A job and an upload have an entry each, for what is theirs alone. A video that they share has an
entry of its own, as long as one of them has a link to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from types import MappingProxyType

from rollout_core.jobs.survey import File
from service.ledger import Entry


@dataclass(slots=True)
class _Shared:
    """A shared file: its size, its owner, and how many have a link to it."""

    bytes: int
    owner: str | None
    holders: int = 0


class Entries:
    """Entries by key: the id of a job or an upload, or `file_key`."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._files: dict[str, File] = {}
        self._shared: dict[int, _Shared] = {}
        self._changed: set[str] = set()
        self._lock = Lock()

    def put(self, holder: str, entry: Entry | None, file: File | None = None) -> None:
        """Replace the entry of a job or an upload, and its link to a file; None: it is gone."""
        with self._lock:
            if (self._entries.get(holder), self._files.get(holder)) == (entry, file):
                return
            self._changed |= self._keys_of(holder)
            self._release(holder)
            if entry is None:
                self._entries.pop(holder, None)
                return
            self._entries[holder] = entry
            if file is not None:
                self._hold(holder, file, entry.owner)
                self._changed.add(file_key(file))

    def all(self) -> Mapping[str, Entry]:
        """Return a view of all entries. It changes with them, so copy it to iterate over it."""
        return MappingProxyType(self._entries)

    def take_changed(self) -> set[str]:
        """Return the keys of the entries that are new, differ or are gone since the last call."""
        with self._lock:
            changed, self._changed = self._changed, set()
        return changed

    def keys_of(self, holder: str) -> set[str]:
        """Return the keys of the entries that count what a job or an upload holds."""
        with self._lock:
            return self._keys_of(holder)

    def missing(self, keys: set[str]) -> set[str]:
        """Return those of `keys` that have no entry."""
        with self._lock:
            return keys - self._entries.keys()

    def _keys_of(self, holder: str) -> set[str]:
        file = self._files.get(holder)
        return {holder} if file is None else {holder, file_key(file)}

    def _hold(self, holder: str, file: File, owner: str | None) -> None:
        shared = self._shared.setdefault(file.inode, _Shared(file.bytes, owner))
        shared.bytes = file.bytes
        shared.holders += 1
        self._files[holder] = file
        self._entries[file_key(file)] = Entry.of_files(shared.owner, shared.bytes)

    def _release(self, holder: str) -> None:
        file = self._files.pop(holder, None)
        if file is None:
            return
        shared = self._shared[file.inode]
        shared.holders -= 1
        if shared.holders == 0:
            del self._shared[file.inode]
            del self._entries[file_key(file)]


def file_key(file: File) -> str:
    """Return the key of the entry of a shared file."""
    return f"file-{file.inode}"
