"""Uploads that arrive in parts: what a broken part leaves."""

import asyncio
from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha1

import pytest
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from rollout_core.errors import StoreFull
from service import receiving
from service.errors import ChecksumMismatch, UploadNotFound, UploadTooSlow
from service.folder_upload_writer import FolderUploadWriter
from service.folder_uploads import FolderUploads
from service.resumable import resuming
from service.tus import read_checksum
from service.upload_store import UploadRecord
from tests.service.conftest import MP4

VIDEO = MP4 + bytes(3000)


@pytest.fixture
def uploads(store):
    return FolderUploads(store)


@pytest.fixture
def record(uploads):
    record = UploadRecord(id="1" * 32, created_at=datetime.now(UTC), bytes=len(VIDEO))
    uploads.begin(record)
    return record


async def broken(data, error):
    yield data
    raise error


async def whole(data):
    yield data


async def silent(data):
    yield data
    await asyncio.sleep(60)


@pytest.fixture
def append(uploads, record):
    def run(stream, *, offset=0, idle_seconds=5.0, checksum=None):
        async def go():
            async with resuming(uploads, record) as upload:
                await upload.append(
                    stream, offset=offset, idle_seconds=idle_seconds, checksum=checksum
                )
                return await upload.offset()

        return asyncio.run(go())

    return run


def checksum_of(data):
    digest = b64encode(sha1(data).digest()).decode()
    return read_checksum(Headers({"upload-checksum": f"sha1 {digest}"}))


def test_a_broken_part_leaves_what_has_arrived(append, uploads, record):
    with pytest.raises(ClientDisconnect):
        append(broken(VIDEO[:3000], ClientDisconnect()))

    assert uploads.received_bytes(record.id) == 3000
    assert append(whole(VIDEO[3000:]), offset=3000) == len(VIDEO)
    assert uploads.path(record.id).read_bytes() == VIDEO


def test_a_slow_part_leaves_what_has_arrived(append, uploads, record):
    with pytest.raises(UploadTooSlow):
        append(silent(VIDEO[:100]), idle_seconds=0.1)

    assert uploads.received_bytes(record.id) == 100


def test_bytes_of_a_slow_client_are_written_soon(append, uploads, record, monkeypatch):
    monkeypatch.setattr(receiving, "FLUSH_SECONDS", 0)
    seen = []

    async def slow():
        yield VIDEO[:100]
        seen.append(uploads.received_bytes(record.id))

    append(slow())

    assert seen == [100]


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (broken(VIDEO[:3000], ClientDisconnect()), ClientDisconnect),
        (whole(VIDEO[:3000]), ChecksumMismatch),
    ],
)
def test_a_part_with_a_checksum_counts_wholly_or_not_at_all(append, uploads, record, stream, error):
    with pytest.raises(error):
        append(stream, checksum=checksum_of(VIDEO))

    assert uploads.received_bytes(record.id) == 0
    assert append(whole(VIDEO), checksum=checksum_of(VIDEO)) == len(VIDEO)


def test_a_full_disk_leaves_what_was_written(append, uploads, record, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FolderUploadWriter, "append", fail)
    with pytest.raises(StoreFull):
        append(whole(VIDEO))
    monkeypatch.undo()

    assert append(whole(VIDEO)) == len(VIDEO)


def test_an_upload_that_is_deleted_meanwhile_is_not_found(append, uploads, record):
    async def deleted():
        yield VIDEO[:100]
        uploads.delete(record)
        await asyncio.sleep(60)

    with pytest.raises(UploadNotFound):
        append(deleted())

    assert uploads.names() == []


def test_equal_uploads_share_their_bytes_and_stay_apart(uploads, record, append):
    other = record.model_copy(update={"id": "2" * 32})
    append(whole(VIDEO))
    uploads.begin(other)

    async def send():
        async with resuming(uploads, other) as upload:
            await upload.append(whole(VIDEO), offset=0, idle_seconds=5)
            await upload.offset()

    asyncio.run(send())

    assert uploads.path(record.id).samefile(uploads.path(other.id))
