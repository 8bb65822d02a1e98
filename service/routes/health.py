"""Health, for whoever runs the service."""

from fastapi import APIRouter

from rollout_core.errors import StoreUnavailable
from service import openapi
from service.dependencies import Use
from service.errors import RedisUnavailable
from service.views import Liveness, Readiness

router = APIRouter(tags=["health"])


@router.get("/livez", responses=openapi.problems())
def get_liveness() -> Liveness:
    """Say that the process answers."""
    return Liveness()


@router.get("/readyz", responses=openapi.problems(RedisUnavailable, StoreUnavailable))
def get_readiness(services: Use) -> Readiness:
    """Say whether jobs can be taken: Redis answers, and the store can be written."""
    services.store.check_writable()
    return Readiness(workers=services.queue.ready_workers())
