"""What a call needs that writes to an upload which arrives in parts.

Of several calls, the last one that asks is the writer; the others end.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable

from anyio import to_thread

CHECK_SECONDS = 0.5
"""Time between two looks of a writer whether it may go on."""


class UploadWriter(ABC):
    """The writer of an upload. Its methods block, except `follow`."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes that have arrived: the offset at which the next part begins."""

    @abstractmethod
    def append(self, data: bytes) -> None:
        """Add bytes at the end. The last ones may be kept back until `flush`."""

    @abstractmethod
    def flush(self) -> None:
        """Store what was appended."""

    @abstractmethod
    def begin_unverified(self) -> None:
        """Note that the bytes appended from now on count only once they are verified."""

    @abstractmethod
    def verify(self) -> None:
        """Let the bytes count that were appended since `begin_unverified`."""

    @abstractmethod
    def drop_unverified(self) -> None:
        """Remove the bytes that were appended since `begin_unverified`."""

    @abstractmethod
    def read_head(self) -> bytes:
        """Return the first bytes, by which the container is known."""

    @abstractmethod
    def sha256(self) -> str:
        """Return the SHA-256 of all bytes."""

    @abstractmethod
    def follow(self, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks of a stream until it ends, or another call asks for the upload.

        Raises:
            UploadLocked: another call has asked for it.
            FileNotFoundError: the upload is gone.
        """


async def checked(stream: AsyncIterator[bytes], check: Callable[[], None]) -> AsyncIterator[bytes]:
    """Yield the chunks of a stream until it ends, or until `check` raises.

    Args:
        check: called in a thread every `CHECK_SECONDS`, also while nothing arrives.
    """
    clock = asyncio.get_running_loop().time
    checked_at = clock()
    while True:
        waiting = asyncio.ensure_future(_next(stream))
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=CHECK_SECONDS)
                if clock() - checked_at >= CHECK_SECONDS:
                    await to_thread.run_sync(check)
                    checked_at = clock()
            chunk = waiting.result()
        finally:
            waiting.cancel()
            await asyncio.wait({waiting})
        if chunk is None:
            return
        yield chunk


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    return await anext(stream, None)
