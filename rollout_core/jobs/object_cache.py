"""Objects that never change, remembered for a moment."""

import time
from collections.abc import Callable

from rollout_core.jobs.bucket import Bucket

MAX_REMEMBERED = 1000
"""Objects that are remembered; then all are read again."""


class ObjectCache:
    """Reads small objects of a bucket. Missing ones are not remembered."""

    def __init__(
        self, bucket: Bucket, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Remember each object for some seconds."""
        self._bucket = bucket
        self._seconds = seconds
        self._clock = clock
        self._known: dict[str, tuple[bytes, float]] = {}

    def get(self, key: str) -> bytes | None:
        """Return the content of an object, None if there is none."""
        known = self._known.get(key)
        if known and self._clock() - known[1] < self._seconds:
            return known[0]
        now = self._clock()
        text = self._bucket.get(key)
        if text is None:
            self._known.pop(key, None)
        elif self._seconds:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[key] = text, now
        return text

    def forget(self, folder: str) -> None:
        """Read all objects below a folder again."""
        for key in [key for key in list(self._known) if key.startswith(f"{folder}/")]:
            self._known.pop(key, None)
