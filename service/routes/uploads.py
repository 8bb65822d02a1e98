"""Uploads: send a video once, look it up, list, delete."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Response
from starlette.requests import Request

from rollout_core.errors import (
    InvalidRequest,
    StoreFull,
    StoreUnavailable,
    UnsupportedContainer,
)
from rollout_core.jobs.schemas import Upload, UploadPage
from rollout_core.patterns import CURSOR
from service import openapi, uploads
from service.auth import API_PREFIX
from service.dependencies import (
    OwnerDep,
    OwnerNameDep,
    Services,
    ServicesDep,
    UploadIdDep,
    authenticate_again,
)
from service.errors import (
    EmptyUpload,
    InvalidForm,
    MalformedUpload,
    NotCounted,
    NotVideo,
    RedisUnavailable,
    StorageQuotaExceeded,
    UploadEncoded,
    UploadExpired,
    UploadInUse,
    UploadNotFound,
    UploadTooLarge,
    UploadTooSlow,
)
from service.filenames import clean, filename_of, parse_disposition
from service.ledger import Entry
from service.pools import entered, in_pool
from service.receiving import OnBytes, write_video
from service.upload_store import Received
from service.usage import Owner

router = APIRouter(prefix=f"{API_PREFIX}/uploads", tags=["uploads"])

FilenameQuery = Annotated[
    str | None, Query(max_length=1000, description="Name of the video, to be shown.")
]


@router.post(
    "",
    status_code=201,
    openapi_extra={"requestBody": openapi.VIDEO_BODY},
    responses={
        201: {"headers": openapi.headers("Location")},
        **openapi.problems(
            NotVideo,
            MalformedUpload,
            InvalidForm,
            EmptyUpload,
            UploadTooLarge,
            UploadTooSlow,
            UploadEncoded,
            UnsupportedContainer,
            RedisUnavailable,
            NotCounted,
            StoreFull,
            StorageQuotaExceeded,
            StoreUnavailable,
        ),
    },
)
async def create_upload(
    request: Request,
    response: Response,
    services: ServicesDep,
    owner: OwnerDep,
    filename: FilenameQuery = None,
) -> Upload:
    """Store a video, to make jobs from it. The body is the video itself, or a form with it.

    The name is taken from `filename`, else from the Content-Disposition of the video.
    """
    upload = await _create(request, services, owner, filename)
    location = router.url_path_for("get_upload", upload_id=upload.id)
    response.headers["Location"] = request.scope["root_path"] + location
    return upload


@router.get("", responses=openapi.problems(InvalidRequest))
@in_pool("listing")
def list_uploads(
    services: ServicesDep,
    owner: OwnerNameDep,
    limit: Annotated[int, Query(ge=1, le=200, description="Most uploads on the page.")] = 50,
    cursor: Annotated[
        str | None, Query(pattern=CURSOR, description="`next_cursor` of the previous page.")
    ] = None,
) -> UploadPage:
    """List uploads, newest first, without those that have expired."""
    return services.uploads.page(limit=limit, cursor=cursor, owner=owner)


@router.get("/{upload_id}", responses=openapi.problems(UploadNotFound, UploadExpired))
@in_pool("lookup")
def get_upload(upload_id: UploadIdDep, services: ServicesDep, owner: OwnerNameDep) -> Upload:
    """Return an upload as it is now."""
    return services.uploads.get(upload_id, owner=owner)


@router.delete(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses=openapi.problems(UploadNotFound, UploadInUse),
)
@in_pool("lookup")
def delete_upload(upload_id: UploadIdDep, services: ServicesDep, owner: OwnerNameDep) -> None:
    """Remove every byte of an upload. The jobs made from it keep their results."""
    services.uploads.delete(upload_id, owner=owner)


async def _create(
    request: Request, services: Services, owner: Owner | None, filename: str | None
) -> Upload:
    announced = uploads.announced_bytes(request, services.settings.max_upload_bytes)
    # Reserved on the event loop, not in a thread, so that its cleanup cannot be cancelled.
    async with (
        services.jobs.reserving(announced, owner=owner, entry_of=Entry.of_video) as reservation,
        entered(services.store.receiving) as path,
    ):
        video, own_name = await _receive(request, services, path, reservation.arrive)
        await reservation.settle(video.bytes)
        owner = await authenticate_again(request, services)
        upload = await services.pools.run(
            "upload",
            services.uploads.add,
            reservation.id,
            path,
            video,
            owner=owner.name if owner else None,
            filename=clean(filename) if filename else own_name,
        )
        reservation.keep()
    return upload


async def _receive(
    request: Request, services: Services, path: Path, on_bytes: OnBytes
) -> tuple[Received, str | None]:
    """Write the video to `path`; return it with its name."""
    settings = services.settings
    kind = uploads.media_type(request)
    if kind == "multipart/form-data":
        form = await uploads.receive(
            request,
            path,
            max_bytes=settings.max_upload_bytes,
            idle_seconds=settings.upload_idle_seconds,
            on_bytes=on_bytes,
            parts=frozenset({uploads.VIDEO_PART}),
        )
        return form.video, form.filename
    if kind == "application/json" or kind.startswith("multipart/"):
        raise NotVideo(
            "send the bytes of the video as the body, with a Content-Type such as video/mp4"
        )
    uploads.require_not_encoded(request)
    video = await write_video(
        request.stream(),
        path,
        max_bytes=settings.max_upload_bytes,
        idle_seconds=settings.upload_idle_seconds,
        on_bytes=on_bytes,
    )
    disposition = request.headers.get("content-disposition", "").encode("latin-1")
    return video, filename_of(parse_disposition(disposition))
