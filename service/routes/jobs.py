"""Jobs: create, look up, list, cancel, delete."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from starlette.requests import Request

from rollout_core.contract import JobOptions, JobTag, ModelName
from rollout_core.errors import (
    InvalidRequest,
    JobEnded,
    StoreFull,
    StoreUnavailable,
    TooMuchWork,
    UnknownModel,
    UnsupportedContainer,
)
from rollout_core.jobs.records import JobState
from rollout_core.jobs.schemas import Job, JobPage
from rollout_core.patterns import CURSOR, VISIBLE_ASCII
from service import openapi, uploads
from service.auth import API_PREFIX
from service.dependencies import (
    JobIdDep,
    OwnerDep,
    OwnerNameDep,
    Services,
    ServicesDep,
    authenticate_again,
)
from service.errors import (
    CheckpointsDiffer,
    IdempotencyInProgress,
    IdempotencyKeyReused,
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
    VideoUrlFailed,
    VideoUrlRefused,
    WebhookRefused,
)
from service.fetch import filename_of
from service.idempotency import Claim, body_digest
from service.ledger import Entry
from service.pools import entered, in_pool
from service.preferences import WaitDep
from service.reservations import room_for_result
from service.routes.artifacts import with_present_urls
from service.usage import Owner

router = APIRouter(prefix=f"{API_PREFIX}/jobs", tags=["jobs"])


@router.post(
    "",
    status_code=202,
    openapi_extra={"requestBody": openapi.UPLOAD_FORM},
    responses={
        200: {
            "model": Job,
            "description": "The job has ended, or the Idempotency-Key has made it before.",
            "headers": openapi.headers("Location", "Retry-After", "Preference-Applied"),
        },
        202: {"headers": openapi.headers("Location", "Retry-After", "Preference-Applied")},
        **openapi.problems(
            NotMultipart,
            MalformedUpload,
            InvalidForm,
            InvalidRequest,
            TooMuchWork,
            WebhookRefused,
            UnknownModel,
            UploadTooLarge,
            UploadTooSlow,
            UploadEncoded,
            UploadNotFound,
            UploadExpired,
            UploadIncomplete,
            VideoUrlRefused,
            VideoUrlFailed,
            IdempotencyKeyReused,
            IdempotencyInProgress,
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
    request: Request,
    response: Response,
    services: ServicesDep,
    owner: OwnerDep,
    wait: WaitDep,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            pattern=VISIBLE_ASCII,
            description="A text that no other request of yours has. For 24 hours, the same request "
            "with the same key gives the same job.",
        ),
    ] = None,
) -> Job:
    """Queue a job for a video: one sent with it in a form, or an upload named in JSON.

    An equal job of yours that has succeeded answers it at once.
    """
    is_json = uploads.media_type(request) == "application/json"
    create = _create_from_json if is_json else _create_from_form
    name = owner.name if owner else None
    async with services.jobs.idempotency.claiming(idempotency_key, name) as claim:
        if not (claim and claim.exists):
            await services.pools.run("upload", services.jobs.submissions.require_place, owner)
        with uploads.naming_part(is_json):
            job = await create(request, services, owner, claim)
    location = router.url_path_for("get_job", job_id=job.id)
    response.headers["Location"] = request.scope["root_path"] + location
    job = await wait.for_end(job, services.watcher, request, response)
    if job.ended_at is not None or (claim and claim.exists):
        response.status_code = 200
    if job.ended_at is None:
        seconds = await services.pools.run("upload", services.jobs.wait_seconds, job)
        response.headers["Retry-After"] = str(seconds)
    return with_present_urls(job)


@router.get("", responses=openapi.problems(InvalidRequest))
@in_pool("listing")
def list_jobs(
    services: ServicesDep,
    owner: OwnerNameDep,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    tag: Annotated[JobTag | None, Query(description="Only jobs with this tag.")] = None,
    model: Annotated[ModelName | None, Query(description="Only jobs for this model.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Most jobs on the page.")] = 50,
    cursor: Annotated[
        str | None, Query(pattern=CURSOR, description="`next_cursor` of the previous page.")
    ] = None,
) -> JobPage:
    """List jobs, newest first. With a filter, a page may be short although more pages follow."""
    return services.jobs.page(
        state=state, tag=tag, model=model, limit=limit, cursor=cursor, owner=owner
    )


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
    return with_present_urls(await wait.for_end(job, services.watcher, request, response))


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


async def _create_from_form(
    request: Request, services: Services, owner: Owner | None, claim: Claim | None
) -> Job:
    """Receive a form with a video and a request, and queue a job for it."""
    jobs, max_bytes = services.jobs, services.settings.max_upload_bytes
    run = services.pools.run
    announced = uploads.announced_bytes(request, max_bytes)
    job_id = claim.job_id if claim and not claim.exists else None
    # Reserved on the event loop, not in a thread, so that its cleanup cannot be cancelled.
    async with (
        jobs.reserving(announced, owner=owner, job_id=job_id) as reservation,
        entered(services.store.receiving) as path,
    ):
        form = await uploads.receive(
            request,
            path,
            max_bytes=max_bytes,
            idle_seconds=services.settings.upload_idle_seconds,
            on_bytes=reservation.arrive,
        )
        owner = await authenticate_again(request, services)
        name = owner.name if owner else None
        body = body_digest(form.options, form.video.sha256) if claim else None
        if claim and claim.exists:
            return await run("upload", jobs.repeat, claim.job_id, body, owner=name)
        await reservation.settle(form.video.bytes)
        adding = partial(
            jobs.submissions.adding_upload, path, form.video, owner=name, filename=form.filename
        )
        async with entered(adding) as upload:
            submit = partial(jobs.submit, owner=owner, reservation=reservation, body_sha256=body)
            return await run("upload", submit, form.options, upload)


async def _create_from_json(
    request: Request, services: Services, owner: Owner | None, claim: Claim | None
) -> Job:
    """Queue a job for the upload, or for the video at the URL, that the JSON body names."""
    jobs, run = services.jobs, services.pools.run
    idle_seconds = services.settings.upload_idle_seconds
    wanted = await uploads.receive_json(request, idle_seconds=idle_seconds)
    owner = await authenticate_again(request, services)
    name = owner.name if owner else None
    body = body_digest(wanted) if claim else None
    if claim and claim.exists:
        return await run("upload", jobs.repeat, claim.job_id, body, owner=name)
    if wanted.video_url is not None:
        return await _create_from_url(wanted, wanted.video_url, request, services, owner, claim)
    assert wanted.upload is not None  # the contract demands one of the two
    upload = await run("upload", services.uploads.usable, wanted.upload, owner=name)
    size = upload.bytes or 0
    job_id = claim.job_id if claim else None
    # A bucket has a copy of the video for each job.
    entry_of = room_for_result if services.store.is_on_disk else Entry.of_upload
    reserving = jobs.reserving(size, owner=owner, entry_of=entry_of, job_id=job_id)
    async with reserving as reservation:
        await reservation.settle(size)
        submit = partial(jobs.submit, owner=owner, reservation=reservation, body_sha256=body)
        return await run("upload", submit, wanted, upload)


async def _create_from_url(
    wanted: JobOptions,
    url: str,
    request: Request,
    services: Services,
    owner: Owner | None,
    claim: Claim | None,
) -> Job:
    """Fetch a video, and queue a job for it."""
    jobs = services.jobs
    services.fetcher.check(url)
    async with (
        jobs.reserving(0, owner=owner, job_id=claim.job_id if claim else None) as reservation,
        entered(services.store.receiving) as path,
    ):
        video = await services.fetcher.fetch(url, path, reservation.arrive)
        await reservation.settle(video.bytes)
        owner = await authenticate_again(request, services)
        name = owner.name if owner else None
        adding = partial(
            jobs.submissions.adding_upload, path, video, owner=name, filename=filename_of(url)
        )
        body = body_digest(wanted) if claim else None
        async with entered(adding) as upload:
            submit = partial(jobs.submit, owner=owner, reservation=reservation, body_sha256=body)
            return await services.pools.run("upload", submit, wanted, upload)
