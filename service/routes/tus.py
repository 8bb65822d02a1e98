"""Resumable uploads by the tus protocol, on the URLs of uploads; see `service.tus`.

Its calls are told from the plain ones by the header `Tus-Resumable`. They are not in the OpenAPI
document: the protocol has a specification of its own, and clients in many languages.
"""

from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import Match
from starlette.types import Scope

from rollout_core.errors import RolloutError
from rollout_core.jobs.redis_records import redis_now
from service import tus
from service.auth import API_PREFIX, authenticate
from service.dependencies import OwnerDep, OwnerNameDep, Services, ServicesDep
from service.errors import TusVersionUnsupported, UploadExpired, UploadTooLarge
from service.inventory import JOB_ID
from service.ledger import Entry
from service.pools import in_pool
from service.problems import problem_of
from service.resumable import gone, resuming
from service.upload_store import UploadRecord

TAKES_BODY: dict[str, Any] = {"requestBody": {}}


class TusRoute(APIRoute):
    """A call of the protocol: only for clients that speak it, which may override the method."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match requests with the header of the protocol, and those that only it has."""
        if scope["type"] != "http":
            return Match.NONE, {}
        headers = Headers(scope=scope)
        speaks = tus.RESUMABLE in headers
        method = scope["method"]
        if speaks and method == "POST":
            method = headers.get(tus.METHOD_OVERRIDE, method).upper()
        if method not in (self.methods or ()) or not (speaks or method in ("PATCH", "OPTIONS")):
            return Match.NONE, {}
        match, child_scope = super().matches({**scope, "method": method})
        return match, {**child_scope, "method": method}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler: it checks the version, and names ours in every answer."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            response: Response
            try:
                if request.method != "OPTIONS":
                    tus.require_version(request.headers)
                response = await handle(request)
            except RolloutError as error:
                response = problem_of(error)
                if isinstance(error, TusVersionUnsupported):
                    response.headers["Tus-Version"] = tus.VERSION
            response.headers[tus.RESUMABLE] = tus.VERSION
            return response

        return answer


router = APIRouter(
    prefix=f"{API_PREFIX}/uploads", route_class=TusRoute, include_in_schema=False, tags=["uploads"]
)


@router.options("")
@router.options("/{upload_id}")
async def tell_what_is_offered(services: ServicesDep) -> Response:
    """Tell the version, the extensions and the limits."""
    return Response(status_code=204, headers=tus.offers(services.settings.max_upload_bytes))


@router.post("", openapi_extra=TAKES_BODY)
async def create_resumable_upload(
    request: Request, services: ServicesDep, owner: OwnerDep
) -> Response:
    """Create an upload, and store the bytes that come with the call."""
    creation = tus.read_creation(request.headers, services.settings.max_upload_bytes)
    if has_body := tus.has_body(request.headers):
        tus.require_body_type(request.headers)
    in_thread, store = services.pools.run, services.jobs.uploads
    async with services.jobs.reserving(
        creation.bytes, owner=owner, entry_of=Entry.of_video
    ) as reservation:
        record = UploadRecord(
            id=reservation.id,
            created_at=await in_thread("upload", redis_now, services.redis),
            owner=owner.name if owner else None,
            bytes=creation.bytes,
            filename=creation.filename,
        )
        await reservation.promise()
        await in_thread("upload", store.begin, record)
        reservation.keep()
    offset = 0
    if has_body:
        try:
            offset = await _receive(request, services, record, offset=0)
        except BaseException:  # its id is not known to the client
            await in_thread("upload", store.delete, record)
            raise
    headers = _describe(services, record, offset)
    path = router.url_path_for("append_to_upload", upload_id=record.id)
    headers["Location"] = request.scope["root_path"] + path
    return Response(status_code=201, headers=headers)


@router.head("/{upload_id}")
async def get_upload_offset(upload_id: str, services: ServicesDep, owner: OwnerNameDep) -> Response:
    """Tell at which offset the upload continues. A call that writes to it is ended."""
    record = await services.pools.run("upload", _find, services, upload_id, owner)
    if record.is_complete:
        offset = record.bytes or 0
    else:
        async with resuming(services.jobs.uploads, record) as upload:
            offset = await upload.offset()
    headers = _describe(services, record, offset)
    headers["Upload-Length"] = str(record.bytes)
    headers["Cache-Control"] = "no-store"
    return Response(status_code=200, headers=headers)


@router.patch("/{upload_id}", openapi_extra=TAKES_BODY)
async def append_to_upload(
    upload_id: str, request: Request, services: ServicesDep, owner: OwnerNameDep
) -> Response:
    """Append the body to the upload."""
    tus.require_body_type(request.headers)
    offset = tus.read_number(request.headers, "Upload-Offset")
    record = await services.pools.run("upload", _find, services, upload_id, owner)
    offset = await _receive(request, services, record, offset=offset)
    return Response(status_code=204, headers=_describe(services, record, offset))


@router.delete("/{upload_id}")
@in_pool("upload")
def delete_resumable_upload(upload_id: str, services: ServicesDep, owner: OwnerNameDep) -> Response:
    """Remove the upload; a call that writes to it is ended."""
    services.uploads.delete(_find(services, upload_id, owner).id, owner=owner)
    return Response(status_code=204)


async def _receive(
    request: Request, services: Services, record: UploadRecord, *, offset: int
) -> int:
    """Append the body at an offset; return the offset at its end."""
    checksum = tus.read_checksum(request.headers)
    announced = request.headers.get("content-length", "0")
    if record.bytes is not None and offset + int(announced) > record.bytes:
        raise UploadTooLarge(f"the upload has {record.bytes} bytes in all")
    async with resuming(services.jobs.uploads, record) as upload:
        await upload.append(
            request.stream(),
            offset=offset,
            idle_seconds=services.settings.upload_idle_seconds,
            checksum=checksum,
        )
        if services.keys:
            await services.pools.run("upload", services.keys.refresh)
        authenticate(request.scope)  # the key may have been revoked meanwhile
        return await upload.offset()


def _find(services: Services, upload_id: str, owner: str | None) -> UploadRecord:
    """Return an upload of the owner.

    Raises:
        UploadNotFound: there is none.
        UploadExpired: its bytes were removed, or will be soon.
    """
    store = services.jobs.uploads
    record = store.record(upload_id) if JOB_ID.fullmatch(upload_id) else None
    if record is None or record.owner != owner:
        raise gone(upload_id[:32])
    is_old = _expires_at(services, record) < redis_now(services.redis)
    if store.has_expired(upload_id) or (is_old and not record.is_complete):
        raise UploadExpired("the upload was not completed in time")
    return record


def _describe(services: Services, record: UploadRecord, offset: int) -> dict[str, str]:
    expires_at = tus.http_date(_expires_at(services, record))
    return {"Upload-Offset": str(offset), "Upload-Expires": expires_at}


def _expires_at(services: Services, record: UploadRecord) -> datetime:
    return record.created_at + timedelta(seconds=services.settings.upload_ttl)
