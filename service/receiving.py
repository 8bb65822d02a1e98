"""Writes a video while it arrives: paced, limited, checked, reserved and hashed.

`write_stream` is the one loop for every way in which a video can arrive: as the body, in a form, in
parts, or from a URL. Memory holds about `FLUSH_BYTES` at most.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from rollout_core.errors import UnsupportedContainer
from rollout_core.jobs.store import unavailable
from rollout_core.video.signatures import HEAD_BYTES, is_video_container
from service.errors import EmptyUpload, UploadLocked, UploadTooLarge, UploadTooSlow
from service.pools import entered
from service.upload_store import Received

FLUSH_BYTES = 1024**2

FLUSH_SECONDS = 1.0
"""Bytes of a slow client are written after this time, so that a killed process loses few."""

STEP_BYTES = 128 * 1024
"""Bytes that must arrive in each period of `idle_seconds`, unless the body ends before.

This one rule stops silent and slow clients: the time for an upload grows with its size. With
30 s, a connection of 35 kbit/s is fast enough.
"""

OnBytes = Callable[[int], Awaitable[None]]
"""Called before bytes are written, with the number that has arrived. It may raise."""


class Sink(Protocol):
    """Takes the chunks of a stream, and writes what is pending when it is told to."""

    @property
    def pending_bytes(self) -> int:
        """Bytes that are not written yet."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""

    async def flush(self) -> None:
        """Write what is pending."""


class HashedFile:
    """Writes to a file; knows the size and the digest of what it has written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._bytes = 0
        self._digest = sha256()

    @property
    def received(self) -> Received:
        """What was written."""
        return Received(self._bytes, self._digest.hexdigest())

    def write(self, data: bytes) -> None:
        """Write all of `data`."""
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)


class VideoWriter:
    """A `Sink` for the bytes of a video: checks how they begin, and collects them."""

    def __init__(self, write: Callable[[bytes], None], *, head: bytes = b"") -> None:
        """Write by `write`, which is called in a thread.

        Args:
            head: how the file begins, if it is continued: its first `HEAD_BYTES`, or all of it.
        """
        self._write = write
        self._head = bytearray(head[:HEAD_BYTES])
        self._pending = bytearray()

    @property
    def pending_bytes(self) -> int:
        """See `Sink`."""
        return len(self._pending)

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            UnsupportedContainer: the file does not begin like a supported container.
        """
        self._pending += data
        missing = HEAD_BYTES - len(self._head)
        if missing > 0 and data:
            self._head += data[:missing]
            if len(self._head) == HEAD_BYTES:
                require_container(bytes(self._head))

    def finish(self) -> None:
        """Check a file that ends here.

        Raises:
            EmptyUpload: it has no bytes.
            UnsupportedContainer: as `feed`, for a file of less than `HEAD_BYTES`.
        """
        if not self._head:
            raise EmptyUpload("the video is empty")
        if len(self._head) < HEAD_BYTES:
            require_container(bytes(self._head))

    async def flush(self) -> None:
        """See `Sink`."""
        await run_in_threadpool(self._write, bytes(self._pending))
        self._pending.clear()


def require_container(head: bytes) -> None:
    """Check how a file begins.

    Args:
        head: its first `HEAD_BYTES`, or all of it.

    Raises:
        UnsupportedContainer: it does not begin like a supported container.
    """
    if not is_video_container(head):
        raise UnsupportedContainer("the file is not MP4, MOV, Matroska, WebM, AVI or MPEG-TS")


async def write_video(
    stream: AsyncIterator[bytes],
    path: Path,
    *,
    max_bytes: int,
    idle_seconds: float,
    on_bytes: OnBytes,
) -> Received:
    """Write a stream of bytes to a new file; return its size and its digest.

    Raises:
        UploadTooLarge, UploadTooSlow, ClientDisconnect: see `write_stream`.
        EmptyUpload, UnsupportedContainer: see `VideoWriter`.
        StoreUnavailable: `path` cannot be written.
    """
    try:
        async with entered(lambda: path.open("wb")) as opened:
            file = HashedFile(opened)
            video = VideoWriter(file.write)
            await write_stream(
                stream, video, max_bytes=max_bytes, idle_seconds=idle_seconds, on_bytes=on_bytes
            )
            video.finish()
            return file.received
    except OSError as error:
        raise unavailable(error, "the upload cannot be written") from error


async def write_stream(
    stream: AsyncIterator[bytes],
    sink: Sink,
    *,
    max_bytes: int,
    idle_seconds: float,
    on_bytes: OnBytes | None = None,
) -> None:
    """Feed a stream to a sink as it arrives. If it breaks off, what has arrived is written.

    Args:
        max_bytes: the most that the stream may have.

    Raises:
        UploadTooLarge, UploadTooSlow: see `limited`.
        ClientDisconnect: the client disconnected.
        UploadLocked: another call has taken the upload over.
    """
    clock = asyncio.get_running_loop().time
    received, flushed_at = 0, clock()

    async def flush() -> None:
        if on_bytes is not None:
            await on_bytes(received)
        await sink.flush()

    try:
        async for chunk in limited(stream, max_bytes, idle_seconds):
            received += len(chunk)
            sink.feed(chunk)
            if sink.pending_bytes >= FLUSH_BYTES or clock() - flushed_at > FLUSH_SECONDS:
                await flush()
                flushed_at = clock()
    except (ClientDisconnect, UploadTooSlow, UploadLocked):
        await flush()
        raise
    await flush()


async def limited(
    stream: AsyncIterator[bytes], max_bytes: int, idle_seconds: float
) -> AsyncIterator[bytes]:
    """Yield the chunks of a stream as they arrive.

    Raises:
        UploadTooLarge: it has more than `max_bytes`.
        UploadTooSlow: fewer than `STEP_BYTES` arrived within `idle_seconds`.
    """
    received = 0
    async for chunk in paced(stream, idle_seconds):
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
