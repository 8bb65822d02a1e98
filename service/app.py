"""The application: routes, error answers, and what they share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import TypedDict

from fastapi import FastAPI
from fastapi.routing import APIRoute
from redis import Redis

from rollout_core.storage import ArtifactStore
from service import openapi, problems
from service.dependencies import Services
from service.queue import JobQueue
from service.routes import artifacts, health, jobs, models
from service.settings import Settings
from service.sweep import sweep_forever

REDIS_TIMEOUT_SECONDS = 5.0

TAGS = [
    {"name": "jobs", "description": "Upload a video, follow the job, end it."},
    {"name": "artifacts", "description": "Fetch what a job has made."},
    {"name": "models", "description": "What can be asked for."},
    {"name": "health", "description": "For whoever runs the service."},
]


class State(TypedDict):
    """What the lifespan hands to every request."""

    services: Services


def create_app(settings: Settings) -> FastAPI:
    """Return the app. Redis and the store are opened when it starts, not before."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        services = _open_services(settings)
        sweeper = asyncio.create_task(sweep_forever(services))
        try:
            yield {"services": services}
        finally:
            sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await sweeper
            services.redis.close()

    app = FastAPI(
        title="TimeSformer rollout",
        summary="Space-time attention rollout of a TimeSformer, for a video that you upload.",
        version=version("timesformer-rollout"),
        openapi_tags=TAGS,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        separate_input_output_schemas=False,
        generate_unique_id_function=_operation_id,
    )
    for module in (jobs, artifacts, models, health):
        app.include_router(module.router)
    problems.install(app)
    openapi.install(app)
    return app


def _open_services(settings: Settings) -> Services:
    redis = Redis.from_url(
        settings.redis_url,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
    )
    store = ArtifactStore(settings.data_dir)
    queue = JobQueue(
        redis, store, max_queued=settings.max_queued, default_model=settings.default_model
    )
    return Services(settings=settings, redis=redis, store=store, queue=queue)


def _operation_id(route: APIRoute) -> str:
    return route.name
