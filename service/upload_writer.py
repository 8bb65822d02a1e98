"""What a call needs that writes to an upload which arrives in parts.

Of several calls, the last one that asks is the writer; the others end.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator


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
