"""Answers every error with an RFC 9457 problem document."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import Field
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from rollout_core import errors as core_errors
from rollout_core import logs
from rollout_core.contract import Frozen
from rollout_core.error_texts import explain
from rollout_core.errors import (
    InvalidRequest,
    JobEnded,
    RolloutError,
    StoreFull,
    StoreUnavailable,
    TooMuchWork,
    UnknownFormat,
    UnsupportedContainer,
)
from rollout_core.jobs.store import unavailable
from rollout_core.suggestions import suggest
from service import errors as service_errors
from service.errors import (
    IdempotencyInProgress,
    MalformedUpload,
    QueueFull,
    RangeNotSatisfiable,
    RedisUnavailable,
    SessionEnded,
    StorageQuotaExceeded,
    Unauthorized,
    UploadEncoded,
    UploadLocked,
    UploadTooSlow,
    VideoUrlFailed,
)

CORE_STATUS: Mapping[type[RolloutError], HTTPStatus] = {
    JobEnded: HTTPStatus.CONFLICT,
    UnsupportedContainer: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooMuchWork: HTTPStatus.UNPROCESSABLE_ENTITY,
    StoreFull: HTTPStatus.INSUFFICIENT_STORAGE,
    StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    UnknownFormat: HTTPStatus.SERVICE_UNAVAILABLE,
    RolloutError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""HTTP statuses of the errors of `rollout_core.errors`; the nearest ancestor counts."""

METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")
RETRY_AFTER_SECONDS = 5
MEDIA_TYPE = "application/problem+json"
MAX_FIELDS = 20
MAX_FIELD_LENGTH = 100
LEAST_SERVER_ERROR = 500
BUG = "internal error of the service"

PLAIN_CODES = (
    "bad_request",
    "method_not_allowed",
    "not_found",
    "request_timeout",
    "shutting_down",
    "too_many_connections",
)
"""Codes of problems that have no class: HTTP itself, and the server below the routes."""

logger = logging.getLogger(__name__)


class FieldError(Frozen):
    """Why one field of a request is invalid."""

    field: str
    message: str


class Problem(Frozen):
    """RFC 9457 problem details. `code` is stable; `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: tuple[FieldError, ...] | None = Field(
        None, description="The invalid fields, if that is the problem."
    )
    request_id: str | None = Field(
        None,
        description="The `X-Request-ID` of the answer, if the service is at fault (5xx): its "
        "operator finds the cause by it.",
    )


class ProblemResponse(JSONResponse):
    """A problem document as an answer."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        detail: str,
        *,
        errors: tuple[FieldError, ...] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        problem = Problem(
            type=f"urn:rollout:problem:{code}",
            title=title,
            status=status,
            detail=detail,
            code=code,
            errors=errors,
            request_id=logs.present().request_id if status >= LEAST_SERVER_ERROR else None,
        )
        given = {"X-Content-Type-Options": "nosniff", **(headers or {})}
        super().__init__(problem.model_dump(exclude_none=True), status, given)


class NothingFollows(Exception):
    """Answers 204: a client that follows a job has had everything."""


def install(app: FastAPI) -> None:
    """Make every error of `app` answer with a problem document."""
    app.exception_handler(RolloutError)(_on_rollout_error)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.exception_handler(HTTPException)(_on_http_exception)
    app.exception_handler(NothingFollows)(_on_nothing_follows)
    app.exception_handler(ClientDisconnect)(_on_disconnect)
    app.exception_handler(RedisError)(_on_redis_down)
    app.exception_handler(OSError)(_on_store_down)
    app.exception_handler(Exception)(_on_bug)


def status_of(error: type[RolloutError]) -> int:
    """Return the HTTP status of an error class: its own, or that of the core error."""
    own: int | None = getattr(error, "status", None)
    if own is not None:
        return own
    return next(CORE_STATUS[ancestor] for ancestor in error.__mro__ if ancestor in CORE_STATUS)


def all_codes() -> set[str]:
    """Return the code of every problem that an answer can have."""
    found = (item for module in (core_errors, service_errors) for item in vars(module).values())
    classes = (item for item in found if isinstance(item, type) and issubclass(item, RolloutError))
    return {*PLAIN_CODES, *(error.code for error in classes)}


