"""How long something has looked the same, by the monotonic clock: other clocks may jump."""

import time
from collections.abc import Callable


class Watch:
    """Remembers what was seen at the last look round, and since when."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before: dict[tuple[str, str], float] = {}
        self._seen: dict[tuple[str, str], float] = {}

    def begin(self) -> None:
        """Begin to look at everything again."""
        self._before, self._seen = self._seen, {}

    def seconds(self, name: str, what: str) -> float:
        """Return for how long it was seen each time, 0 at the first time.

        Args:
            what: how it looks now.
        """
        now = self._clock()
        since = self._seen[name, what] = self._before.get((name, what), now)
        return now - since
