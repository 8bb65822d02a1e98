"""Appends to the file of an upload in a folder: one writer at a time, in all processes.

The writer holds a lock on the file (flock), which ends with its process. A call that wants to write
puts its token into a file beside; the writer reads that file twice a second, and stops once the
token is not its own. So a client that comes back need not wait until its old connection has timed
out.

    file/video         the bytes; its size is the offset at which the next part begins
    file/.writer       token of the call that asked last
    file/.unverified   size of the file before a part whose checksum is not known yet
"""

import asyncio
import fcntl
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import file_digest
from pathlib import Path
from threading import Lock

from anyio import to_thread

from rollout_core.video.signatures import HEAD_BYTES
from service.errors import UploadLocked
from service.pools import entered
from service.upload_writer import UploadWriter, checked

LOCK_POLL_SECONDS = 0.05

LOCK_SECONDS = 20.0
"""A call waits for this long until the writer has stopped. It may be computing the digest."""


class FolderUploadWriter(UploadWriter):
    """A call that writes, or waits until it may."""

    def __init__(self, path: Path) -> None:
        """Open the file of an upload, and ask for it.

        Raises:
            FileNotFoundError: the upload is gone.
        """
        self._path = path
        self._token = uuid.uuid4().hex
        self._asked = path.with_name(".writer")
        self._unverified = path.with_name(".unverified")
        self._closing = Lock()
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND), "r+b", buffering=0)
        _write(self._asked, self._token)

    def __enter__(self) -> "FolderUploadWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back, after a write that is under way in another thread."""
        with self._closing:
            self._file.close()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._file.fileno()).st_size

    def check(self) -> None:
        """Check that no other call has asked for the upload since.

        Raises:
            UploadLocked: one has.
            FileNotFoundError: the upload is gone.
        """
        if self._asked.read_text() != self._token:
            raise UploadLocked("another call has taken the upload over")

    def try_lock(self) -> bool:
        """Lock the file unless it is locked; return whether it is now.

        Raises:
            UploadLocked, FileNotFoundError: see `check`.
        """
        self.check()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._drop_unverified()
        return True

    def append(self, data: bytes) -> None:
        """Write bytes at the end of the file."""
        left = memoryview(data)
        with self._closing:
            while left:
                left = left[self._file.write(left) :]

    def flush(self) -> None:
        """See `UploadWriter.flush`: nothing is kept back."""

    def begin_unverified(self) -> None:
        """Note that the bytes written from now on count only once they are verified."""
        _write(self._unverified, str(self.size))

    def verify(self) -> None:
        """Let the bytes count that were written since `begin_unverified`."""
        self._unverified.unlink()

    def drop_unverified(self) -> None:
        """Remove the bytes that were written since `begin_unverified`."""
        with self._closing:
            self._drop_unverified()

    def read_head(self) -> bytes:
        """Return the first bytes of the file, by which its container is known."""
        return os.pread(self._file.fileno(), HEAD_BYTES, 0)

    def sha256(self) -> str:
        """Return the SHA-256 of the file."""
        with self._path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()

    def follow(self, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks of a stream until it ends, or another call asks for the upload.

        Raises:
            UploadLocked, FileNotFoundError: see `check`.
        """
        return checked(stream, self.check)

    def _drop_unverified(self) -> None:
        try:
            size = int(self._unverified.read_text())
        except FileNotFoundError:
            return
        os.truncate(self._file.fileno(), min(size, self.size))
        self._unverified.unlink()


@asynccontextmanager
async def writing(path: Path) -> AsyncIterator[FolderUploadWriter]:
    """Become the only writer of an upload's file, and stop being so at the end.

    Raises:
        UploadLocked: the writer did not stop, or a third call wants the upload, too.
        FileNotFoundError: the upload is gone.
    """
    clock = asyncio.get_running_loop().time
    async with entered(lambda: FolderUploadWriter(path)) as writer:
        give_up = clock() + LOCK_SECONDS
        while not await to_thread.run_sync(writer.try_lock):
            if clock() > give_up:
                raise UploadLocked("another call is about to complete the upload")
            await asyncio.sleep(LOCK_POLL_SECONDS)
        yield writer


def _write(path: Path, text: str) -> None:
    """Replace a small file; it need not survive a power cut."""
    beside = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
    beside.write_text(text)
    beside.replace(path)
