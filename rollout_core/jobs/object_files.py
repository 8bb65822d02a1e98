"""Small files of the service in a bucket; see `rollout_core.jobs.small_files`."""

import errno
import time
from collections.abc import Sequence

from rollout_core.jobs.bucket import Bucket
from rollout_core.jobs.small_files import SmallFiles

LOOK_SECONDS = 5.0
"""What other processes have changed is seen after this."""


class FilesInBucket(SmallFiles):
    """Small files as objects."""

    def __init__(self, bucket: Bucket) -> None:
        """Keep the files in `bucket`, under their keys."""
        self._bucket = bucket
        self._changed: dict[str, float] = {}

    def read(self, key: str) -> bytes | None:
        """See `SmallFiles.read`."""
        return self._bucket.get(key)

    def write(self, key: str, text: str) -> None:
        """See `SmallFiles.write`."""
        self._bucket.put(key, text.encode())
        self._note_change(key)

    def add(self, key: str, *, flush: bool = True) -> None:
        """See `SmallFiles.add`; every object survives a power cut."""
        del flush
        self._bucket.create(key, b"")
        self._note_change(key)

    def remove(self, key: str, *, prune: bool = False) -> None:
        """See `SmallFiles.remove`; a bucket has no folders."""
        del prune
        self._bucket.delete([key])
        self._note_change(key)

    def exists(self, key: str) -> bool:
        """See `SmallFiles.exists`."""
        return self._bucket.head(key) is not None

    def written_at(self, key: str) -> float:
        """See `SmallFiles.written_at`."""
        found = self._bucket.head(key)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", key)
        return found.modified.timestamp()

    def names(self, folder: str) -> Sequence[str]:
        """See `SmallFiles.names`."""
        _, names = self._bucket.list_children(folder)
        return names

    def changed(self, folder: str) -> int:
        """Return when this process last changed a folder, or a time that moves every few seconds.

        A bucket does not tell when others have changed it, and each look costs a request.
        """
        now = time.time()
        looked = now - now % LOOK_SECONDS - LOOK_SECONDS
        return int(1e9 * max(looked, self._changed.setdefault(folder, 0.0)))

    def _note_change(self, key: str) -> None:
        folder = key.rpartition("/")[0]
        if folder in self._changed:  # somebody has asked for it
            self._changed[folder] = time.time()
