"""Receives an upload: a multipart form whose video is written to disk while it arrives.

Starlette's own form parser would write the file twice and has no size limit, so the stream is
passed to python-multipart's parser here. Memory holds about `FLUSH_BYTES` at most.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from rollout_core.contract import JobOptions
from rollout_core.errors import UnsupportedContainer
from rollout_core.jobs.store import unavailable
from rollout_core.video.signatures import HEAD_BYTES, is_video_container
from service.errors import (
    InvalidForm,
    MalformedUpload,
    NotMultipart,
    UploadEncoded,
    UploadTooLarge,
    UploadTooSlow,
)
from service.pools import entered

VIDEO_PART = "video"
REQUEST_PART = "request"
CHARSET_PART = "_charset_"
"""Name of a field that browsers fill with the form's encoding. It is ignored."""

BOM = b"\xef\xbb\xbf"
MAX_REQUEST_BYTES = 64 * 1024
FLUSH_BYTES = 1024**2

STEP_BYTES = 128 * 1024
"""Bytes that must arrive in each period of `idle_seconds`, unless the body ends before.

This one rule stops silent and slow clients: the time for an upload grows with its size. With
30 s, a connection of 35 kbit/s is fast enough.
"""


async def receive(
    request: Request,
    path: Path,
    *,
    max_bytes: int,
    idle_seconds: float,
    on_bytes: Callable[[int], Awaitable[None]],
) -> JobOptions:
    """Write the form's video to `path`, and return the request.

    Args:
        on_bytes: called before bytes are written, with the number that has arrived. It may raise.

    Raises:
        NotMultipart, MalformedUpload, InvalidForm: the body is not the expected form.
        UploadEncoded: the body is compressed.
        UploadTooLarge: the body has more than `max_bytes`.
        UploadTooSlow: fewer than `STEP_BYTES` arrived within `idle_seconds`.
        UnsupportedContainer: the file does not begin like a supported container.
        RequestValidationError: the request part is not a valid `JobOptions`.
        StoreUnavailable: `path` cannot be written.
        ClientDisconnect: the client disconnected.
    """
    form = _Form(_boundary(request))
    try:
        async with entered(lambda: path.open("wb")) as file:
            received = 0
            async for chunk in _limited(request, max_bytes, idle_seconds):
                received += len(chunk)
                form.feed(chunk)
                if len(form.pending) >= FLUSH_BYTES:
                    await on_bytes(received)
                    await _flush(form, file)
            form.finish()
            await on_bytes(received)
            await _flush(form, file)
    except OSError as error:
        raise unavailable(error, "the upload cannot be written") from error
    return _parse_request(form.request)


def announced_bytes(request: Request, max_bytes: int) -> int:
    """Return the size of the body by its Content-Length, 0 if it has none.

    Raises:
        UploadTooLarge: the announced size is over `max_bytes`.
    """
    header = request.headers.get("content-length", "0")
    announced = int(header) if header.isdecimal() else 0
    if announced > max_bytes:
        raise UploadTooLarge(f"the body has {announced} bytes; at most {max_bytes} are accepted")
    return announced


