"""Our own files for browsers, answered from memory: those of the page and of the documentation.

They are read and compressed once in a process, so an answer touches no disk, and no path of a
request is ever a path of the disk.
"""

import gzip
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from service.file_answers import not_modified

MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
"""Media types by suffix; another file is bytes. A table of the system may differ."""

CACHE_CONTROL = "no-cache"
"""A browser may keep the files, but asks whether they have changed: an update takes effect."""

_NOT_ACCEPTED = re.compile(r"q=0(\.0*)?")


@dataclass(frozen=True)
class StaticFile:
    """A file in memory; `gzipped` is None if that would save nothing."""

    content: bytes
    gzipped: bytes | None
    digest: str
    media_type: str

    def answer(self, request: Request) -> Response:
        """Return the file, compressed if the client accepts that, or 304."""
        body, etag, headers = self.content, f'"{self.digest}"', {"Cache-Control": CACHE_CONTROL}
        if self.gzipped is not None:
            headers["Vary"] = "Accept-Encoding"
            if accepts_gzip(",".join(request.headers.getlist("accept-encoding"))):
                body, etag = self.gzipped, f'"{self.digest}-gzip"'
                headers["Content-Encoding"] = "gzip"
        headers["ETag"] = etag
        if not_modified(request.headers.get("if-none-match"), etag):
            headers.pop("Content-Encoding", None)
            return Response(status_code=304, headers=headers)
        headers["Content-Length"] = str(len(body))
        sent = b"" if request.method == "HEAD" else body
        return Response(sent, headers=headers, media_type=self.media_type)


@cache
def read(path: Path) -> StaticFile:
    """Return a file; read it only once in a process, since an update of the code restarts it."""
    content = path.read_bytes()
    gzipped = gzip.compress(content, mtime=0)
    return StaticFile(
        content,
        gzipped if len(gzipped) < len(content) else None,
        sha256(content).hexdigest(),
        MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
    )


def install(app: FastAPI, files: Mapping[str, Path]) -> None:
    """Answer each of these paths with its file."""
    for path, file in files.items():
        app.add_route(path, _answer_with(read(file)), include_in_schema=False)


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a client accepts gzip (RFC 9110, 12.5.3)."""
    accepted = {}
    for item in accept_encoding.lower().replace(" ", "").split(","):
        coding, _, weight = item.partition(";")
        accepted[coding] = not _NOT_ACCEPTED.fullmatch(weight)
    return accepted.get("gzip", accepted.get("*", False))


def _answer_with(file: StaticFile) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return file.answer(request)

    return answer
