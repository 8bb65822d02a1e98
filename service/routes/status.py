"""Health, and the models that are served."""

from fastapi import APIRouter

from rollout_core.errors import StoreUnavailable
from service import openapi
from service.dependencies import Use
from service.errors import RedisUnavailable
from service.schemas import Liveness, ModelList, Readiness

router = APIRouter()


@router.get("/v1/models", tags=["models"], responses=openapi.problems())
def list_models(services: Use) -> ModelList:
    """List the models that live workers serve now, with what they expect of a clip."""
    return ModelList(models=services.queue.models())


@router.get("/livez", tags=["health"], responses=openapi.problems())
def get_liveness() -> Liveness:
    """Say that the process answers."""
    return Liveness()


@router.get(
    "/readyz", tags=["health"], responses=openapi.problems(RedisUnavailable, StoreUnavailable)
)
def get_readiness(services: Use) -> Readiness:
    """Say whether jobs can be taken: Redis answers, and the store can be written."""
    services.store.check_writable()
    return Readiness(workers=services.queue.ready_workers())
