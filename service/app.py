"""The FastAPI application: routes, error answers, and the services they use."""

import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import Any, TypedDict

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rollout_core.jobs.schemas import Job
from rollout_core.jobs.store import ArtifactStore
from service import cors, docs, openapi, problems
from service.auth import CHECK_SECONDS, ApiKeys, RequireKey
from service.deliveries import Deliverer
from service.dependencies import Services, refuse_unknown_input
from service.faults import Faults
from service.fetch import VideoFetcher
from service.hosts import AllowedHosts, CheckHosts, MountAt, set_root_path
from service.instrumentation import JoinTrace, telemetry
from service.inventory import Inventory
from service.job_news import listening
from service.job_watcher import JobWatcher
from service.jobs import Jobs
from service.ledger import Ledger
from service.maintenance import (
    CLEAN_UP_SECONDS,
    RECONCILE_SECONDS,
    Reconciler,
    clean_up,
    periodic_tasks,
)
from service.metric_sources import MetricSources
from service.metrics import Metrics
from service.metrics_server import serving_metrics
from service.object_answers import origin_of_links
from service.outbound import Hosts, Outbound
from service.page import files as page
from service.pools import Pools
from service.proxies import LimitAddresses, TrustedProxies
from service.request_meter import MeasureRequests
from service.reservations import RENEW_SECONDS
from service.routes import artifacts, deliveries, events, jobs, session, status, tus, uploads
from service.security_headers import SecurityHeaders
from service.sessions import Sessions, read_secret
from service.settings import Settings
from service.shutdown import Shutdown
from service.stored_uploads import StoredUploads
from service.submissions import Rules
from service.webhook_secrets import WebhookSecrets
from service.webhooks import Webhooks

REDIS_TIMEOUT_SECONDS = 5.0

SCRAPE_TIMEOUT_SECONDS = 1.0
"""Timeout of a call to Redis for a scrape, which is not repeated: Prometheus waits for 10 s."""

REDIS_CONNECTIONS = 8
"""Calls are short, so few connections serve all threads. More would stay open after a peak."""

ROUTERS = tuple(
    module.router for module in (tus, uploads, jobs, events, deliveries, artifacts, session, status)
)
"""A request goes to the first route that fits."""

TAGS = [
    {"name": "jobs", "description": "Upload a video, follow the job, cancel or delete it."},
    {"name": "uploads", "description": "Send a video once, and make many jobs from it."},
    {"name": "artifacts", "description": "Download the files of a job's result."},
    {"name": "session", "description": "Use a cookie instead of an API key, in a browser."},
    {"name": "models", "description": "List the models that can be used."},
    {"name": "health", "description": "For the operator of the service."},
]

logger = logging.getLogger(__name__)


class State(TypedDict):
    """State of every request, set by the lifespan."""

    services: Services


