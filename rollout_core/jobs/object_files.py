"""Small files of the service in a bucket; see `rollout_core.jobs.small_files`."""

import errno
import time
from collections.abc import Sequence

from rollout_core.jobs.bucket import Bucket
from rollout_core.jobs.small_files import SmallFiles


class FilesInBucket(SmallFiles):
    """Small files as objects."""

    def __init__(self, bucket: Bucket) -> None:
        """Keep the files in `bucket`, under their keys."""
        self._bucket = bucket

    def read(self, key: str) -> bytes | None:
        """See `SmallFiles.read`."""
        return self._bucket.get(key)

    def write(self, key: str, text: str) -> None:
        """See `SmallFiles.write`."""
        self._bucket.put(key, text.encode())

    def add(self, key: str, *, flush: bool = True) -> None:
        """See `SmallFiles.add`; every object survives a power cut."""
        del flush
        self._bucket.create(key, b"")

    def remove(self, key: str, *, prune: bool = False) -> None:
        """See `SmallFiles.remove`; a bucket has no folders."""
        del prune
        self._bucket.delete([key])

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
        """Return the present time: a bucket does not tell when it changes."""
        del folder
        return time.time_ns()
