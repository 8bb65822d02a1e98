"""Clears away, every few minutes, what has outlived its use."""

import asyncio
import logging

from starlette.concurrency import run_in_threadpool

from service.dependencies import Services

SWEEP_SECONDS = 300.0
STALE_UPLOAD_SECONDS = 24 * 3600.0
"""No upload takes so long; what is older was left by a process that was killed."""

logger = logging.getLogger(__name__)


def sweep(services: Services) -> None:
    """Expire old jobs, and remove broken uploads and the announcements of workers long gone."""
    for job_id in services.store.older_than(services.settings.result_ttl):
        services.queue.expire(job_id)
    services.store.remove_stale_uploads(STALE_UPLOAD_SECONDS)
    services.queue.forget_stale_workers()


async def sweep_forever(services: Services) -> None:
    """Sweep now and again; a sweep that fails is logged, and the next one tries again."""
    while True:
        try:
            await run_in_threadpool(sweep, services)
        except Exception:
            logger.exception("The sweep failed")
        await asyncio.sleep(SWEEP_SECONDS)
