"""Runs the app under uvicorn, and says where it listens."""

import socket
import sys

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.app import create_app
from service.problems import ProblemResponse
from service.settings import Settings

GRACE_SECONDS = 10
"""How long requests may go on after the service was told to stop."""


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        http=_Protocol,
        lifespan="on",
        server_header=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    _Server(config).run()


class _Server(uvicorn.Server):
    """Prints one line, whose last word is its URL, as soon as it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port, *_ = self.servers[0].sockets[0].getsockname()
        host = f"[{host}]" if ":" in host else host
        sys.stdout.write(f"rollout-service listens on http://{host}:{port}\n")
        sys.stdout.flush()


class _Protocol(H11Protocol):
    """Answers with a problem document even what is not HTTP."""

    def send_400_response(self, msg: str) -> None:
        problem = ProblemResponse(400, "bad_request", "Bad Request", msg)
        headers = [*problem.raw_headers, (b"connection", b"close")]
        head = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (head, h11.Data(data=bytes(problem.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()
