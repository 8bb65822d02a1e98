"""Jobs: create, look up, list, cancel, delete."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from rollout_core.errors import (
    InvalidRequest,
    JobEnded,
    StoreFull,
    StoreUnavailable,
    UnknownModel,
    UnsupportedContainer,
)
from rollout_core.jobs.records import JobState
from service import openapi, uploads
from service.dependencies import Caller, CallerName, KnownId, Use
from service.errors import (
    InvalidForm,
    JobNotFound,
    MalformedUpload,
    NotMultipart,
    QueueFull,
    QuotaExceeded,
    RedisUnavailable,
    StorageQuotaExceeded,
    UploadEncoded,
    UploadTooLarge,
    UploadTooSlow,
)
from service.redis_jobs import CURSOR
from service.schemas import Job, JobPage

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.post(
    "",
    status_code=202,
    openapi_extra={"requestBody": openapi.UPLOAD_FORM},
    responses={
        202: {"headers": openapi.headers("Location", "Retry-After")},
        **openapi.problems(
            NotMultipart,
            MalformedUpload,
            InvalidForm,
            InvalidRequest,
            UnknownModel,
            UploadTooLarge,
            UploadTooSlow,
            UploadEncoded,
            UnsupportedContainer,
            QueueFull,
            QuotaExceeded,
            RedisUnavailable,
            StoreFull,
            StorageQuotaExceeded,
            StoreUnavailable,
        ),
    },
)
async def create_job(request: Request, response: Response, services: Use, caller: Caller) -> Job:
    """Upload a video and queue a job for it. `Location` tells where to follow the job."""
    queue, max_bytes = services.queue, services.settings.max_upload_bytes
    queue.require_room(uploads.announced_bytes(request, max_bytes), owner=caller)
    # Entered on the event loop, not in a thread: the removal at its end must not be cancelled.
    with services.store.receiving() as path:
        wanted = await uploads.receive(
            request,
            path,
            max_bytes=max_bytes,
            idle_seconds=services.settings.upload_idle_seconds,
        )
        job = await run_in_threadpool(queue.submit, wanted, path, owner=caller)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    response.headers["Retry-After"] = str(await run_in_threadpool(queue.wait_seconds, job))
    return job


@router.get("", responses=openapi.problems(InvalidRequest))
def list_jobs(
    services: Use,
    caller: CallerName,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(pattern=CURSOR, description="`next_cursor` of the page before.")
    ] = None,
) -> JobPage:
    """List jobs, newest first. With `state` a page may be short although more follow."""
    return services.queue.page(state=state, limit=limit, cursor=cursor, owner=caller)


@router.get("/{job_id}", responses=openapi.problems(JobNotFound))
def get_job(job_id: KnownId, services: Use, caller: CallerName) -> Job:
    """Return a job as it stands now."""
    return services.queue.get(job_id, owner=caller)


@router.post("/{job_id}/cancel", status_code=202, responses=openapi.problems(JobNotFound, JobEnded))
def cancel_job(job_id: KnownId, services: Use, caller: CallerName) -> Job:
    """Cancel a job: at once if it waits, at the next clip if it runs."""
    return services.queue.cancel(job_id, owner=caller)


@router.delete(
    "/{job_id}",
    status_code=204,
    response_class=Response,
    responses=openapi.problems(JobNotFound),
)
def delete_job(job_id: KnownId, services: Use, caller: CallerName) -> None:
    """Remove every byte kept for a job; cancel it if need be."""
    services.queue.delete(job_id, owner=caller)
