"""Says by its exit status whether this host's worker beats: `python -m worker.health`.

For the health checks of containers, where the host is the container. A worker beats idle and
busy, from when its engine has loaded.
"""

import socket
import sys
from datetime import UTC, datetime

from redis import Redis
from redis.exceptions import RedisError
from rq import Worker

from rollout_core.contract import LIVE_SECONDS
from worker.settings import Settings

TIMEOUT_SECONDS = 5.0


def is_beating(redis: Redis, hostname: str, now: datetime) -> bool:
    """Whether a worker on `hostname` has beaten lately."""
    beats = (
        worker.last_heartbeat
        for worker in Worker.all(connection=redis)
        if worker.hostname == hostname
    )
    return any(beat and (now - beat).total_seconds() < LIVE_SECONDS for beat in beats)


def main() -> None:
    """Exit with status 1 and one line unless the worker beats."""
    redis = Redis.from_url(
        Settings().redis_url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
    )
    try:
        beating = is_beating(redis, socket.gethostname(), datetime.now(UTC))
    except RedisError as error:
        sys.exit(f"Redis cannot be asked: {error}")
    if not beating:
        sys.exit(f"no worker on this host has beaten in the last {LIVE_SECONDS} s")


if __name__ == "__main__":
    main()
