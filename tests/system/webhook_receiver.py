"""A receiver of webhooks: a real HTTP server that verifies as Standard Webhooks' library does."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook


@dataclass
class Delivered:
    """A request that arrived."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def id(self) -> str:
        """The id of the event."""
        return self.headers["webhook-id"]

    def verify(self, secret: str) -> dict[str, Any]:
        """Return the event.

        Raises:
            WebhookVerificationError: the signature is not by this secret.
        """
        event: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return event


@dataclass
class Receiver:
    """Answers with the next of `statuses`, the last one for ever.

    Attributes:
        open: while it is not set, requests are not answered.
    """

    statuses: list[int] = field(default_factory=lambda: [204])
    headers: dict[str, str] = field(default_factory=dict)
    delivered: list[Delivered] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def url(self) -> str:
        """A URL of the server."""
        return f"http://127.0.0.1:{self.port}/hook"

    def answer(self) -> int:
        """Return the status for the next request."""
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """Yield a receiver on a free port."""
    receiver = Receiver()
    receiver.open.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            receiver.delivered.append(Delivered(self.path, dict(self.headers), body))
            receiver.open.wait(60)
            self.send_response(receiver.answer())
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: Any) -> None:
            pass  # the sender has been killed

    server = Server(("127.0.0.1", 0), Handler)
    receiver.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.open.set()
        server.shutdown()
        thread.join()
        server.server_close()
