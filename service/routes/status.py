"""Health checks, and the list of served models."""

from fastapi import APIRouter

from rollout_core.errors import StoreFull, StoreUnavailable
from rollout_core.jobs.schemas import Liveness, ModelList, Readiness
from service import openapi
from service.auth import API_PREFIX
from service.dependencies import ServicesDep
from service.errors import NotCounted, RedisUnavailable
from service.pools import in_pool
from service.readiness import check_ready

router = APIRouter()


@router.get(f"{API_PREFIX}/models", tags=["models"], responses=openapi.problems())
@in_pool("lookup")
def list_models(services: ServicesDep) -> ModelList:
    """List the models that live workers serve now, with the clips they expect."""
    return ModelList(models=services.jobs.models())


@router.get("/livez", tags=["health"], responses=openapi.problems())
async def get_liveness() -> Liveness:
    """Return 200 while the process is alive."""
    # On the event loop, and it touches nothing: so it does not wait for other calls.
    return Liveness()


@router.get(
    "/readyz",
    tags=["health"],
    responses=openapi.problems(RedisUnavailable, NotCounted, StoreUnavailable, StoreFull),
)
@in_pool("health")
def get_readiness(services: ServicesDep) -> Readiness:
    """Return 200 if jobs can be accepted: Redis and the store are writable, the store counted."""
    return Readiness(workers=check_ready(services.store, services.jobs))
