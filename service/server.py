"""Runs the app under uvicorn, with timeouts and a limit of connections."""

import asyncio
import logging
import resource
import socket
import sys
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import ip_address
from typing import Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from rollout_core import logs
from service.access_log import HEADER, AccessLog, log_answer, new_request_id
from service.app import create_app
from service.connections import LINGER_SECONDS, LingeringTransport, Timer, make_room
from service.problems import RETRY_AFTER_SECONDS, ProblemResponse, too_many_connections
from service.proxies import TrustedProxies, group_of, parse_address
from service.settings import Settings

REQUEST_SECONDS = 10.0
"""Timeout for a request's head, from the connection or the head's first byte on. uvicorn closes
idle connections between requests sooner."""

SEND_SECONDS = 30.0
"""Timeout for a client to read one piece of an answer; files are sent in pieces of 64 KiB."""

SPARE_CONNECTIONS = 100
"""Connections beyond the limit that are answered with 503; further ones are dropped."""

SWITCH_SECONDS = 0.001
"""Time that a busy thread keeps the interpreter while others wait for it. With Python's 5 ms, the
event loop would wait 5 ms for each busy thread, several times in each request."""

OTHER_FILES = 200
"""Open files of the service that belong to no connection."""

ACCESS_NOTICE = "no API keys are set; only this machine can connect"

