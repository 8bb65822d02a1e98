"""Hears from Redis which jobs have changed, so that who follows them need not ask all the time.

Workers and services publish the id of a job when its record changes or is removed; see
`JobRecords`. A message that is lost costs a follower time only: `JobWatcher` also reads by itself.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from redis.exceptions import RedisError

from rollout_core.jobs.redis_records import CHANGED_CHANNEL, ENDED_CHANNEL, channel_of
from rollout_core.jobs.redis_url import RedisUrl

RETRY_SECONDS = 1.0
"""Pause before the next try to listen, if Redis cannot be reached."""

CANCEL_SECONDS = 0.1
"""Pause before a task that goes on is cancelled again."""

CHECK_SECONDS = 15
"""A connection without news for this long is checked."""

logger = logging.getLogger(__name__)

Hear = Callable[[str, bool], None]
"""Called on the event loop with the id of a job, and whether it has ended or was deleted."""


@asynccontextmanager
async def listening(redis_url: RedisUrl, hear: Hear) -> AsyncIterator[None]:
    """Call `hear` for all news until the context ends, with one connection."""
    task = asyncio.create_task(_keep_listening(redis_url, hear))
    try:
        yield
    finally:
        while not task.done():
            task.cancel()  # redis-py loses one that comes while it connects
            await asyncio.wait([task], timeout=CANCEL_SECONDS)


async def _keep_listening(redis_url: RedisUrl, hear: Hear) -> None:
    """Listen, and again whenever the connection breaks."""
    failure = ""
    while True:
        try:
            async with (
                redis_url.opened_async(health_check_interval=CHECK_SECONDS) as redis,
                redis.pubsub(ignore_subscribe_messages=True) as news,
            ):
                ended = channel_of(redis, ENDED_CHANNEL)
                await news.subscribe(channel_of(redis, CHANGED_CHANNEL), ended)
                failure = ""
                while True:
                    if message := await news.get_message(timeout=CHECK_SECONDS):
                        hear(message["data"].decode(), message["channel"].decode() == ended)
        except (RedisError, OSError) as error:
            if failure != str(error):
                logger.warning("News of jobs come later, since Redis cannot be heard: %s", error)
            failure = str(error)
        await asyncio.sleep(RETRY_SECONDS)
