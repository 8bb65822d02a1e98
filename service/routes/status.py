"""Health checks, and the list of served models."""

from fastapi import APIRouter

from rollout_core.errors import StoreFull, StoreUnavailable
from service import openapi
from service.auth import API_PREFIX
from service.dependencies import ServicesDep
from service.errors import RedisUnavailable
from service.schemas import Liveness, ModelList, Readiness

router = APIRouter()


@router.get(f"{API_PREFIX}/models", tags=["models"], responses=openapi.problems())
def list_models(services: ServicesDep) -> ModelList:
    """List the models that live workers serve now, with the clips they expect."""
    return ModelList(models=services.jobs.models())


@router.get("/livez", tags=["health"], responses=openapi.problems())
def get_liveness() -> Liveness:
    """Return 200 while the process is alive."""
    return Liveness()


@router.get(
    "/readyz",
    tags=["health"],
    responses=openapi.problems(RedisUnavailable, StoreUnavailable, StoreFull),
)
def get_readiness(services: ServicesDep) -> Readiness:
    """Return 200 if jobs can be accepted: Redis and the store can be written."""
    services.store.check_writable()
    services.jobs.check_redis_writable()
    return Readiness(workers=services.jobs.ready_workers())
