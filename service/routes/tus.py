"""Resumable uploads by the tus protocol, on the URLs of uploads; see `service.tus`.

Its calls are told from the plain ones by the header `Tus-Resumable`. They are not in the OpenAPI
document: the protocol has a specification of its own, and clients in many languages.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import Match
from starlette.types import Scope

from rollout_core.errors import RolloutError
from service import tus
from service.auth import API_PREFIX
from service.dependencies import (
    OwnerDep,
    OwnerNameDep,
    Services,
    ServicesDep,
    UploadIdDep,
    authenticate_again,
)
from service.errors import TusVersionUnsupported, UploadExpired, UploadTooLarge
from service.ledger import Entry
from service.pools import in_pool
from service.problems import problem_of
from service.resumable import ResumableUpload, resuming
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
    run, uploads = services.pools.run, services.uploads
    reserving = services.jobs.reserving(creation.bytes, owner=owner, entry_of=Entry.of_video)
    async with reserving as reservation:
        await reservation.promise()
        name = owner.name if owner else None
        begin = partial(uploads.begin, owner=name, filename=creation.filename)
        record = await run("upload", begin, reservation.id, creation.bytes)
        offset = 0
        if has_body:
            try:
                offset = await _receive(request, services, record, offset=0)
            except BaseException:  # its id is not known to the client
                await asyncio.shield(run("upload", _remove, services, record))
                raise
        reservation.keep()
    headers = await _describe(services, record, offset)
    path = router.url_path_for("append_to_upload", upload_id=record.id)
    headers["Location"] = request.scope["root_path"] + path
    return Response(status_code=201, headers=headers)


@router.head("/{upload_id}")
async def get_upload_offset(
    upload_id: UploadIdDep, services: ServicesDep, owner: OwnerNameDep
) -> Response:
    """Tell at which offset the upload continues. A call that writes to it is ended."""
    record = await services.pools.run("lookup", _find, services, upload_id, owner)
    if record.is_complete:
        offset = record.bytes or 0
    else:
        async with resuming(services.jobs.uploads, record) as upload:
            offset = await _offset(services, upload)
    headers = await _describe(services, record, offset)
    headers["Upload-Length"] = str(record.bytes)
    headers["Cache-Control"] = "no-store"
    return Response(status_code=200, headers=headers)


@router.patch("/{upload_id}", openapi_extra=TAKES_BODY)
async def append_to_upload(
    upload_id: UploadIdDep, request: Request, services: ServicesDep, owner: OwnerNameDep
) -> Response:
    """Append the body to the upload."""
    tus.require_body_type(request.headers)
    offset = tus.read_number(request.headers, "Upload-Offset")
    record = await services.pools.run("lookup", _find, services, upload_id, owner)
    offset = await _receive(request, services, record, offset=offset)
    return Response(status_code=204, headers=await _describe(services, record, offset))


@router.delete("/{upload_id}")
@in_pool("lookup")
def delete_resumable_upload(
    upload_id: UploadIdDep, services: ServicesDep, owner: OwnerNameDep
) -> Response:
    """Remove the upload; a call that writes to it is ended."""
    services.uploads.delete(upload_id, owner=owner)
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
        await authenticate_again(request, services)
        return await _offset(services, upload)


async def _offset(services: Services, upload: ResumableUpload) -> int:
    """Return the offset; complete the upload if all bytes have arrived."""
    offset = await upload.offset()
    if offset == upload.size:
        await services.pools.run("upload", services.uploads.look, upload.record.id)
    return offset


def _remove(services: Services, record: UploadRecord) -> None:
    services.jobs.uploads.delete(record)
    services.uploads.look(record.id)


def _find(services: Services, upload_id: str, owner: str | None) -> UploadRecord:
    """Return an upload of the owner.

    Raises:
        UploadNotFound: there is none.
        UploadExpired: its bytes were removed, or will be soon.
    """
    record = services.uploads.find(upload_id, owner=owner)
    if not record.is_complete and services.uploads.expires_at(record) < services.jobs.age_now():
        raise UploadExpired("the upload was not completed in time")
    return record


async def _describe(services: Services, record: UploadRecord, offset: int) -> dict[str, str]:
    expires_at = await services.pools.run("lookup", services.uploads.expires_at, record)
    return {"Upload-Offset": str(offset), "Upload-Expires": tus.http_date(expires_at)}
