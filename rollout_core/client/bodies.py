"""What is uploaded: a video, and the bodies that carry it. A body can be sent again."""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 18

OnBytes = Callable[[int, int], None]
"""Called with the bytes sent and the bytes in all."""

_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})
"""How browsers write these characters in the file name of a form."""


@dataclass(frozen=True)
class Video:
    """A file to upload, from `start` to its end.

    Attributes:
        path: None for an open file.
    """

    file: BinaryIO
    start: int
    size: int
    name: str
    path: Path | None = None

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield `length` bytes from `offset`, as far as the file has them."""
        self.file.seek(self.start + offset)
        while length > 0 and (chunk := self.file.read(min(CHUNK_BYTES, length))):
            length -= len(chunk)
            yield chunk

    def sha256(self) -> str:
        """Return the digest of all bytes."""
        digest = sha256()
        for chunk in self.read(0, self.size):
            digest.update(chunk)
        return digest.hexdigest()


@dataclass(frozen=True)
class Body:
    """The content of a request: `head`, then a part of a video, then `tail`."""

    content_type: str
    head: bytes = b""
    video: Video | None = None
    offset: int = 0
    length: int = 0
    tail: bytes = b""
    on_bytes: OnBytes | None = None

    @property
    def size(self) -> int:
        """Size of the content."""
        return len(self.head) + self.length + len(self.tail)

    def chunks(self) -> Iterator[bytes]:
        """Yield the content, from its beginning at each call."""
        if self.head:
            yield self.head
        if self.video is not None:
            sent = self.offset
            for chunk in self.video.read(self.offset, self.length):
                yield chunk
                sent += len(chunk)
                if self.on_bytes is not None:
                    self.on_bytes(sent, self.video.size)
        if self.tail:
            yield self.tail


@contextmanager
def open_video(
    source: str | os.PathLike[str] | BinaryIO, name: str | None = None
) -> Iterator[Video]:
    """Open a video to upload.

    Args:
        source: a path, or an open file, which is read from its position on.
        name: what the service is told; default: the name of the file.

    Raises:
        OSError: the file cannot be read.
        TypeError: the source is of another kind.
    """
    if not isinstance(source, (str, os.PathLike)) and not hasattr(source, "seekable"):
        raise TypeError(
            "a video is given as a path, an open binary file, an http(s) URL or an Upload, "
            f"not as {type(source).__name__}; wrap bytes in io.BytesIO"
        )
    if isinstance(source, io.TextIOBase):
        raise TypeError("the video must be opened in binary mode: open(path, 'rb')")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        with path.open("rb") as file:
            yield Video(file, 0, os.fstat(file.fileno()).st_size, name or path.name, path)
        return
    name = name or Path(str(getattr(source, "name", "video"))).name
    if source.seekable():
        start = source.tell()
        yield Video(source, start, source.seek(0, os.SEEK_END) - start, name)
        return
    with tempfile.TemporaryFile() as copy:  # a pipe cannot be sent again
        shutil.copyfileobj(source, copy)
        yield Video(copy, 0, copy.tell(), name)


def json_body(content: Any) -> Body:
    """Return the body of a JSON request."""
    return Body("application/json", json.dumps(content).encode())


def raw_body(video: Video, on_bytes: OnBytes | None = None) -> Body:
    """Return a body that is the video alone."""
    return Body("application/octet-stream", video=video, length=video.size, on_bytes=on_bytes)


def form_body(
    video: Video, request: dict[str, Any], *, boundary: str, on_bytes: OnBytes | None = None
) -> Body:
    """Return the form with a request and a video.

    The request goes first, so that an invalid one can be refused before the video is sent.
    """
    line = f"--{boundary}\r\nContent-Disposition: form-data; name="
    head = (
        f'{line}"request"\r\nContent-Type: application/json\r\n\r\n{json.dumps(request)}\r\n'
        f'{line}"video"; filename="{video.name.translate(_ESCAPES)}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return Body(
        f"multipart/form-data; boundary={boundary}",
        head.encode("utf-8", "replace"),
        video,
        length=video.size,
        tail=f"\r\n--{boundary}--\r\n".encode(),
        on_bytes=on_bytes,
    )
