"""Writes a video to a file while it arrives: paced, limited, checked, reserved and hashed.

This is shared by every way in which a video can arrive. Memory holds about `FLUSH_BYTES` at most.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from rollout_core.errors import UnsupportedContainer
from rollout_core.jobs.store import unavailable
from rollout_core.video.signatures import HEAD_BYTES, is_video_container
from service.errors import EmptyUpload, UploadTooLarge, UploadTooSlow
from service.pools import entered
from service.upload_store import Received

FLUSH_BYTES = 1024**2

STEP_BYTES = 128 * 1024
"""Bytes that must arrive in each period of `idle_seconds`, unless the body ends before.

This one rule stops silent and slow clients: the time for an upload grows with its size. With
30 s, a connection of 35 kbit/s is fast enough.
"""

OnBytes = Callable[[int], Awaitable[None]]
"""Called before bytes are written, with the number that has arrived. It may raise."""


class VideoWriter:
    """Collects the bytes of a video, checks how they begin, and writes them to a file."""

    def __init__(self, file: BinaryIO, *, head: bytes = b"") -> None:
        """Write to `file`.

        Args:
            head: how the file begins, if it is continued: its first `HEAD_BYTES`, or all of it.
        """
        self.pending = bytearray()
        self.bytes = 0
        self._file = file
        self._head = bytearray(head[:HEAD_BYTES])
        self._digest = sha256()

    @property
    def received(self) -> Received:
        """What this object has written."""
        return Received(self.bytes, self._digest.hexdigest())

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            UnsupportedContainer: the file does not begin like a supported container.
        """
        self.pending += data
        missing = HEAD_BYTES - len(self._head)
        if missing > 0 and data:
            self._head += data[:missing]
            if len(self._head) == HEAD_BYTES:
                self._check_container()

    def finish(self) -> None:
        """Check a file that ends here.

        Raises:
            EmptyUpload: it has no bytes.
            UnsupportedContainer: as `feed`, for a file of less than `HEAD_BYTES`.
        """
        if not self._head:
            raise EmptyUpload("the video is empty")
        if len(self._head) < HEAD_BYTES:
            self._check_container()

    async def flush(self) -> None:
        """Write and hash what is pending, in a thread."""
        await run_in_threadpool(self._write, bytes(self.pending))
        self.pending.clear()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)

    def _check_container(self) -> None:
        if not is_video_container(bytes(self._head)):
            raise UnsupportedContainer("the file is not MP4, MOV, Matroska, WebM, AVI or MPEG-TS")


async def write_video(
    stream: AsyncIterator[bytes],
    path: Path,
    *,
    max_bytes: int,
    idle_seconds: float,
    on_bytes: OnBytes,
    head: bytes = b"",
    is_end: bool = True,
) -> Received:
    """Append a stream of bytes to a file, which is created if it is missing.

    If the client disconnects or is too slow, what has arrived stays in the file.

    Args:
        max_bytes: the most that the stream may have.
        head: how the file begins, if it is continued; see `VideoWriter`.
        is_end: whether the file is complete with this stream.

    Returns:
        The size and the digest of the stream.

    Raises:
        UploadTooLarge, UploadTooSlow: see `limited`.
        EmptyUpload, UnsupportedContainer: see `VideoWriter`.
        StoreUnavailable: `path` cannot be written.
        ClientDisconnect: the client disconnected.
    """
    try:
        async with entered(lambda: path.open("ab")) as file:
            writer = VideoWriter(file, head=head)
            received = 0
            interruption = None
            try:
                async for chunk in limited(stream, max_bytes, idle_seconds):
                    received += len(chunk)
                    writer.feed(chunk)
                    if len(writer.pending) >= FLUSH_BYTES:
                        await on_bytes(received)
                        await writer.flush()
            except (ClientDisconnect, UploadTooSlow) as error:
                interruption = error
            if is_end and interruption is None:
                writer.finish()
            await on_bytes(received)
            await writer.flush()
            if interruption is not None:
                raise interruption
            return writer.received
    except OSError as error:
        raise unavailable(error, "the upload cannot be written") from error


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