def problem_of(error: RolloutError) -> ProblemResponse:
    """Return the answer to a request that failed with `error`."""
    status = status_of(type(error))
    is_callers = isinstance(error, StorageQuotaExceeded | VideoUrlFailed)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and not is_callers:
        logger.error("%s: %s: %s", error.code, error, error.__cause__)
    detail = BUG if status == HTTPStatus.INTERNAL_SERVER_ERROR else str(error)
    fields = None
    if isinstance(error, InvalidRequest) and error.field:
        fields = (FieldError(field=error.field, message=error.reason),)
    headers = _headers(error, status)
    return ProblemResponse(status, error.code, error.title, detail, errors=fields, headers=headers)


def too_many_connections(whose: str) -> ProblemResponse:
    """Return the answer to a connection or a request beyond the limit."""
    return ProblemResponse(
        503,
        "too_many_connections",
        "Too many connections",
        f"{whose} has reached its limit of connections; try again",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"},
    )


def _on_rollout_error(_: Request, error: RolloutError) -> Response:
    return problem_of(error)


def _headers(error: RolloutError, status: int) -> dict[str, str]:
    if isinstance(error, SessionEnded):
        return {"WWW-Authenticate": "Bearer", "Set-Cookie": error.removal}
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, UploadTooSlow | UploadLocked):
        return {"Connection": "close"}
    if isinstance(error, UploadEncoded):
        return {"Accept-Encoding": "identity"}
    if isinstance(error, RangeNotSatisfiable):
        return {"Content-Range": f"bytes */{error.size_bytes}"}
    if isinstance(error, QueueFull | IdempotencyInProgress):
        return {"Retry-After": str(error.retry_after_seconds)}
    passes = isinstance(error, StoreFull) and not isinstance(error, StorageQuotaExceeded)
    if passes or status == HTTPStatus.SERVICE_UNAVAILABLE:
        return {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return {}


def _on_invalid(_: Request, error: RequestValidationError) -> Response:
    """Name the invalid fields, but never repeat the values that were sent in them."""
    fields = tuple(_field_errors(error.errors()[:MAX_FIELDS]))
    detail = "; ".join(f"{item.field}: {item.message}" for item in fields)
    kind = InvalidRequest
    return ProblemResponse(status_of(kind), kind.code, kind.title, detail, errors=fields)


def _field_errors(errors: Iterable[Any]) -> Iterator[FieldError]:
    for error in errors:
        field = ".".join(str(step)[:MAX_FIELD_LENGTH] for step in error["loc"])
        yield FieldError(field=field, message=explain(error) if "type" in error else error["msg"])


def _on_http_exception(request: Request, error: HTTPException) -> Response:
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    detail = _describe(request, error, headers) if error.detail == status.phrase else error.detail
    return ProblemResponse(status, status.name.lower(), status.phrase, detail, headers=headers)


def _describe(request: Request, error: HTTPException, headers: Mapping[str, str]) -> str:
    """Return the detail of an error of the router, which says no more than the title."""
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))[:MAX_FIELD_LENGTH]
    if error.status_code == HTTPStatus.NOT_FOUND:
        known = (getattr(route, "path", "") for route in request.app.routes)
        hint = suggest(path, filter(None, known))
        return f"there is no path {path}; {hint or 'the paths are listed at /docs'}"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{path} takes {headers['Allow']}, not {request.method[:MAX_FIELD_LENGTH]}"
    return str(error.detail)


def _allowed_methods(request: Request) -> Iterator[str]:
    """Yield the methods of all routes of a path; Starlette gives only those of the first."""
    for method in METHODS:
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            yield method


def _on_nothing_follows(_: Request, __: Exception) -> Response:
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _on_disconnect(_: Request, __: ClientDisconnect) -> Response:
    """Answer a client that has most likely disconnected."""
    return problem_of(MalformedUpload("the body ends too early"))


def _on_redis_down(_: Request, error: RedisError) -> Response:
    unavailable = RedisUnavailable("the job queue does not answer; try again")
    unavailable.__cause__ = error
    return problem_of(unavailable)


def _on_store_down(_: Request, error: OSError) -> Response:
    failure = unavailable(error, "the artifact store cannot be used; try again")
    failure.__cause__ = error
    return problem_of(failure)


def _on_bug(_: Request, __: Exception) -> Response:
    """Answer without details. The server logs the traceback."""
    return ProblemResponse(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        RolloutError.code,
        RolloutError.title,
        BUG,
    )
