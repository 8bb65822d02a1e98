"""Runs the app under uvicorn, with timeouts and a limit of connections."""

import asyncio
import resource
import socket
import sys
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from service.app import create_app
from service.problems import RETRY_AFTER_SECONDS, ProblemResponse
from service.settings import Settings

REQUEST_SECONDS = 10.0
"""Timeout for a request's head, from the connection or the head's first byte on, and for the rest
of a body that the app did not read. uvicorn closes idle connections between requests sooner."""

SEND_SECONDS = 30.0
"""Timeout for a client to read one piece of an answer; files are sent in pieces of 64 KiB."""

SPARE_CONNECTIONS = 100
"""Connections beyond the limit that are answered with 503; further ones are dropped."""

SWITCH_SECONDS = 0.001
"""Time that a busy thread keeps the interpreter while others wait for it. With Python's 5 ms, the
event loop would wait 5 ms for each busy thread, several times in each request."""

OTHER_FILES = 200
"""Open files of the service that belong to no connection."""


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; then accept no more requests, and let transfers end."""
    allow_connections(settings.max_connections)
    sys.setswitchinterval(SWITCH_SECONDS)
    make_server(settings).run()


def make_server(settings: Settings) -> uvicorn.Server:
    """Return the server, not started yet."""
    config = uvicorn.Config(
        _ShutdownResponder(RejectAmbiguousLength(create_app(settings))),
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


def allow_connections(count: int) -> None:
    """Raise the limit of open files to a socket and a file per connection, if permitted."""
    wanted = 2 * (count + SPARE_CONNECTIONS) + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class GuardedProtocol(H11Protocol):
    """A connection with timeouts, which answers invalid HTTP with a problem document, too."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # uvicorn's own answer to too many connections is not a problem document.
        self._max_connections, self.limit_concurrency = config.limit_concurrency, None
        self._request_timer = _Timer(self.loop, REQUEST_SECONDS, self._give_up_waiting)
        self._send_timer = _Timer(self.loop, SEND_SECONDS, self._give_up_sending)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or answer 503 if there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that any unread byte pauses writing
        excess = len(self.connections) - (self._max_connections or len(self.connections))
        if excess > SPARE_CONNECTIONS:
            transport.abort()
        elif excess > 0:
            self.app = _too_many()
        self._watch_requests()

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""
        super().data_received(data)
        self._watch_requests()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        super().connection_lost(exc)
        self._request_timer.stop()
        self._send_timer.stop()

    def pause_writing(self) -> None:
        """Start the timer: the client has not read everything yet."""
        super().pause_writing()
        self._send_timer.start()

    def resume_writing(self) -> None:
        """Stop the timer: the client has read everything."""
        super().resume_writing()
        self._send_timer.stop()

    def send_400_response(self, msg: str) -> None:
        """Answer 400 to invalid HTTP."""
        self._refuse(400, "bad_request", "Bad Request", msg)

    def _watch_requests(self) -> None:
        """Run the timer while no request is handled; received bytes do not restart it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._request_timer.stop()
        elif not self.transport.is_closing():
            self._request_timer.start()

    def _give_up_waiting(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            detail = f"no complete request has arrived in {REQUEST_SECONDS:g} s"
            self._refuse(408, "request_timeout", "Request Timeout", detail)
        self.transport.close()

    def _give_up_sending(self) -> None:
        self.transport.abort()

    def _refuse(self, status: int, code: str, title: str, detail: str) -> None:
        """Answer instead of the app, if no answer was started, and close the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        problem = ProblemResponse(status, code, title, detail)
        headers = [*problem.raw_headers, (b"connection", b"close")]
        head = h11.Response(status_code=status, headers=headers, reason=title.encode())
        for event in (head, h11.Data(data=bytes(problem.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()


class RejectAmbiguousLength:
    """Refuses a request with two lengths: a proxy may use the other one (RFC 9112, 6.1)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        app = self._app
        names = {name for name, _ in scope.get("headers", ())}
        if {b"content-length", b"transfer-encoding"} <= names:
            detail = "a request has a Content-Length or a Transfer-Encoding, not both"
            close = {"Connection": "close"}
            app = ProblemResponse(400, "bad_request", "Bad Request", detail, headers=close)
        await app(scope, receive, send)


class _ShutdownResponder:
    """Answers 503 to requests cancelled when the shutdown timeout expires."""

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
    """Prints one line, which ends with its URL, as soon as it listens."""

    def __init__(self, config: uvicorn.Config, *, has_keys: bool) -> None:
        super().__init__(config)
        self._has_keys = has_keys

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port, *_ = self.servers[0].sockets[0].getsockname()
        if not self._has_keys:
            sys.stderr.write(_access_notice(host))
        host = f"[{host}]" if ":" in host else host
        sys.stdout.write(f"rollout-service listens on http://{host}:{port}\n")
        sys.stdout.flush()


class _Timer:
    """Calls `action` once, `seconds` after its start, unless it is stopped."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, action: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._action = action
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start, unless it is running."""
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._act)

    def stop(self) -> None:
        """Stop, if it is running."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _act(self) -> None:
        self._handle = None
        self._action()


def _shutting_down() -> ProblemResponse:
    return ProblemResponse(
        503,
        "shutting_down",
        "The service is stopping",
        "the transfer did not end before the shutdown timeout; try again",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"},
    )


def _too_many() -> ProblemResponse:
    return ProblemResponse(
        503,
        "too_many_connections",
        "Too many connections",
        "the service has reached its limit of connections; try again",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"},
    )


def _access_notice(host: str) -> str:
    if ip_address(host).is_loopback:
        return "rollout-service: no API keys are set; only this machine can connect\n"
    return (
        f"rollout-service: WARNING: it listens on {host} and NO API KEYS are set: everyone who "
        "can connect can run, see and delete all jobs; set ROLLOUT_API_KEYS_FILE\n"
    )
