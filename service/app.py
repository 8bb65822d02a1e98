"""The application: routes, error answers, and what they share."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import TypedDict

from fastapi import FastAPI
from fastapi.routing import APIRoute
from redis import BlockingConnectionPool, Redis

from rollout_core.jobs.store import ArtifactStore
from service import openapi, problems
from service.auth import ApiKeys, RequireKey
from service.dependencies import Services
from service.jobs import Jobs
from service.maintenance import RECONCILE_SECONDS, SWEEP_SECONDS, Reconciler, repeating, sweep
from service.redis_jobs import Register
from service.routes import artifacts, jobs, status
from service.settings import Settings
from service.usage import StoreUsage

REDIS_TIMEOUT_SECONDS = 5.0

REDIS_CONNECTIONS = 8
"""Calls are short, so a few connections serve all threads; more would stay open after a rush."""

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
        chores = (
            (services.reconciler.reconcile, RECONCILE_SECONDS),
            (partial(sweep, services.store, services.queue, settings.result_ttl), SWEEP_SECONDS),
        )
        try:
            async with repeating(*chores):
                yield {"services": services}
        finally:
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
    for module in (jobs, artifacts, status):
        app.include_router(module.router)
    app.add_middleware(RequireKey)
    problems.install(app)
    openapi.install(app)
    return app


def _open_services(settings: Settings) -> Services:
    connections = BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=REDIS_CONNECTIONS,
        timeout=REDIS_TIMEOUT_SECONDS,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
    )
    redis = Redis.from_pool(connections)
    store = ArtifactStore(settings.data_dir)
    usage = StoreUsage(store, max_bytes=settings.max_store_bytes)
    queue = Jobs(
        redis,
        store,
        usage=usage,
        max_queued=settings.max_queued,
        default_model=settings.default_model,
    )
    reconciler = Reconciler(store, usage, Register(redis))
    keys = ApiKeys(settings.api_keys_file) if settings.api_keys_file else None
    return Services(
        settings=settings, redis=redis, store=store, queue=queue, reconciler=reconciler, keys=keys
    )


def _operation_id(route: APIRoute) -> str:
    return route.name


def main() -> None:
    """Print the document."""
    sys.stdout.write(openapi.render(create_app(Settings())))


if __name__ == "__main__":
    main()
