"""Runs the app under uvicorn, and says where it listens and to whom."""

import asyncio
import socket
import sys
from ipaddress import ip_address

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import create_app
from service.connections import GuardedProtocol, Unambiguous, allow_connections
from service.problems import RETRY_AFTER_SECONDS, ProblemResponse
from service.settings import Settings


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; then accept no more, and let transfers end."""
    allow_connections(settings.max_connections)
    make_server(settings).run()


def make_server(settings: Settings) -> uvicorn.Server:
    """Return the server, which does nothing before it runs."""
    config = uvicorn.Config(
        _Farewell(Unambiguous(create_app(settings))),
        host=settings.host,
        port=settings.port,
        http=GuardedProtocol,
        ws="none",
        lifespan="on",
        server_header=False,
        access_log=False,
        log_level="warning",
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    return _Server(config, has_keys=settings.api_keys_file is not None)


class _Farewell:
    """Ends in order what is cancelled because the service stops and will not wait any longer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if scope["type"] == "http" and not begun:
                await _shutting_down()(scope, receive, send)


class _Server(uvicorn.Server):
    """Prints one line, whose last word is its URL, as soon as it listens."""

    def __init__(self, config: uvicorn.Config, *, has_keys: bool) -> None:
        super().__init__(config)
        self._has_keys = has_keys

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port, *_ = self.servers[0].sockets[0].getsockname()
        if not self._has_keys:
            sys.stderr.write(_say_who_may_call(host))
        host = f"[{host}]" if ":" in host else host
        sys.stdout.write(f"rollout-service listens on http://{host}:{port}\n")
        sys.stdout.flush()


def _shutting_down() -> ProblemResponse:
    return ProblemResponse(
        503,
        "shutting_down",
        "The service is stopping",
        "the transfer did not end before the service had to; try again",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"},
    )


def _say_who_may_call(host: str) -> str:
    if ip_address(host).is_loopback:
        return "rollout-service: no API keys are set; it listens to this machine alone\n"
    return (
        f"rollout-service: WARNING: it listens on {host} and NO API KEYS are set: whoever reaches "
        "it may run jobs, and see and delete everyone's; set ROLLOUT_API_KEYS_FILE\n"
    )
