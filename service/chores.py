"""What the service does time and again beside its answers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

logger = logging.getLogger(__name__)


@asynccontextmanager
async def repeating(*chores: tuple[Callable[[], None], float]) -> AsyncIterator[None]:
    """Run each chore every so many seconds, in a thread, as long as the context lasts."""
    tasks = [asyncio.create_task(_repeat(chore, seconds)) for chore, seconds in chores]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _repeat(chore: Callable[[], None], seconds: float) -> None:
    """Run a chore now and again; one that fails is logged, and the next time it is tried again."""
    while True:
        try:
            await run_in_threadpool(chore)
        except (RedisError, OSError) as error:
            logger.warning("A chore was put off: %s", error)
        except Exception:
            logger.exception("A chore failed")
        await asyncio.sleep(seconds)