def create_app(settings: Settings) -> FastAPI:
    """Return the app. Redis and the store are opened when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        services = _open_services(settings)
        set_root_path(settings.root_path or "")
        shortest_ttl = min(settings.result_ttl, settings.upload_ttl)
        tasks = [
            (services.reconciler.reconcile, RECONCILE_SECONDS),
            (services.jobs.renew_reservations, RENEW_SECONDS),
            (_clean_up(services), max(1, min(CLEAN_UP_SECONDS, shortest_ttl / 4))),
        ]
        if services.keys:
            tasks.append((services.keys.refresh, CHECK_SECONDS))
        app.state.shutdown.on_begin(services.watcher.close)
        try:
            async with (
                periodic_tasks(*tasks),
                services.deliverer.running(),
                listening(settings.redis, services.watcher.hear),
            ):
                with serving_metrics(settings.metrics_address, services.metrics.registry):
                    yield {"services": services}
        finally:
            await services.watcher.stop()
            services.redis.close()
            services.scraped.close()

    app = FastAPI(
        title="TimeSformer rollout",
        summary="Space-time attention rollout of a TimeSformer, for a video that you upload.",
        version=version("timesformer-rollout"),
        openapi_tags=TAGS,
        openapi_url=None,
        redirect_slashes=False,
        dependencies=[Depends(refuse_unknown_input)],
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
        telemetry=telemetry(settings.root_path or ""),
    )
    app.state.shutdown = Shutdown()
    for router in ROUTERS:
        app.include_router(router)
        _answer_head(app, router)
    _add_middleware(app, settings)
    problems.install(app)
    openapi.install(app)
    docs.install(app)
    if settings.page:
        page.install(app)
    else:
        page.install_without_page(app)
    return app


def _open_redis(
    settings: Settings, timeout: float = REDIS_TIMEOUT_SECONDS, **options: Any
) -> Redis:
    return settings.redis.open(
        BlockingConnectionPool,
        max_connections=REDIS_CONNECTIONS,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        **options,
    )


def _open_services(settings: Settings) -> Services:
    redis = _open_redis(settings)
    store = settings.open_store()
    inventory, ledger = Inventory(store), Ledger(redis)
    keys = ApiKeys(settings.api_keys_file) if settings.api_keys_file else None
    ttl = settings.session_ttl
    sessions = Sessions(keys, read_secret(store), ttl_seconds=ttl) if keys else None
    outbound = Outbound(Hosts(settings.private_hosts))
    webhooks = _open_webhooks(settings, keys, outbound)
    service_jobs = Jobs(
        redis,
        store,
        artifact_url=artifacts.artifact_url,
        inventory=inventory,
        ledger=ledger,
        result_ttl=settings.result_ttl,
        max_bytes=settings.max_store_bytes,
        rules=Rules(
            max_queued=settings.max_queued,
            max_array_bytes=settings.max_array_bytes,
            default_model=settings.default_model,
            check_webhook=webhooks.check,
        ),
    )
    reconciler = Reconciler(store, inventory, redis, ledger)
    stored_uploads = StoredUploads(
        store,
        inventory,
        ledger,
        upload_ttl=settings.upload_ttl,
        result_ttl=settings.result_ttl,
        now=service_jobs.age_now,
    )
    pools, metrics = Pools(), Metrics()
    deliverer = Deliverer(redis, store, service_jobs, webhooks, metrics.count_webhook)
    scraped = _open_redis(settings, SCRAPE_TIMEOUT_SECONDS, retry=Retry(NoBackoff(), 0))
    max_bytes = settings.max_store_bytes
    sources = MetricSources(scraped, store, service_jobs, inventory, deliverer, max_bytes)
    sources.add_to(metrics)

    async def read_jobs(watched: Iterable[Job]) -> Mapping[str, Job | None]:
        return await pools.run("lookup", service_jobs.refresh, watched)

    return Services(
        settings=settings,
        metrics=metrics,
        scraped=scraped,
        redis=redis,
        store=store,
        jobs=service_jobs,
        uploads=stored_uploads,
        reconciler=reconciler,
        keys=keys,
        sessions=sessions,
        pools=pools,
        watcher=JobWatcher(read_jobs),
        deliverer=deliverer,
        fetcher=VideoFetcher(
            Hosts(settings.video_url_hosts),
            outbound,
            max_bytes=settings.max_upload_bytes,
            idle_seconds=settings.upload_idle_seconds,
        ),
        link_origin=_link_origin(settings, store),
    )


def _link_origin(settings: Settings, store: ArtifactStore) -> str | None:
    """Return where downloads come from if they are redirected to the bucket."""
    if settings.downloads != "redirect":
        return None
    from rollout_core.jobs.object_store import ObjectStore  # needs obstore

    assert isinstance(store, ObjectStore)  # the settings are checked
    return origin_of_links(store)


def _open_webhooks(settings: Settings, keys: ApiKeys | None, outbound: Outbound) -> Webhooks:
    return Webhooks(
        outbound,
        WebhookSecrets(keys, settings.webhook_secret_file),
        hosts=Hosts(settings.webhook_hosts),
        private_hosts=Hosts(settings.private_hosts),
        secret_setting="webhook_secrets in the table of your key"
        if keys
        else "ROLLOUT_WEBHOOK_SECRET_FILE",
    )


def _clean_up(services: Services) -> Callable[[], None]:
    ttl, faults = services.settings.result_ttl, Faults(logger, services.store)
    return partial(clean_up, services.store, services.jobs, ttl, faults, uploads=services.uploads)


def _answer_head(app: FastAPI, router: APIRouter) -> None:
    """Answer HEAD wherever GET is answered; FastAPI does so for its own routes only."""
    for route in router.routes:
        if not isinstance(route, APIRoute) or route.is_sse_stream:
            continue
        if "GET" in (route.methods or ()):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """Add the checks before the routes. A request passes the last one first."""
    proxies, has_keys = TrustedProxies(settings.trusted_proxies), bool(settings.api_keys_file)
    hosts = AllowedHosts(
        settings.allowed_hosts,
        listens_on=settings.host,
        has_keys=has_keys,
        origins=settings.cors_origins,
    )
    app.add_middleware(RequireKey)
    app.add_middleware(CheckHosts, hosts=hosts, proxies=proxies, has_keys=has_keys)
    app.add_middleware(LimitAddresses, proxies=proxies, limit=settings.address_limit)
    if settings.cors_origins:
        cors.install(app, settings.cors_origins)  # before the checks: a preflight has no key
    app.add_middleware(SecurityHeaders)
    app.add_middleware(JoinTrace)
    app.add_middleware(MeasureRequests, routes=[*chain(*(router.routes for router in ROUTERS))])
    app.add_middleware(MountAt, root_path=settings.root_path or "", proxies=proxies)


def _operation_id(route: APIRoute) -> str:
    return route.name


def main() -> None:
    """Print the OpenAPI document."""
    sys.stdout.write(openapi.render(create_app(Settings())))


if __name__ == "__main__":
    main()
