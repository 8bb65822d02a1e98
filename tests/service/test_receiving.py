"""A stream of bytes becomes a file; what is wrong with it is found as it arrives."""

import asyncio
from hashlib import sha256

import pytest
from starlette.requests import ClientDisconnect

from rollout_core.errors import StoreUnavailable, UnsupportedContainer
from rollout_core.video.signatures import HEAD_BYTES
from service.errors import EmptyUpload, StorageQuotaExceeded, UploadTooLarge, UploadTooSlow
from service.receiving import FLUSH_BYTES, VideoWriter, write_video
from tests.service.conftest import MP4


@pytest.fixture
def write(tmp_path):
    """Write chunks to a file; None waits forever, an exception is raised."""

    async def stream(chunks):
        for chunk in chunks:
            if chunk is None:
                await asyncio.Event().wait()
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    async def ignore(_):
        pass

    def run(*chunks, path=tmp_path / "video", max_bytes=10**9, on_bytes=ignore):
        return asyncio.run(
            write_video(
                stream(chunks),
                path,
                max_bytes=max_bytes,
                idle_seconds=0.05,
                on_bytes=on_bytes,
            )
        )

    return run


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_the_file_its_size_and_its_digest_are_those_of_the_stream(write, tmp_path, size):
    received = write(*(MP4[start : start + size] for start in range(0, len(MP4), size)))

    assert (tmp_path / "video").read_bytes() == MP4
    assert (received.bytes, received.sha256) == (len(MP4), sha256(MP4).hexdigest())


def test_bytes_are_reserved_before_they_are_written(write, tmp_path):
    path, seen = tmp_path / "video", []

    async def reserve(received):
        seen.append((received, path.stat().st_size))

    write(MP4, *[bytes(FLUSH_BYTES)] * 3, on_bytes=reserve)

    sizes = [len(MP4) + FLUSH_BYTES * count for count in range(4)]
    assert seen == [*zip(sizes[1:], [0, *sizes[1:]], strict=False), (sizes[3], sizes[3])]


def test_bytes_that_are_not_reserved_are_not_written(write, tmp_path):
    async def refuse(_):
        raise StorageQuotaExceeded("full")

    with pytest.raises(StorageQuotaExceeded):
        write(MP4, on_bytes=refuse)

    assert (tmp_path / "video").read_bytes() == b""


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        ([], EmptyUpload),
        ([b""], EmptyUpload),
        ([b"hello"], UnsupportedContainer),
        ([bytes(HEAD_BYTES), None], UnsupportedContainer),
        ([MP4, bytes(1000)], UploadTooLarge),
    ],
)
def test_a_wrong_stream_is_refused(write, chunks, error):
    with pytest.raises(error):
        write(*chunks, max_bytes=len(MP4) + 999)


@pytest.mark.parametrize(
    ("end", "error"), [(None, UploadTooSlow), (ClientDisconnect(), ClientDisconnect)]
)
def test_what_arrived_before_an_interruption_is_kept(write, tmp_path, end, error):
    with pytest.raises(error):
        write(MP4[:700], MP4[700:900], end)

    assert (tmp_path / "video").read_bytes() == MP4[:900]


@pytest.mark.parametrize("size", [1, 3, HEAD_BYTES, 600])
def test_the_head_of_a_file_that_is_continued_is_known(size):
    written = bytearray()
    VideoWriter(written.extend, head=MP4[:size]).feed(MP4[size:])

    with pytest.raises(UnsupportedContainer):
        VideoWriter(written.extend, head=b"hel").feed(b"lo" + bytes(HEAD_BYTES))


def test_a_store_that_is_ill_is_named(write, tmp_path):
    with pytest.raises(StoreUnavailable):
        write(MP4, path=tmp_path / "missing" / "video")
