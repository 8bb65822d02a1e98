"""Says by its exit status whether this host's worker beats: `python -m worker.health`.

For the health checks of containers, where the host is the container. A worker announces itself
idle and busy, from when it begins to load a model that it knows.
"""

import socket
import sys
import uuid
from datetime import UTC, datetime
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from rollout_core.jobs.redis_records import LIVE_SECONDS, WORKERS_KEY, Announcement
from worker.settings import Settings

TIMEOUT_SECONDS = 5.0


def new_name(hostname: str) -> str:
    """Return a name for a worker that starts on `hostname`."""
    return f"{hostname}.{uuid.uuid4().hex}"


def is_beating(redis: Redis, hostname: str, now: datetime) -> bool:
    """Whether a worker on `hostname` has announced itself lately."""
    announced = cast("dict[bytes, bytes]", redis.hgetall(WORKERS_KEY))
    beats = (
        Announcement.model_validate_json(text).beat_at
        for name, text in announced.items()
        if name.decode().rpartition(".")[0] == hostname
    )
    return any((now - beat).total_seconds() < LIVE_SECONDS for beat in beats)


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
