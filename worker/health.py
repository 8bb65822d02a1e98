"""Health check of a container: `python -m worker.health` fails if no worker of this host is alive.

The host is the container. A worker announces itself every few seconds, idle and busy. If
the spec of its model is known, it starts before the model has loaded.
"""

import socket
import sys
import uuid
from datetime import datetime

from redis import Redis
from redis.exceptions import RedisError

from rollout_core.jobs.redis_records import LIVE_SECONDS, Announcements, redis_now
from worker.settings import Settings

TIMEOUT_SECONDS = 5.0


def new_name(hostname: str) -> str:
    """Return a unique name for a worker that starts on `hostname`."""
    return f"{hostname}.{uuid.uuid4().hex}"


def is_beating(redis: Redis, hostname: str, now: datetime) -> bool:
    """Return whether a worker on `hostname` is alive at `now`, by Redis' clock."""
    return any(
        announcement.is_live(now)
        for name, announcement in Announcements(redis).read().items()
        if name.rpartition(".")[0] == hostname
    )


def main() -> None:
    """Exit with status 1 and one line on stderr unless a worker of this host is alive."""
    redis = Redis.from_url(
        Settings().redis_url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
    )
    try:
        beating = is_beating(redis, socket.gethostname(), redis_now(redis))
    except RedisError as error:
        sys.exit(f"Redis does not answer: {error}")
    if not beating:
        sys.exit(f"no worker on this host has sent a heartbeat in the last {LIVE_SECONDS} s")


if __name__ == "__main__":
    main()
