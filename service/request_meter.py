"""Middleware that finds the template of each request's route, counts requests, and times them."""

import time
from collections.abc import Iterable
from typing import cast

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth import path_of
from service.metrics import Metrics
from service.route_templates import RouteTemplates

METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "other"
"""Clients may send any word as a method."""

FAILED_STATUS = 500
"""Status of a request whose route raised an error: it is answered above all middleware."""


class MeasureRequests:
    """Middleware: counts each request when its answer has ended.

    The state of the request gets the path below the root path and the template of the route, which
    is the same if the key was refused. The access log shows them.
    """

    def __init__(self, app: ASGIApp, *, routes: Iterable[BaseRoute]) -> None:
        """Measure what `app` does; `routes` are those that requests are told apart by."""
        self._app = app
        self._templates = RouteTemplates(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope["state"]
        state["path"], state["route"] = path_of(scope), self._templates.of(scope)
        began, status = time.monotonic(), FAILED_STATUS

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            cast(Metrics, state["services"].metrics).count_request(
                scope["method"] if scope["method"] in METHODS else OTHER_METHOD,
                state["route"],
                f"{status // 100}xx",
                time.monotonic() - began,
            )