logger = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; then accept no more requests, and let transfers end."""
    allow_connections(settings.max_connections)
    sys.setswitchinterval(SWITCH_SECONDS)
    make_server(settings).run()


def make_server(settings: Settings) -> uvicorn.Server:
    """Return the server, not started yet."""
    app, proxies = create_app(settings), TrustedProxies(settings.trusted_proxies)
    config = uvicorn.Config(
        AccessLog(_ShutdownResponder(RejectAmbiguousLength(app)), proxies),
        host=settings.host,
        port=settings.port,
        uds=str(settings.unix_socket) if settings.unix_socket else None,
        http=partial(  # type: ignore[arg-type]
            GuardedProtocol,
            proxies=proxies,
            address_limit=settings.address_limit,
        ),
        proxy_headers=False,  # uvicorn believes those of 127.0.0.1; CheckHosts reads them
        ws="none",
        lifespan="on",
        server_header=False,
        reset_contextvars=True,  # else what one request is about is told of the next, too
        access_log=False,  # `AccessLog` writes it
        log_config=None,
        log_level="warning",
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    has_keys = settings.api_keys_file is not None
    return _Server(config, has_keys=has_keys, shutdown_begun=app.state.shutdown.begin)


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
        *,
        proxies: TrustedProxies,
        address_limit: int,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.group: str | None = None
        self._proxies = proxies
        self._address_limit = address_limit
        # uvicorn's own answer to too many connections is not a problem document.
        self._max_connections, self.limit_concurrency = config.limit_concurrency, None
        self._request_timer = Timer(self.loop, REQUEST_SECONDS, self._give_up_waiting)
        self._drop_timer = Timer(self.loop, LINGER_SECONDS, self.evict)
        self._send_timer = Timer(self.loop, SEND_SECONDS, self._give_up_sending)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or answer 503 if there are too many."""
        self._lingering = LingeringTransport(transport, self.loop, self._is_sending)
        super().connection_made(cast(asyncio.Transport, self._lingering))
        transport.set_write_buffer_limits(high=0)  # so that any unread byte pauses writing
        address = parse_address(self.client[0]) if self.client else None
        if address is not None and address not in self._proxies:
            self.group = group_of(address)
        self._limit_connections()
        self._watch_requests()

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""
        if self._lingering.lingers:
            self._lingering.drop(len(data))
            return
        super().data_received(data)
        self._watch_requests()

    def on_response_complete(self) -> None:
        """Wait for the rest of the body, or for the next request."""
        super().on_response_complete()
        self._watch_requests()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        super().connection_lost(exc)
        self._lingering.stop()
        for timer in (self._request_timer, self._drop_timer, self._send_timer):
            timer.stop()

    def shutdown(self) -> None:
        """Close the connection as soon as it handles no request."""
        super().shutdown()
        if self._lingering.lingers:
            self._lingering.finish()

    def idle_seconds(self) -> float:
        """Return for how long it has handled no request; 0 while it handles one."""
        timers = self._request_timer, self._drop_timer
        since = self._lingering.lingers_since or max(item.started_at or 0 for item in timers)
        return self.loop.time() - since if since else 0.0

    def is_gone(self) -> bool:
        """Return whether its socket is about to be closed."""
        return self._lingering.lingers_since is None and self.transport.is_closing()

    def evict(self) -> None:
        """Close the connection, whatever the client still sends."""
        self._lingering.finish()

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

    def _limit_connections(self) -> None:
        """Let an idle connection make room for this one; if there is none, refuse this one."""
        everyone = [item for item in self._protocols() if not item.is_gone()]
        neighbours = [item for item in everyone if item.group == self.group is not None]
        total = self._max_connections or len(everyone)
        excess = make_room(neighbours, self._address_limit)
        excess = max(excess, make_room([item for item in everyone if not item.is_gone()], total))
        if excess > SPARE_CONNECTIONS:
            self.transport.abort()
        elif excess > 0:
            self.app = AccessLog(_refuse_connection, self._proxies)

    def _protocols(self) -> Iterable["GuardedProtocol"]:
        return cast(Iterable[GuardedProtocol], self.connections)

    def _is_sending(self) -> bool:
        """Return whether the client may still send: a body, or what is no valid request."""
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or bool(
            self.conn.trailing_data[0]
        )

    def _watch_requests(self) -> None:
        """Run a timer while no request is handled; received bytes do not restart it."""
        is_handling = self.cycle is not None and not self.cycle.response_complete
        is_dropping = not is_handling and self.conn.their_state is h11.SEND_BODY
        if is_handling or is_dropping or self.transport.is_closing():
            self._request_timer.stop()
        else:
            self._request_timer.start()
        if is_dropping:
            self._drop_timer.start()
        else:
            self._drop_timer.stop()

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
        problem, request_id = ProblemResponse(status, code, title, detail), new_request_id()
        own = [(b"connection", b"close"), (HEADER.lower().encode(), request_id.encode())]
        headers = [*problem.raw_headers, *own]
        with logs.only_about(request_id=request_id):
            log_answer({"status": status, "client": self.client[0] if self.client else "unix"})
        head = h11.Response(status_code=status, headers=headers, reason=title.encode())
        for event in (head, h11.Data(data=bytes(problem.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()


async def _refuse_connection(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request on a connection beyond the limit; its id is known only now."""
    await too_many_connections("the service, or your address,")(scope, receive, send)


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

    def __init__(
        self, config: uvicorn.Config, *, has_keys: bool, shutdown_begun: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._shutdown_begun = shutdown_begun
        self._has_keys = has_keys

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._shutdown_begun()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        listener = self.servers[0].sockets[0]
        if listener.family == socket.AF_UNIX:
            url, notice = f"unix:{listener.getsockname()}", ACCESS_NOTICE
        else:
            host, port, *_ = listener.getsockname()
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            notice = _access_notice(host)
        if not self._has_keys:
            logger.warning(notice)
        sys.stdout.write(f"rollout-service listens on {url}\n")
        sys.stdout.flush()


def _shutting_down() -> ProblemResponse:
    return ProblemResponse(
        503,
        "shutting_down",
        "The service is stopping",
        "the transfer did not end before the shutdown timeout; try again",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"},
    )


def _access_notice(host: str) -> str:
    if ip_address(host).is_loopback:
        return ACCESS_NOTICE
    return (
        f"it listens on {host} and NO API KEYS are set: everyone who can connect can run, see and "
        "delete all jobs; set ROLLOUT_API_KEYS_FILE"
    )
