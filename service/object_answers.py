"""Answers with an object of a bucket: through the API, or by a link to the bucket.

The objects of a result never change, but may be deleted at any time.
"""

from collections.abc import AsyncIterator, Mapping
from email.utils import format_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import ArtifactNotFound
from service.file_answers import FileAnswer

if TYPE_CHECKING:  # obstore is needed with a bucket only
    from rollout_core.jobs.object_store import ObjectStore, StoredObject

LINK_SECONDS = 600.0
"""A link can be used for so long. A download that has begun may take longer."""


class ObjectAnswer(Response):
    """The answer with an object: all of it, or one range. Give it an `ETag` of the content.

    If several ranges are asked for, all of it is sent, as RFC 9110 (14.2) allows.
    """

    def __init__(self, file: "StoredObject", headers: Mapping[str, str]) -> None:
        """Answer with an object and these headers."""
        self._file = file
        own = {
            "Accept-Ranges": "bytes",
            "Content-Length": str(file.size),
            "Last-Modified": format_datetime(file.modified, usegmt=True),
        }
        super().__init__(headers={**own, **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer.

        Raises:
            RangeNotSatisfiable: the range begins behind the end.
            ArtifactNotFound: the object has just been deleted.
            OSError: the bucket cannot be used.
        """
        status, headers = 200, dict(self.headers)
        begin, end = 0, self._file.size
        if part := self._part(Headers(scope=scope)):
            status, (begin, end) = 206, part
            headers["content-range"] = f"bytes {begin}-{end - 1}/{self._file.size}"
            headers["content-length"] = str(end - begin)
        if scope["method"] == "HEAD":
            answer = Response(status_code=status, headers=headers)
        else:
            chunks = await _begun(self._file.bucket.stream_range(self._file.key, begin, end))
            answer = StreamingResponse(chunks, status, headers)
        await answer(scope, receive, send)

    def _part(self, headers: Headers) -> tuple[int, int] | None:
        """Return the range that a request asks for, None if it gets all."""
        wanted, condition = headers.get("range"), headers.get("if-range")
        current = (None, self.headers["etag"], self.headers["last-modified"])
        if wanted is None or condition not in current:
            return None
        ranges = FileAnswer.ranges(wanted, self._file.size)
        return ranges[0] if len(ranges) == 1 else None


def link_to(file: "StoredObject") -> Response:
    """Return the answer that sends a client to the bucket for an object."""
    link = file.bucket.link(file.key, LINK_SECONDS)
    return RedirectResponse(link, 302, {"Cache-Control": "no-store"})


def origin_of_links(store: "ObjectStore") -> str:
    """Return the origin that the links of a store lead to, such as `https://s3.example.org`."""
    parts = urlsplit(store.bucket.link("jobs", LINK_SECONDS))
    return f"{parts.scheme}://{parts.netloc}"


async def _begun(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return chunks of which the first has arrived, so that a failure still has an answer.

    Raises:
        ArtifactNotFound: there is no such object.
        OSError: the bucket cannot be used.
    """
    try:
        first = await anext(chunks, b"")
    except FileNotFoundError as error:
        raise ArtifactNotFound("the file has just been deleted") from error
    return _joined(first, chunks)


async def _joined(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in others:
        yield chunk
