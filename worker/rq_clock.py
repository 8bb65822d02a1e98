"""Redis' clock in place of this machine's, wherever RQ compares times of several machines.

RQ stores until when a delivery counts as being worked on, and since when a job is on its way from
the queue to a worker. Each worker would write these by its own clock: one that is behind would lose
its deliveries to others, and those of one that was ahead and died would not come back for as long.
"""

import time
from datetime import UTC, datetime, timedelta
from types import ModuleType

from rq import intermediate_queue, utils
from rq.worker import base

PLACES: tuple[ModuleType, ...] = (utils, intermediate_queue, base)
"""Modules of RQ whose `now` decides something; `utils.current_timestamp` uses the first."""


class RqClock:
    """Tells Redis' time between two answers of Redis, however this machine's clock is set."""

    def __init__(self) -> None:
        """Take the place of RQ's `now`; it is this machine's until the first `set`."""
        self._offset = time.time() - time.monotonic()
        for place in PLACES:
            place.now = self.now  # type: ignore[attr-defined]

    def set(self, redis_now: datetime) -> None:
        """Note Redis' present time."""
        self._offset = redis_now.timestamp() - time.monotonic()

    def now(self) -> datetime:
        """Return Redis' present time, in UTC."""
        return datetime.fromtimestamp(0, UTC) + timedelta(seconds=self._offset + time.monotonic())
