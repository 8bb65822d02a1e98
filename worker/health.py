"""Health check of a container: `python -m worker.health` fails if no worker in it is alive.

A worker announces itself every few seconds, idle and busy, under a name that begins with its place:
the name of the host and its PID namespace, which is that of the container. So a worker in another
container does not count, even if both have the name of the host. If the spec of the model is known,
the announcements start before the model has loaded. A worker that waits for a free GPU serves
nothing, so it has no announcement; its place is in a set of those that wait.
"""

import socket
import sys
import uuid
from datetime import datetime
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from rollout_core.jobs.redis_records import (
    LIVE_SECONDS,
    Announcements,
    places_waiting,
    redis_now,
)
from worker.settings import Settings

TIMEOUT_SECONDS = 5.0


def place(hostname: str) -> str:
    """Return what tells this container from others: the host's name and the PID namespace."""
    return f"{hostname}.{Path('/proc/self/ns/pid').stat().st_ino}"


def new_name(hostname: str) -> str:
    """Return a unique name for a worker that starts in this container on `hostname`."""
    return f"{place(hostname)}.{uuid.uuid4().hex}"


def is_beating(redis: Redis, hostname: str, now: datetime) -> bool:
    """Return whether a worker of this container is alive at `now`, by Redis' clock."""
    return any(
        announcement.is_live(now)
        for name, announcement in Announcements(redis).read().items()
        if name.rpartition(".")[0] == place(hostname)
    )


def main() -> None:
    """Exit with status 1 and one line on stderr unless a worker of this container is alive."""
    redis = Settings().redis.open(
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
    )
    try:
        hostname = socket.gethostname()
        beating = is_beating(redis, hostname, redis_now(redis)) or place(
            hostname
        ) in places_waiting(redis)
    except RedisError as error:
        sys.exit(f"Redis does not answer: {error}")
    if not beating:
        sys.exit(f"no worker on this host has sent a heartbeat in the last {LIVE_SECONDS} s")


if __name__ == "__main__":
    main()
