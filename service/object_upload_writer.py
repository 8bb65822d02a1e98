"""Appends to an upload in a bucket: no lock is needed, whichever processes write.

Bytes that arrive become parts, which are named by their offset. A part is created once only, so of
two calls that append at one offset, one wins, and the other ends. Where the parts end, the next
one begins, for any process.

    upload.json      the upload exists while this object does
    video            the bytes, once all have arrived; the parts are removed after it was written
    parts/<offset>   the bytes from this offset on
    complete.json    the size and the digest are known

Bytes with a checksum wait in a file of this machine until it is known that they fit.
"""

import errno
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from rollout_core.jobs.bucket import PART_BYTES, Bucket, Object
from rollout_core.jobs.store import UPLOAD_NAME
from rollout_core.video.signatures import HEAD_BYTES
from service.errors import UploadLocked
from service.upload_store import RECORD_NAME
from service.upload_writer import UploadWriter, checked

COMPLETE_NAME = "complete.json"
PARTS_NAME = "parts"

PART_SECONDS = 20.0
"""Bytes of a slow client become a part after this time, so that a killed process loses few."""


class ObjectUploadWriter(UploadWriter):
    """A call that writes. It keeps up to a part in memory."""

    def __init__(
        self,
        bucket: Bucket,
        folder: str,
        receiving: Callable[[], AbstractContextManager[Path]],
    ) -> None:
        """Go on where the parts end.

        Args:
            folder: of the upload.
            receiving: see `ArtifactStore.receiving`; for bytes with a checksum.

        Raises:
            FileNotFoundError: the upload is gone.
        """
        self._bucket = bucket
        self._folder = folder
        self._receiving = receiving
        self._unverified: BinaryIO | None = None
        self._opened = ExitStack()
        self._pending = bytearray()
        self._pending_since = 0.0
        self._writing = Lock()
        self.check()
        self._stored = arrived_bytes(bucket.objects(folder))

    def __enter__(self) -> "ObjectUploadWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with self._writing:
            self._opened.close()

    @property
    def size(self) -> int:
        """See `UploadWriter.size`."""
        return self._stored + len(self._pending)

    def check(self) -> None:
        """Check that the upload exists.

        Raises:
            FileNotFoundError: it is gone.
        """
        if self._bucket.head(self._key(RECORD_NAME)) is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such upload", self._folder)

    def append(self, data: bytes) -> None:
        """See `UploadWriter.append`.

        Raises:
            UploadLocked: another call has written at this offset.
        """
        with self._writing:
            if self._unverified:
                self._unverified.write(data)
            else:
                self._append(data)

    def flush(self) -> None:
        """See `UploadWriter.flush`.

        Raises:
            UploadLocked: see `append`.
        """
        with self._writing:
            self._store_pending()

    def begin_unverified(self) -> None:
        """See `UploadWriter.begin_unverified`."""
        with self._writing:
            path = self._opened.enter_context(self._receiving())
            self._unverified = self._opened.enter_context(path.open("w+b"))

    def verify(self) -> None:
        """See `UploadWriter.verify`.

        Raises:
            UploadLocked: see `append`.
        """
        with self._writing:
            file, self._unverified = self._unverified, None
            assert file is not None
            file.seek(0)
            while data := file.read(PART_BYTES):
                self._append(data)
            self._store_pending()
            self._opened.close()

    def drop_unverified(self) -> None:
        """See `UploadWriter.drop_unverified`."""
        with self._writing:
            self._unverified = None
            self._pending.clear()
            self._opened.close()

    def read_head(self) -> bytes:
        """See `UploadWriter.read_head`."""
        head = b""
        for key in self._keys_of_bytes():
            head += self._bucket.get_range(key, 0, HEAD_BYTES - len(head))
            if len(head) == HEAD_BYTES:
                return head
        return head + self._pending[: HEAD_BYTES - len(head)]

    def sha256(self) -> str:
        """See `UploadWriter.sha256`; it also puts the parts together, in the same pass.

        Raises:
            FileNotFoundError: bytes are gone.
        """
        keys, video = self._keys_of_bytes(), self._key(UPLOAD_NAME)
        digest = hashlib.sha256()
        chunks = self._stream(keys, digest.update)
        if keys == [video]:
            for _ in chunks:
                pass
            return digest.hexdigest()
        try:
            self._bucket.put_chunks(video, chunks)
        except FileNotFoundError:
            if self._bucket.head(video) is None:
                raise
            return self.sha256()  # another call has just completed the upload
        return digest.hexdigest()

    def follow(self, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks of a stream until it ends.

        A call that writes at the same offset is noticed by `append`.

        Raises:
            FileNotFoundError: the upload is gone.
        """
        return checked(stream, self.check)

    def _append(self, data: bytes) -> None:
        now = time.monotonic()
        if not self._pending:
            self._pending_since = now
        self._pending += data
        if len(self._pending) >= PART_BYTES or now - self._pending_since >= PART_SECONDS:
            self._store_pending()

    def _store_pending(self) -> None:
        """Create a part of the bytes that are in memory."""
        if not self._pending:
            return
        part, self._pending = self._pending, bytearray()
        key = self._key(part_name(self._stored))
        content = bytes(part)
        if not self._bucket.create(key, content) and self._bucket.get(key) != content:
            raise UploadLocked("another call has written at this offset")
        self._stored += len(content)

    def _keys_of_bytes(self) -> list[str]:
        """Return the keys of the objects that have the bytes, in their order."""
        found = self._bucket.objects(self._folder)
        video = [item.key for item in found if item.key == self._key(UPLOAD_NAME)]
        return video or [item.key for item in _parts(found)]

    def _stream(self, keys: Iterable[str], see: Callable[[bytes], None]) -> Iterator[bytes]:
        """Yield the bytes of objects, each after `see` has had it.

        Raises:
            FileNotFoundError: these are not all bytes.
        """
        left = self._stored
        for key in keys:
            for chunk in self._bucket.stream(key):
                see(chunk)
                left -= len(chunk)
                yield chunk
        if left:
            raise FileNotFoundError(errno.ENOENT, f"{left} bytes are missing", self._folder)

    def _key(self, name: str) -> str:
        return f"{self._folder}/{name}"


def part_name(offset: int) -> str:
    """Return the name of the part that begins at an offset, below the folder of an upload."""
    return f"{PARTS_NAME}/{offset:016}"


def arrived_bytes(found: Iterable[Object]) -> int:
    """Return how many bytes have arrived, by the objects of an upload."""
    found = list(found)
    for item in found:
        if _below(item) == UPLOAD_NAME:
            return item.bytes
    return sum(item.bytes for item in _parts(found))


def has_bytes(found: Iterable[Object]) -> bool:
    """Return whether any object of an upload has bytes of it."""
    return any(_below(item) == UPLOAD_NAME or is_part(item) for item in found)


def is_part(item: Object) -> bool:
    """Return whether an object of an upload is a part."""
    return _below(item).startswith(f"{PARTS_NAME}/")


def _parts(found: Iterable[Object]) -> list[Object]:
    """Return the parts that follow each other from the beginning, in their order."""
    parts: list[Object] = []
    end = 0
    for item in sorted(filter(is_part, found)):
        if int(item.name) != end:
            break
        parts.append(item)
        end += item.bytes
    return parts


def _below(item: Object) -> str:
    """Return the name of an object below the folder of its upload."""
    return item.key.split("/", 2)[2]
