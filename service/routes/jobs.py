"""Jobs: create, look up, list, cancel, delete."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response
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
from rollout_core.jobs.schemas import Job, JobPage
from service import openapi, uploads
from service.auth import API_PREFIX, authenticate
from service.dependencies import JobIdDep, OwnerDep, OwnerNameDep, Services, ServicesDep
from service.errors import (
    CheckpointsDiffer,
    InvalidForm,
    JobNotFound,
    MalformedUpload,
    ModelUnavailable,
    NotCounted,
    NotMultipart,
    QueueFull,
    QuotaExceeded,
    RedisUnavailable,
    StorageQuotaExceeded,
    UploadEncoded,
    UploadExpired,
    UploadIncomplete,
    UploadNotFound,
    UploadTooLarge,
    UploadTooSlow,
    VideoUrlRefused,
)
from service.job_lists import CURSOR
from service.pools import entered, in_pool
from service.preferences import WaitDep
from service.reservations import room_for_result
from service.usage import Owner

router = APIRouter(prefix=f"{API_PREFIX}/jobs", tags=["jobs"])


@router.post(
    "",
    status_code=202,
    openapi_extra={"requestBody": openapi.UPLOAD_FORM},
    responses={
        200: {
            "model": Job,
            "description": "The job has ended.",
            "headers": openapi.headers("Location", "Preference-Applied"),
        },
        202: {"headers": openapi.headers("Location", "Retry-After", "Preference-Applied")},
        **openapi.problems(
            NotMultipart,
            MalformedUpload,
            InvalidForm,
            InvalidRequest,
            UnknownModel,
            UploadTooLarge,
            UploadTooSlow,
            UploadEncoded,
            UploadNotFound,
            UploadExpired,
            UploadIncomplete,
            VideoUrlRefused,
            UnsupportedContainer,
            QueueFull,
            QuotaExceeded,
            RedisUnavailable,
            ModelUnavailable,
            CheckpointsDiffer,
            NotCounted,
            StoreFull,
            StorageQuotaExceeded,
            StoreUnavailable,
        ),
    },
)
async def create_job(
    request: Request, response: Response, services: ServicesDep, owner: OwnerDep, wait: WaitDep
) -> Job:
    """Queue a job for a video: one sent with it in a form, or an upload named in JSON.

    `Location` is the path of the job.
    """
    await services.pools.run("upload", services.jobs.require_place, owner)
    if uploads.media_type(request) == "application/json":
        job = await _create_from_upload(request, services, owner)
    else:
        job = await _create_from_form(request, services, owner)
    location = router.url_path_for("get_job", job_id=job.id)
    response.headers["Location"] = request.scope["root_path"] + location
    job = await wait.for_end(job, services.watcher, request, response)
    if job.ended_at is not None:
        response.status_code = 200
    else:
        seconds = await services.pools.run("upload", services.jobs.wait_seconds, job)
        response.headers["Retry-After"] = str(seconds)
    return job


@router.get("", responses=openapi.problems(InvalidRequest))
@in_pool("listing")
def list_jobs(
    services: ServicesDep,
    owner: OwnerNameDep,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(pattern=CURSOR, description="`next_cursor` of the previous page.")
    ] = None,
) -> JobPage:
    """List jobs, newest first. With `state`, a page may be short although more pages follow."""
    return services.jobs.page(state=state, limit=limit, cursor=cursor, owner=owner)


@router.get(
    "/{job_id}",
    responses={
        200: {"headers": openapi.headers("Preference-Applied")},
        **openapi.problems(JobNotFound),
    },
)
async def get_job(
    job_id: JobIdDep,
    request: Request,
    response: Response,
    services: ServicesDep,
    owner: OwnerNameDep,
    wait: WaitDep,
) -> Job:
    """Return a job as it is now, or wait for its end."""
    job = await services.pools.run("lookup", services.jobs.get, job_id, owner=owner)
    return await wait.for_end(job, services.watcher, request, response)


@router.post("/{job_id}/cancel", status_code=202, responses=openapi.problems(JobNotFound, JobEnded))
@in_pool("lookup")
def cancel_job(job_id: JobIdDep, services: ServicesDep, owner: OwnerNameDep) -> Job:
    """Cancel a job: immediately if it waits, before the next clip if it runs."""
    return services.jobs.cancel(job_id, owner=owner)


@router.delete(
    "/{job_id}",
    status_code=204,
    response_class=Response,
    responses=openapi.problems(JobNotFound),
)
@in_pool("lookup")
def delete_job(job_id: JobIdDep, services: ServicesDep, owner: OwnerNameDep) -> None:
    """Remove every byte of a job; cancel it if it has not ended."""
    services.jobs.delete(job_id, owner=owner)


async def _create_from_form(request: Request, services: Services, owner: Owner | None) -> Job:
    jobs, max_bytes = services.jobs, services.settings.max_upload_bytes
    in_thread = services.pools.run
    announced = uploads.announced_bytes(request, max_bytes)
    # Reserved on the event loop, not in a thread, so that its cleanup cannot be cancelled.
    async with (
        jobs.reserving(announced, owner=owner) as reservation,
        entered(services.store.receiving) as path,
    ):
        form = await uploads.receive(
            request,
            path,
            max_bytes=max_bytes,
            idle_seconds=services.settings.upload_idle_seconds,
            on_bytes=reservation.arrive,
        )
        await reservation.settle(form.video.bytes)
        owner = await _authenticate_again(request, services)
        adding = partial(
            jobs.adding_upload,
            path,
            form.video,
            owner=owner.name if owner else None,
            filename=form.filename,
        )
        async with entered(adding) as upload:
            return await in_thread(
                "upload", jobs.submit, form.options, upload, owner=owner, reservation=reservation
            )


async def _create_from_upload(request: Request, services: Services, owner: Owner | None) -> Job:
    in_thread = services.pools.run
    idle_seconds = services.settings.upload_idle_seconds
    wanted = await uploads.receive_json(request, idle_seconds=idle_seconds)
    if wanted.upload is None:
        raise VideoUrlRefused("this service fetches no videos; send the video to /v1/uploads")
    owner = await _authenticate_again(request, services)
    name = owner.name if owner else None
    upload = await in_thread("upload", services.uploads.usable, wanted.upload, owner=name)
    size = upload.bytes or 0
    reserving = services.jobs.reserving(size, owner=owner, entry_of=room_for_result)
    async with reserving as reservation:
        await reservation.settle(size)
        return await in_thread(
            "upload", services.jobs.submit, wanted, upload, owner=owner, reservation=reservation
        )


async def _authenticate_again(request: Request, services: Services) -> Owner | None:
    """Return the owner of the key, which may have been revoked while the body arrived.

    Raises:
        Unauthorized: it was.
    """
    if services.keys:
        await services.pools.run("upload", services.keys.refresh)
    return authenticate(request.scope)