class _Form:
    """The callbacks of the parser, and the data they have collected."""

    def __init__(self, boundary: bytes) -> None:
        self.request: bytes | None = None
        self.pending = bytearray()
        self._head = bytearray()
        self._seen: set[str] = set()
        self._part = ""
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise MalformedUpload("the boundary of the form is not valid") from error

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise MalformedUpload("the form cannot be parsed") from error

    def finish(self) -> None:
        """Check that the form is complete and has a video."""
        if not self._complete:
            raise MalformedUpload("the form ends before its last boundary")
        if VIDEO_PART not in self._seen:
            raise InvalidForm(f"the form has no part named {VIDEO_PART!r}")

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._part = options.get(b"name", b"").decode("utf-8", errors="replace")
        if self._part in self._seen:
            raise InvalidForm(f"the form has more than one part {self._part!r}")
        if self._part in (VIDEO_PART, REQUEST_PART):
            self._seen.add(self._part)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == REQUEST_PART:
            self._append_to_request(data[start:end])
        elif self._part == VIDEO_PART:
            self._append_to_video(data[start:end])
        elif (
            self._part != CHARSET_PART and end > start
        ):  # an empty part, as a button's, has no data
            raise InvalidForm(f"the form has an unexpected part {self._part[:64]!r}")

    def _on_part_end(self) -> None:
        if self._part == VIDEO_PART and len(self._head) < HEAD_BYTES:
            self._check_container()

    def _on_end(self) -> None:
        self._complete = True

    def _append_to_request(self, data: bytes) -> None:
        self.request = (self.request or b"") + data
        if len(self.request) > MAX_REQUEST_BYTES:
            raise InvalidForm(f"the part {REQUEST_PART!r} has over {MAX_REQUEST_BYTES} bytes")

    def _append_to_video(self, data: bytes) -> None:
        self.pending += data
        missing = HEAD_BYTES - len(self._head)
        if missing > 0:
            self._head += data[:missing]
            if len(self._head) == HEAD_BYTES:
                self._check_container()

    def _check_container(self) -> None:
        if not self._head:
            raise InvalidForm(f"the part {VIDEO_PART!r} is empty")
        if not is_video_container(bytes(self._head)):
            raise UnsupportedContainer("the file is not MP4, MOV, Matroska, WebM, AVI or MPEG-TS")


def _boundary(request: Request) -> bytes:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UploadEncoded("send the form without Content-Encoding")
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise NotMultipart("the body must be multipart/form-data")
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise MalformedUpload("the Content-Type names no boundary")
    return boundary


async def _limited(request: Request, max_bytes: int, idle_seconds: float) -> AsyncIterator[bytes]:
    """Yield the body as it arrives; raise if it is too slow or too large."""
    received = 0
    async for chunk in paced(request.stream(), idle_seconds):
        received += len(chunk)
        if received > max_bytes:
            raise UploadTooLarge(f"the body has more than the {max_bytes} bytes that are accepted")
        yield chunk


async def paced(stream: AsyncIterator[bytes], idle_seconds: float) -> AsyncIterator[bytes]:
    """Yield the chunks of a stream; raise if it is too slow.

    Only the time spent waiting for the stream counts, not that of the consumer.
    """
    left, step = idle_seconds, 0
    clock = asyncio.get_running_loop().time
    while True:
        asked_at = clock()
        try:
            async with asyncio.timeout(left):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise UploadTooSlow(
                f"fewer than {STEP_BYTES} bytes have arrived in {idle_seconds:g} s"
            ) from error
        if chunk is None:
            return
        left, step = left - (clock() - asked_at), step + len(chunk)
        if step >= STEP_BYTES:
            left, step = idle_seconds, 0
        yield chunk


async def _flush(form: _Form, file: BinaryIO) -> None:
    """Write the pending video bytes, in a thread."""
    await run_in_threadpool(file.write, bytes(form.pending))
    form.pending.clear()


def _parse_request(text: bytes | None) -> JobOptions:
    if text is None:
        return JobOptions()
    try:
        request = JobOptions.model_validate_json(text.removeprefix(BOM))
        json.loads(text.removeprefix(BOM), object_pairs_hook=_refuse_repeated)
        return request
    except _RepeatedField as error:
        repeated = {"loc": (REQUEST_PART, str(error)), "msg": "given more than once"}
        raise RequestValidationError([repeated]) from error
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        located = [{**item, "loc": (REQUEST_PART, *item["loc"])} for item in details]
        raise RequestValidationError(located) from error


class _RepeatedField(Exception):
    """A JSON object has two fields of this name: one of them would be ignored."""


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise _RepeatedField(name)
        seen.add(name)
