"""Receives an upload: a multipart form whose video is written to disk while it arrives.

Starlette's own form parser would write the file twice and has no size limit, so the stream is
passed to python-multipart's parser here.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from rollout_core.contract import Frozen, JobOptions, JobRequest
from rollout_core.error_texts import explain_errors
from rollout_core.errors import InvalidRequest
from rollout_core.jobs.store import unavailable
from service.errors import (
    EmptyUpload,
    InvalidForm,
    MalformedUpload,
    NotMultipart,
    UploadEncoded,
    UploadTooLarge,
)
from service.filenames import filename_of, parse_disposition
from service.pools import entered
from service.receiving import HashedFile, OnBytes, VideoWriter, limited, write_stream
from service.upload_store import Received

VIDEO_PART = "video"
REQUEST_PART = "request"
PARTS = frozenset({VIDEO_PART, REQUEST_PART})
EXPECTED = f"its parts are {VIDEO_PART!r} (the file) and {REQUEST_PART!r} (JSON)"
CHARSET_PART = "_charset_"
"""Name of a field that browsers fill with the form's encoding. It is ignored."""

BOM = b"\xef\xbb\xbf"
MAX_REQUEST_BYTES = 64 * 1024
Model = TypeVar("Model", bound=Frozen)


@dataclass(frozen=True)
class Form:
    """A form that has arrived.

    Attributes:
        options: the part `request`, or the defaults.
        filename: of the video, if the client named it.
        video: what was written.
    """

    options: JobOptions
    filename: str | None
    video: Received


async def receive(
    request: Request,
    path: Path,
    *,
    max_bytes: int,
    idle_seconds: float,
    on_bytes: OnBytes,
    parts: frozenset[str] = PARTS,
) -> Form:
    """Write the form's video to `path`, and return the form.

    Args:
        parts: names of the parts that the form may have.

    Raises:
        NotMultipart, MalformedUpload, InvalidForm: the body is not the expected form.
        UploadEncoded: the body is compressed.
        UploadTooLarge, UploadTooSlow, ClientDisconnect: see `receiving.write_stream`.
        UnsupportedContainer: the file does not begin like a supported container.
        RequestValidationError: the request part is not a valid `JobOptions`.
        StoreUnavailable: `path` cannot be written.
    """
    boundary = _boundary(request)
    try:
        async with entered(lambda: path.open("wb")) as opened:
            file = HashedFile(opened)
            form = _Form(boundary, file, parts)
            await write_stream(
                request.stream(),
                form,
                max_bytes=max_bytes,
                idle_seconds=idle_seconds,
                on_bytes=on_bytes,
            )
            form.finish()
    except OSError as error:
        raise unavailable(error, "the upload cannot be written") from error
    options = _parse(JobOptions, form.request, REQUEST_PART)
    return Form(options, form.filename, file.received)


async def receive_json(request: Request, *, idle_seconds: float) -> JobRequest:
    """Return the job that a JSON body asks for.

    Raises:
        UploadEncoded: the body is compressed.
        UploadTooLarge: it has more than `MAX_REQUEST_BYTES`.
        UploadTooSlow: see `receiving.limited`.
        RequestValidationError: it is not a valid `JobRequest`.
    """
    require_not_encoded(request)
    text = bytearray()
    async for chunk in limited(request.stream(), MAX_REQUEST_BYTES, idle_seconds):
        text += chunk
    return _parse(JobRequest, bytes(text))


def media_type(request: Request) -> str:
    """Return the media type of the body, in lower case, without parameters."""
    kind, _ = parse_options_header(request.headers.get("content-type"))
    return kind.decode("latin-1").lower()


