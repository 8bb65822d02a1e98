"""Deliveries of a job's webhook."""

from fastapi import APIRouter

from rollout_core.jobs.schemas import DeliveryList
from service import openapi
from service.auth import API_PREFIX
from service.dependencies import JobIdDep, OwnerNameDep, ServicesDep
from service.errors import JobNotFound
from service.pools import in_pool

router = APIRouter(prefix=f"{API_PREFIX}/jobs", tags=["jobs"])


@router.get("/{job_id}/deliveries", responses=openapi.problems(JobNotFound))
@in_pool("lookup")
def list_deliveries(job_id: JobIdDep, services: ServicesDep, owner: OwnerNameDep) -> DeliveryList:
    """List the events of a job's webhook, with every attempt to deliver them."""
    job = services.jobs.get(job_id, owner=owner)
    return DeliveryList(deliveries=services.jobs.deliveries.describe(job))
