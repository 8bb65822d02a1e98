"""Health check of a container: `python -m worker.health` fails if no worker in it is alive.

A worker announces itself every few seconds, idle and busy, under a name that begins with its place:
the name of the host and its PID namespace, which is that of the container. So a worker in another
container does not count, even if both have the name of the host. If the spec of the model is known,
the announcements start before the model has loaded. A worker that waits for a free GPU serves
nothing, so it announces nothing; it leaves a key of its place instead, which Redis lets expire.
"""

import socket
import sys
import uuid
from datetime import datetime
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from rollout_core.jobs.redis_records import LIVE_SECONDS, Announcements, redis_now
from worker.settings import Settings

TIMEOUT_SECONDS = 5.0

WAITING_KEY = "rollout:waiting:{place}"
"""A Redis key that exists while a worker of this container waits for a GPU."""


def place(hostname: str) -> str:
    """Return what tells this container from others: the host's name and the PID namespace."""
    return f"{hostname}.{Path('/proc/self/ns/pid').stat().st_ino}"


def new_name(hostname: str) -> str:
    """Return a unique name for a worker that starts in this container on `hostname`."""
    return f"{place(hostname)}.{uuid.uuid4().hex}"


def announce_waiting(redis: Redis, hostname: str) -> None:
    """Say that a worker of this container is alive and waits for a GPU."""
    redis.set(WAITING_KEY.format(place=place(hostname)), 1, ex=LIVE_SECONDS)


def is_waiting(redis: Redis, hostname: str) -> bool:
    """Return whether a worker of this container waits for a GPU."""
    return bool(redis.exists(WAITING_KEY.format(place=place(hostname))))


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
        beating = is_beating(redis, hostname, redis_now(redis)) or is_waiting(redis, hostname)
    except RedisError as error:
        sys.exit(f"Redis does not answer: {error}")
    if not beating:
        sys.exit(f"no worker on this host has sent a heartbeat in the last {LIVE_SECONDS} s")


if __name__ == "__main__":
    main()
