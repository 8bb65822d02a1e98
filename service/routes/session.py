"""The session of a browser: a cookie instead of the API key; see `service.sessions`."""

from fastapi import APIRouter, Response
from starlette.requests import Request

from rollout_core.jobs.schemas import Session
from service import openapi
from service.auth import SESSION_PATH, digest_of, key_of, require_own_page, session_of
from service.dependencies import OwnerDep, ServicesDep
from service.errors import SessionOriginRefused, Unauthorized
from service.sessions import set_cookie

router = APIRouter(prefix=SESSION_PATH, tags=["session"])

NOT_STORED = {"Cache-Control": "no-store"}


@router.post(
    "",
    status_code=201,
    openapi_extra=openapi.BY_KEY,
    responses={
        201: {"headers": openapi.headers("Set-Cookie")},
        **openapi.problems(SessionOriginRefused),
    },
)
async def begin_session(
    request: Request, response: Response, services: ServicesDep, owner: OwnerDep
) -> Session:
    """Begin a session for the API key of this call. From then on its cookie stands for the key.

    A service without keys answers the same, but sets no cookie.
    """
    response.headers.update(NOT_STORED)
    if services.keys is None or services.sessions is None or owner is None:
        return Session(owner=None, expires_at=None, keys_required=False)
    key = key_of(request.scope)
    if key is None:
        raise Unauthorized("a session begins with the API key itself: Authorization: Bearer KEY")
    require_own_page(request.scope, surely=False)
    session, cookie = services.sessions.begin(digest_of(key), owner, request.scope)
    response.headers["Set-Cookie"] = cookie
    return Session(owner=owner.name, expires_at=session.ends_at, keys_required=True)


@router.get("", responses=openapi.problems())
async def get_session(
    request: Request, response: Response, services: ServicesDep, owner: OwnerDep
) -> Session:
    """Return who calls. Without a key or a session the answer is 401, if the service has keys."""
    response.headers.update(NOT_STORED)
    if services.keys is None or owner is None:
        return Session(owner=None, expires_at=None, keys_required=False)
    session = None if key_of(request.scope) else session_of(request.scope)
    ends_at = session.ends_at if session else None
    return Session(owner=owner.name, expires_at=ends_at, keys_required=True)


@router.delete(
    "",
    status_code=204,
    response_class=Response,
    openapi_extra=openapi.WITHOUT_KEY,
    responses={
        204: {"headers": openapi.headers("Set-Cookie")},
        **openapi.problems(SessionOriginRefused),
    },
)
async def end_session(request: Request) -> Response:
    """End the session of this browser: remove its cookie. It needs no key, and no session."""
    require_own_page(request.scope, surely=False)
    removal = {"Set-Cookie": set_cookie(request.scope, "", 0)}
    return Response(status_code=204, headers={**NOT_STORED, **removal})
