"""One writer of an upload's file at a time."""

import asyncio
import subprocess
import sys
import time

import pytest

from service import folder_upload_writer, upload_writer
from service.errors import UploadLocked
from service.folder_upload_writer import FolderUploadWriter, writing

HOLD = """
import sys, time
from pathlib import Path
from service.folder_upload_writer import FolderUploadWriter

writer = FolderUploadWriter(Path(sys.argv[1]))
assert writer.try_lock()
writer.append(b"of the other")
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "video"
    path.write_bytes(b"")
    return path


@pytest.fixture
def writer(path):
    with FolderUploadWriter(path) as writer:
        assert writer.try_lock()
        yield writer


async def chunks(*given, then_wait=False):
    for chunk in given:
        yield chunk
    if then_wait:
        await asyncio.sleep(60)


def test_bytes_are_appended(path, writer):
    writer.append(b"ab")
    writer.append(b"cd")

    assert path.read_bytes() == b"abcd"
    assert writer.size == 4
    assert writer.read_head() == b"abcd"


def test_a_second_writer_waits_for_the_first(path, writer):
    with FolderUploadWriter(path) as second:
        assert not second.try_lock()
        writer.__exit__()
        assert second.try_lock()


def test_a_writer_stops_when_another_asks(path, writer):
    async def read():
        async for _ in writer.follow(chunks(b"a", then_wait=True)):
            FolderUploadWriter(path).__exit__()

    began = time.monotonic()
    with pytest.raises(UploadLocked):
        asyncio.run(read())
    assert time.monotonic() - began < 2 * upload_writer.CHECK_SECONDS


def test_a_busy_writer_stops_too(path, writer):
    async def endless():
        while True:
            await asyncio.sleep(0.001)
            yield b"a"

    async def read():
        async for _ in writer.follow(endless()):
            FolderUploadWriter(path).__exit__()

    with pytest.raises(UploadLocked):
        asyncio.run(asyncio.wait_for(read(), 5))


def test_a_writer_stops_when_the_upload_is_deleted(path, writer):
    async def read():
        async for _ in writer.follow(chunks(b"a", then_wait=True)):
            path.with_name(".writer").unlink()

    with pytest.raises(FileNotFoundError):
        asyncio.run(read())


def test_a_stream_is_followed_to_its_end(writer):
    async def read():
        return [chunk async for chunk in writer.follow(chunks(b"a", b"", b"b"))]

    assert asyncio.run(read()) == [b"a", b"", b"b"]


def test_of_two_that_wait_the_later_one_writes(path, writer):
    with FolderUploadWriter(path) as second, FolderUploadWriter(path) as third:
        with pytest.raises(UploadLocked):
            second.try_lock()
        writer.__exit__()
        assert third.try_lock()


def test_a_writer_that_does_not_stop_is_waited_for_in_vain(path, writer, monkeypatch):
    monkeypatch.setattr(folder_upload_writer, "LOCK_SECONDS", 0.1)

    async def ask():
        async with writing(path):
            pass

    with pytest.raises(UploadLocked):
        asyncio.run(ask())


def test_the_lock_ends_with_its_process(path):
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with FolderUploadWriter(path) as writer:
            assert not writer.try_lock()
            other.kill()
            other.wait()
            assert writer.try_lock()
            assert writer.size == len(b"of the other")


def test_a_missing_file_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        FolderUploadWriter(tmp_path / "video")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_after_the_lock_was_given_back(path, writer):
    writer.__exit__()

    with pytest.raises(ValueError, match="closed"):
        writer.append(b"late")
    assert path.read_bytes() == b""


class TestUnverified:
    def test_verified_bytes_stay(self, path, writer):
        writer.append(b"ab")
        writer.begin_unverified()
        writer.append(b"cd")
        writer.verify()
        writer.drop_unverified()

        assert path.read_bytes() == b"abcd"

    def test_others_are_dropped(self, path, writer):
        writer.append(b"ab")
        writer.begin_unverified()
        writer.append(b"cd")
        writer.drop_unverified()

        assert path.read_bytes() == b"ab"

    def test_they_are_dropped_by_the_next_writer_if_the_process_died(self, path, writer):
        writer.append(b"ab")
        writer.begin_unverified()
        writer.append(b"cd")
        writer.__exit__()

        with FolderUploadWriter(path) as second:
            assert second.try_lock()
            assert second.size == 2
