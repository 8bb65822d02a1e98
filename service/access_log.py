"""The id of each request, and one log line for each answer.

`AccessLog` is outside of everything else, so that no answer lacks an id or a line: not those of the
checks before the routes, of a bug, or of a service that stops. What is no HTTP gets both from
`service.server`. What the layers inside find out, they leave in the state of the request: the route
(`service.request_meter`), the owner or that the key was refused (`service.auth`), the caller
(`service.hosts`).
"""

import logging
import re
import time
import uuid
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rollout_core import logs
from rollout_core.patterns import REQUEST_ID
from service.proxies import TrustedProxies

HEADER = "X-Request-ID"

QUIET_ROUTES = frozenset({"/livez", "/readyz", "/", "/favicon.ico"})
QUIET_PREFIXES = ("/page/", "/docs")
"""Routes whose answers are logged at the level `debug`: they would drown the others."""

MAX_PATH_LENGTH = 200
MAX_METHOD_LENGTH = 20

_REQUEST_ID = re.compile(REQUEST_ID)

logger = logging.getLogger(__name__)


@dataclass
class Answer:
    """What was sent of an answer until now."""

    status: int | None = None
    bytes: int = 0


class AccessLog:
    """Middleware: gives each request an id, and logs each answer when it has ended.

    The id is that of the header `X-Request-ID` if it is well-formed, else a new one. All log lines
    of the request have it, and the answer gives it back.
    """

    def __init__(self, app: ASGIApp, proxies: TrustedProxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, in a task of its own."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope))
        scope.setdefault("state", {})
        logs.begin_about(request_id=request_id)  # for the rest of the task: uvicorn logs bugs, too
        answer, began = Answer(), time.monotonic()

        async def noting(message: Message) -> None:
            _note(answer, message, request_id)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._log(scope, answer, time.monotonic() - began)

    def _log(self, scope: Scope, answer: Answer, seconds: float) -> None:
        path = scope["state"].get("path", scope["path"])
        level = logging.DEBUG if is_quiet(path) else logging.INFO
        if not logger.isEnabledFor(level):
            return
        caller = scope["state"].get("caller") or self._proxies.caller(scope)
        fields = {
            "method": logs.shorten(scope["method"], MAX_METHOD_LENGTH),
            "route": scope["state"].get("route"),
            "path": logs.shorten(path, MAX_PATH_LENGTH),
            "status": answer.status,
            "seconds": round(seconds, 4),
            "bytes": answer.bytes,
            "client": str(caller.address) if caller.address else "unix",
            "key": scope["state"].get("key"),
        }
        log_answer({name: value for name, value in fields.items() if value is not None}, level)


def request_id_of(headers: Headers) -> str:
    """Return the id that a caller gives its request, or a new one."""
    given = headers.getlist(HEADER)
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return new_request_id()


def new_request_id() -> str:
    """Return an id that no other request has."""
    return uuid.uuid4().hex


def log_answer(fields: dict[str, Any], level: int = logging.INFO) -> None:
    """Log an answer; its message is the method, the route and the status."""
    shown = (fields.get(name, "-") for name in ("method", "route", "status"))
    logger.log(level, "%s %s %s", *shown, extra={"fields": fields})


def is_quiet(path: str) -> bool:
    """Return whether requests of a path, below the root path, are many and say little."""
    return path in QUIET_ROUTES or path.startswith(QUIET_PREFIXES)


def _note(answer: Answer, message: Message, request_id: str) -> None:
    """Note what a message sends; give the id back with the head of the answer."""
    if message["type"] == "http.response.start":
        answer.status = message["status"]
        MutableHeaders(scope=message)[HEADER] = request_id
    elif message["type"] == "http.response.body":
        answer.bytes += len(message.get("body", b""))
