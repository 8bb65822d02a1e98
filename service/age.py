"""The clock by which jobs grow old: no jump of another clock makes them old at once."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from redis import Redis

from rollout_core.jobs.redis_records import redis_now


class AgeClock:
    """Shows the earliest time of three clocks: of Redis, of this host, and a monotonic one.

    The monotonic clock continues from the first reading of the other two. So a clock that is ahead,
    or jumps ahead, changes nothing. One that is behind only delays what is decided by it.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._wall = wall
        self._monotonic = monotonic
        self._offset: float | None = None

    def now(self) -> datetime:
        """Return the time in UTC.

        Raises:
            RedisError: Redis does not answer.
        """
        now = min(redis_now(self._redis).timestamp(), self._wall())
        if self._offset is None:
            self._offset = now - self._monotonic()
        return datetime.fromtimestamp(min(now, self._offset + self._monotonic()), UTC)
