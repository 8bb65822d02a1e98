"""Uploads that arrive in parts and go on where they stopped.

What has arrived is in the file itself, so nothing else must be kept in line with it when the
process is killed. Its size is the offset. Bytes are only appended; a part whose checksum does not
fit is cut off again.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from rollout_core.errors import UnsupportedContainer
from rollout_core.jobs.store import unavailable
from rollout_core.video.signatures import HEAD_BYTES, is_video_container
from service.errors import (
    ChecksumMismatch,
    OffsetMismatch,
    UploadLocked,
    UploadNotFound,
    UploadTooLarge,
    UploadTooSlow,
)
from service.receiving import FLUSH_BYTES, paced
from service.tus import Checksum
from service.upload_store import UploadRecord, UploadStore
from service.upload_writer import UploadWriter, writing

FLUSH_SECONDS = 1.0
"""Bytes of a slow client are written after this time, so that a killed process loses few."""


class ResumableUpload:
    """An upload that arrives in parts, as the only call that writes to it has it."""

    def __init__(self, store: UploadStore, record: UploadRecord, writer: UploadWriter) -> None:
        """Go on with an upload; its size must be known."""
        self._store = store
        self._writer = writer
        self.record = record
        self._has_head = False

    @property
    def size(self) -> int:
        """Size of the whole file."""
        assert self.record.bytes is not None
        return self.record.bytes

    async def offset(self) -> int:
        """Return how many bytes have arrived; complete the upload if these are all."""
        if not self.record.is_complete:
            size = await run_in_threadpool(lambda: self._writer.size)
            if size < self.size:
                return size
            await self._complete()
        return self.size

    async def append(
        self,
        stream: AsyncIterator[bytes],
        *,
        offset: int,
        idle_seconds: float,
        checksum: Checksum | None = None,
    ) -> None:
        """Append what arrives. A stream that breaks leaves what has arrived.

        With a checksum, it leaves nothing unless all of it arrives.

        Raises:
            OffsetMismatch: the file does not end at `offset`.
            UploadTooLarge: more arrives than the file has.
            UploadTooSlow, ClientDisconnect: the stream breaks.
            UploadLocked: another call asks for the upload.
            ChecksumMismatch: the bytes do not have the checksum.
            UnsupportedContainer: the file is no video; the upload is removed.
            UploadNotFound: the upload was deleted meanwhile.
            StoreUnavailable: the file cannot be written.
        """
        arrived = await self.offset()
        if offset != arrived:
            raise OffsetMismatch(f"the upload has {arrived} bytes, so it continues there")
        try:
            if checksum:
                await self._append_verified(stream, idle_seconds, checksum)
            else:
                await self._append(stream, idle_seconds)
        except FileNotFoundError as error:
            raise gone(self.record.id) from error
        except OSError as error:
            raise unavailable(error, "the upload cannot be written") from error

    async def _append_verified(
        self, stream: AsyncIterator[bytes], idle_seconds: float, checksum: Checksum
    ) -> None:
        computed = checksum.new_hash()

        async def hashed() -> AsyncIterator[bytes]:
            async for chunk in stream:
                computed.update(chunk)
                yield chunk

        await run_in_threadpool(self._writer.begin_unverified)
        try:
            await self._append(hashed(), idle_seconds)
            if not checksum.fits(computed):
                raise ChecksumMismatch(f"the bytes do not have this {checksum.algorithm}")
            await run_in_threadpool(self._writer.verify)
        except BaseException:
            await asyncio.shield(run_in_threadpool(self._writer.drop_unverified))
            raise

    async def _append(self, stream: AsyncIterator[bytes], idle_seconds: float) -> None:
        clock = asyncio.get_running_loop().time
        pending, flushed_at = bytearray(), clock()
        left = self.size - await run_in_threadpool(lambda: self._writer.size)
        try:
            async for chunk in paced(self._writer.follow(stream), idle_seconds):
                left -= len(chunk)
                if left < 0:
                    raise UploadTooLarge(f"the file has more than the {self.size} bytes announced")
                pending += chunk
                if len(pending) >= FLUSH_BYTES or clock() - flushed_at > FLUSH_SECONDS:
                    await self._flush(pending)
                    flushed_at = clock()
        except (ClientDisconnect, UploadTooSlow, UploadLocked):
            await self._flush(pending)
            raise
        await self._flush(pending)

    async def _flush(self, pending: bytearray) -> None:
        had_head = self._has_head
        await run_in_threadpool(self._writer.append, bytes(pending))
        pending.clear()
        if not had_head:
            await self._check_container()

    async def _check_container(self, *, is_whole: bool = False) -> None:
        """Check the container once its mark has arrived; remove the upload if it is no video."""
        head = await run_in_threadpool(self._writer.read_head)
        if len(head) < HEAD_BYTES and not is_whole:
            return
        self._has_head = True
        if not is_video_container(head):
            await run_in_threadpool(self._store.delete, self.record)
            raise UnsupportedContainer("the file is not MP4, MOV, Matroska, WebM, AVI or MPEG-TS")

    async def _complete(self) -> None:
        await self._check_container(is_whole=True)
        digest = await run_in_threadpool(self._writer.sha256)
        self.record = self.record.model_copy(update={"sha256": digest})
        await run_in_threadpool(self._store.complete, self.record)


@asynccontextmanager
async def resuming(store: UploadStore, record: UploadRecord) -> AsyncIterator[ResumableUpload]:
    """Become the only call that writes to an upload; a call that does so now is ended.

    Raises:
        UploadLocked: a third call wants the upload, too.
        UploadNotFound: it has just been deleted.
    """
    try:
        async with writing(store.path(record.id)) as writer:
            # The record may have changed until the file was locked.
            current = await run_in_threadpool(store.record, record.id)
            if current is None:
                raise gone(record.id)
            yield ResumableUpload(store, current, writer)
    except FileNotFoundError as error:
        raise gone(record.id) from error


def gone(upload_id: str) -> UploadNotFound:
    """Return the error for an upload that does not exist, or has another owner."""
    return UploadNotFound(f"there is no upload {upload_id}")
