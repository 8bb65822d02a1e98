"""Uploads that arrive in parts and go on where they stopped.

What has arrived is in the file itself, so nothing else must be kept in line with it when the
process is killed. Its size is the offset. Bytes are only appended; a part whose checksum does not
fit is cut off again.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.concurrency import run_in_threadpool

from rollout_core.errors import UnsupportedContainer
from rollout_core.jobs.store import unavailable
from service.errors import (
    ChecksumMismatch,
    OffsetMismatch,
    UploadNotFound,
)
from service.receiving import VideoWriter, require_container, write_stream
from service.tus import Checksum
from service.upload_store import UploadRecord, UploadStore
from service.upload_writer import UploadWriter


class ResumableUpload:
    """An upload that arrives in parts, as the only call that writes to it has it."""

    def __init__(self, store: UploadStore, record: UploadRecord, writer: UploadWriter) -> None:
        """Go on with an upload; its size must be known."""
        self._store = store
        self._writer = writer
        self.record = record

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
        writer = self._writer
        left = self.size - await run_in_threadpool(lambda: writer.size)
        video = VideoWriter(writer.append, head=await run_in_threadpool(writer.read_head))
        try:
            await write_stream(
                writer.follow(stream), video, max_bytes=left, idle_seconds=idle_seconds
            )
        except UnsupportedContainer:
            await self._remove()
            raise
        finally:
            await asyncio.shield(run_in_threadpool(writer.flush))

    async def _remove(self) -> None:
        await run_in_threadpool(self._store.delete, self.record)

    async def _complete(self) -> None:
        try:
            require_container(await run_in_threadpool(self._writer.read_head))
        except UnsupportedContainer:  # a file that is shorter than a head
            await self._remove()
            raise
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
        async with store.writing(record.id) as writer:
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