def require_not_encoded(request: Request) -> None:
    """Check that the body is not compressed.

    Raises:
        UploadEncoded: it is.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UploadEncoded("send the body without Content-Encoding")


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

    def __init__(self, boundary: bytes, file: HashedFile, parts: frozenset[str]) -> None:
        self.request: bytes | None = None
        self.filename: str | None = None
        self._video = VideoWriter(file.write)
        self._parts = parts
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

    @property
    def pending_bytes(self) -> int:
        """Bytes of the video that are not written yet."""
        return self._video.pending_bytes

    async def flush(self) -> None:
        """Write the bytes of the video that are pending."""
        await self._video.flush()

    def feed(self, data: bytes) -> None:
        """Parse the next bytes of the body."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise MalformedUpload("the form cannot be parsed") from error

    def finish(self) -> None:
        """Check that the form is complete and has a video."""
        if not self._complete:
            raise MalformedUpload("the form ends before its last boundary")
        if VIDEO_PART not in self._seen:
            raise InvalidForm(f"the form has no part named {VIDEO_PART!r}; {EXPECTED}")

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
        options = parse_disposition(self._disposition)
        self._part = options.get(b"name", b"").decode("utf-8", errors="replace")
        if self._part in self._seen:
            raise InvalidForm(f"the form has more than one part {self._part!r}")
        if self._part in self._parts:
            self._seen.add(self._part)
        if self._part == VIDEO_PART:
            self.filename = filename_of(options)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == REQUEST_PART and REQUEST_PART in self._parts:
            self._append_to_request(data[start:end])
        elif self._part == VIDEO_PART:
            self._video.feed(data[start:end])
        elif (
            self._part != CHARSET_PART and end > start
        ):  # an empty part, as a button's, has no data
            raise InvalidForm(
                f"the form has an unexpected part {self._part[:48]!r}; {_expect(self._part)}"
            )

    def _on_part_end(self) -> None:
        if self._part == VIDEO_PART:
            try:
                self._video.finish()
            except EmptyUpload as error:
                raise InvalidForm(
                    f"the part {VIDEO_PART!r} is empty; it must have the file"
                ) from error

    def _on_end(self) -> None:
        self._complete = True

    def _append_to_request(self, data: bytes) -> None:
        self.request = (self.request or b"") + data
        if len(self.request) > MAX_REQUEST_BYTES:
            raise InvalidForm(f"the part {REQUEST_PART!r} has over {MAX_REQUEST_BYTES} bytes")


def _expect(part: str) -> str:
    """Return which parts a form has, for a part that it does not have."""
    if part in JobOptions.model_fields:
        return f"put this field into the JSON of the part {REQUEST_PART!r}"
    return EXPECTED


def _boundary(request: Request) -> bytes:
    require_not_encoded(request)
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise NotMultipart(
            f"the body must be multipart/form-data, with the file in the part {VIDEO_PART!r}, or "
            "JSON that names an upload or a video_url, with Content-Type: application/json"
        )
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise MalformedUpload("the Content-Type names no boundary")
    return boundary


def _parse(model: type[Model], text: bytes | None, *place: str) -> Model:
    """Read a request from JSON; None is a request with the defaults.

    Args:
        place: of the JSON in the body, for error messages.

    Raises:
        RequestValidationError: it is not valid.
    """
    if text is None:
        return model()
    try:
        request = model.model_validate_json(text.removeprefix(BOM))
        json.loads(text.removeprefix(BOM), object_pairs_hook=_refuse_repeated)
        return request
    except _RepeatedField as error:
        repeated = {"loc": (*place, str(error)), "msg": "given more than once"}
        raise RequestValidationError([repeated]) from error
    except ValidationError as error:
        faults = explain_errors(error, model)
        located = [
            {"loc": (*place, *item.path) or ("body",), "msg": item.message} for item in faults
        ]
        raise RequestValidationError(located) from error


@contextmanager
def naming_part(is_json: bool) -> Iterator[None]:
    """Add the part of the form to the field that an InvalidRequest names. JSON has no parts."""
    try:
        yield
    except InvalidRequest as error:
        if error.field and not is_json:
            error.field = f"{REQUEST_PART}.{error.field}"
        raise


class _RepeatedField(Exception):
    """A JSON object has two fields of this name: one of them would be ignored."""


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise _RepeatedField(name)
        seen.add(name)
