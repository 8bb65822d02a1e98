"""Plain HTTP calls to a service, with the standard library alone.

The suite uses these, so that it checks the service and not a client of it.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 90.0


@dataclass(frozen=True)
class Answer:
    """A complete answer. `headers` finds names in any case."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class Api:
    """Calls to one service, each on a connection of its own."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """Call the service at `url`, which may have a path; links in its answers have it too."""
        self.url = url
        self._parts = urlsplit(url)
        self._key = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def get(self, path: str, **headers: str) -> Answer:
        """Send a GET request. The underscores in names of headers become hyphens."""
        return self.call("GET", path, headers=_names(headers))

    def post(self, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send a POST request."""
        return self.call("POST", path, body, _names(headers))

    def post_json(self, path: str, content: Any, **headers: str) -> Answer:
        """Send a POST request with a body of JSON."""
        named = {"Content-Type": "application/json"} | _names(headers)
        return self.call("POST", path, json.dumps(content).encode(), named)

    def post_form(self, path: str, parts: Mapping[str, bytes], **headers: str) -> Answer:
        """Send a POST request with a multipart form. The part `video` is a file."""
        boundary = secrets.token_hex(16)
        named = {"Content-Type": f"multipart/form-data; boundary={boundary}"} | _names(headers)
        return self.call("POST", path, _form(parts, boundary), named)

    def delete(self, path: str) -> Answer:
        """Send a DELETE request."""
        return self.call("DELETE", path)

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and read the whole answer."""
        with self.opened(method, path, body, headers) as response:
            return Answer(response.status, response.headers, response.read())

    @contextmanager
    def opened(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[HTTPResponse]:
        """Send a request; yield the answer, whose body may still arrive."""
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        connection = kind(self._parts.netloc, timeout=TIMEOUT_SECONDS)
        try:
            below = self._parts.path
            target = path if below and path.startswith(f"{below}/") else below + path
            connection.request(method, target, body, self._key | dict(headers or {}))
            yield connection.getresponse()
        finally:
            connection.close()


def _names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _form(parts: Mapping[str, bytes], boundary: str) -> bytes:
    lines: list[bytes] = []
    for name, content in parts.items():
        file = '; filename="video.mp4"' if name == "video" else ""
        lines += [f"--{boundary}".encode()]
        lines += [f'Content-Disposition: form-data; name="{name}"{file}'.encode(), b"", content]
    return b"\r\n".join([*lines, f"--{boundary}--".encode(), b""])
