"""Models: what can be asked for now."""

from fastapi import APIRouter

from service import openapi
from service.dependencies import Use
from service.views import ModelList

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=openapi.problems())
def list_models(services: Use) -> ModelList:
    """List the models that live workers serve now, with what they expect of a clip."""
    return ModelList(models=services.queue.models())
