"""Uploads in a bucket: what a crash or a race leaves, and how much memory they need."""

import asyncio
import errno
import subprocess
import sys
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from rollout_core.jobs.object_store import ObjectStore
from service import object_upload_writer
from service.errors import UploadLocked
from service.object_upload_writer import ObjectUploadWriter, part_name
from service.object_uploads import ObjectUploads
from service.resumable import resuming
from service.upload_store import UploadRecord
from tests.service.conftest import MP4

MIB = 1024**2
VIDEO = MP4 + bytes(3000)
ID = "1" * 32
FOLDER = f"uploads/{ID}"


@pytest.fixture
def store(bucket, tmp_path):
    return ObjectStore(bucket, tmp_path / "scratch", remember_seconds=0)


@pytest.fixture
def uploads(store):
    return ObjectUploads(store)


@pytest.fixture
def record(uploads):
    record = UploadRecord(id=ID, created_at=datetime.now(UTC), bytes=len(VIDEO))
    uploads.begin(record)
    return record


@pytest.fixture
def writer(bucket, store, record):
    with ObjectUploadWriter(bucket, FOLDER, store.receiving) as writer:
        yield writer


@pytest.fixture
def open_writer(bucket, store, record):
    return lambda: ObjectUploadWriter(bucket, FOLDER, store.receiving)


@pytest.fixture
def keys(bucket):
    return lambda: [found.key.removeprefix(f"{FOLDER}/") for found in bucket.objects("uploads")]


def test_parts_are_named_by_their_offset(writer, keys, monkeypatch):
    monkeypatch.setattr(object_upload_writer, "PART_BYTES", 1000)
    for at in range(0, 2500, 500):
        writer.append(VIDEO[at : at + 500])
    assert writer.size == 2500
    assert keys() == [part_name(0), part_name(1000), "upload.json"]

    writer.flush()
    writer.flush()

    assert keys() == [part_name(0), part_name(1000), part_name(2000), "upload.json"]


def test_bytes_of_a_slow_client_are_stored_soon(writer, uploads, monkeypatch):
    writer.append(VIDEO[:100])
    assert uploads.received_bytes(ID) == 0

    monkeypatch.setattr(object_upload_writer, "PART_SECONDS", 0)
    writer.append(VIDEO[100:200])

    assert uploads.received_bytes(ID) == 200


def test_of_two_parts_at_one_offset_the_first_stays(writer, open_writer, bucket, uploads):
    second = open_writer()
    writer.append(VIDEO[:100])
    writer.flush()
    second.append(b"x" * 300)
    with pytest.raises(UploadLocked):
        second.flush()

    assert bucket.get(f"{FOLDER}/{part_name(0)}") == VIDEO[:100]
    assert uploads.received_bytes(ID) == 100


def test_a_part_that_was_created_without_an_answer_counts(writer, bucket, monkeypatch):
    create = bucket.create

    def answer_is_lost(key, content):
        create(key, content)
        return create(key, content)

    monkeypatch.setattr(bucket, "create", answer_is_lost)
    writer.append(VIDEO[:100])
    writer.flush()

    assert writer.size == 100


def test_parts_after_a_gap_do_not_count(bucket, record, uploads, open_writer):
    bucket.put(f"{FOLDER}/{part_name(0)}", VIDEO[:10])
    bucket.put(f"{FOLDER}/{part_name(20)}", VIDEO[20:30])

    assert uploads.received_bytes(ID) == 10
    assert open_writer().read_head() == VIDEO[:10]


def test_the_head_is_read_across_parts(bucket, record, open_writer):
    bucket.put(f"{FOLDER}/{part_name(0)}", VIDEO[:10])
    bucket.put(f"{FOLDER}/{part_name(10)}", VIDEO[10:])

    assert open_writer().read_head() == VIDEO[:2048]


def test_the_head_has_bytes_that_are_not_stored_yet(writer):
    writer.append(VIDEO[:100])

    assert writer.read_head() == VIDEO[:100]


def test_unverified_bytes_are_on_this_machine_only(writer, keys, store):
    before = keys()
    writer.begin_unverified()
    writer.append(VIDEO)
    writer.flush()
    assert keys() == before
    assert writer.size == 0

    writer.drop_unverified()

    assert list((store.root / "incoming").iterdir()) == []
    writer.begin_unverified()
    writer.append(VIDEO)
    writer.verify()
    assert writer.size == len(VIDEO)
    assert list((store.root / "incoming").iterdir()) == []


def complete(uploads, record):
    async def go():
        async with resuming(uploads, record) as upload:
            return await upload.offset()

    return asyncio.run(go())


def test_a_call_that_died_after_the_bytes_were_put_together(writer, uploads, record, keys):
    writer.append(VIDEO)
    writer.flush()
    writer.sha256()
    assert "video" in keys()
    assert not uploads.record(ID).is_complete

    assert complete(uploads, record) == len(VIDEO)
    assert uploads.record(ID).sha256 == sha256(VIDEO).hexdigest()
    assert keys() == ["complete.json", "upload.json", "video"]


def test_parts_that_vanish_because_another_call_completes(
    writer, uploads, record, bucket, monkeypatch
):
    writer.append(VIDEO[:100])
    writer.flush()
    writer.append(VIDEO[100:])
    writer.flush()
    stream = bucket.stream
    is_first = [True]

    def completed_meanwhile(key):
        yield from stream(key)
        if is_first:
            is_first.clear()
            complete(uploads, record)

    monkeypatch.setattr(bucket, "stream", completed_meanwhile)

    assert writer.sha256() == sha256(VIDEO).hexdigest()
    assert bucket.get(f"{FOLDER}/video") == VIDEO


@pytest.mark.parametrize("gone", ["parts", ""])
def test_bytes_that_are_gone_have_no_digest(writer, bucket, keys, gone):
    writer.append(VIDEO)
    writer.flush()
    bucket.delete_folder(f"{FOLDER}/{gone}".rstrip("/"))

    with pytest.raises(FileNotFoundError):
        writer.sha256()
    assert "video" not in keys()


def test_a_bucket_that_is_away_is_store_trouble(writer, bucket, monkeypatch):
    def fail(*_):
        raise OSError(errno.EREMOTEIO, "no answer")

    monkeypatch.setattr(bucket, "create", fail)
    writer.append(VIDEO)
    with pytest.raises(OSError, match="no answer"):
        writer.flush()
    writer.flush()

    assert writer.size == 0


def test_what_a_late_call_leaves_is_removed_after_a_while(uploads, record, bucket, keys):
    clock = [0.0]
    uploads._watch._clock = lambda: clock[0]
    uploads.delete(record)
    late = [part_name(100), "complete.json", "expired", f"jobs/{'a' * 32}", "video"]
    for name in late:
        bucket.put(f"{FOLDER}/{name}", b"x")
    assert uploads.record(ID) is None
    assert uploads.survey(ID) is None
    assert uploads.received_bytes(ID) == 0

    for clock[0] in (0.0, 59.0):
        uploads.remove_leftovers(60)
    assert len(keys()) == len(late)
    bucket.put(f"{FOLDER}/{part_name(200)}", b"y")
    for clock[0] in (60.0, 119.0):
        uploads.remove_leftovers(60)
    assert len(keys()) == len(late) + 1
    clock[0] = 120.0
    uploads.remove_leftovers(60)

    assert keys() == []


def test_parts_of_a_complete_upload_are_removed_after_a_while(
    writer, uploads, record, bucket, keys
):
    writer.append(VIDEO)
    writer.flush()
    complete(uploads, record)
    bucket.put(f"{FOLDER}/{part_name(0)}", VIDEO[:100])
    assert uploads.received_bytes(ID) == len(VIDEO)

    uploads.remove_leftovers(0)

    assert keys() == ["complete.json", "upload.json", "video"]


def test_other_objects_are_left_alone(uploads, record, bucket):
    bucket.put("uploads/stray", b"x")
    uploads.remove_leftovers(0)

    assert "stray" in uploads.names()
    assert bucket.get("uploads/stray") == b"x"


SEND_LARGE_VIDEO = """
import sys
from pathlib import Path
from rollout_core.jobs.bucket import Bucket
from rollout_core.jobs.object_store import ObjectStore
from service.object_upload_writer import ObjectUploadWriter

def most_kib():
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0])

url, folder, root, pieces = sys.argv[1:]
store = ObjectStore(Bucket.at(url), Path(root))
piece = bytes(1024**2)
with ObjectUploadWriter(store.bucket, folder, store.receiving) as writer:
    writer.append(piece)
    writer.flush()
    before = most_kib()  # all modules are loaded, and the first connection is open
    writer.begin_unverified()
    for _ in range(int(pieces) // 2):
        writer.append(piece)
    writer.verify()
    for _ in range(int(pieces) // 2):
        writer.append(piece)
    writer.flush()
    digest = writer.sha256()
print(most_kib() - before, digest)
"""


def test_a_large_video_is_never_in_memory(uploads, record, bucket, tmp_path):
    """A process of its own sends 200 MiB: with a checksum, without one, and puts them together."""
    pieces = 200
    command = [sys.executable, "-c", SEND_LARGE_VIDEO, bucket.url, FOLDER, tmp_path, str(pieces)]
    grown_kib, digest = subprocess.check_output(command, text=True).split()

    assert uploads.received_bytes(ID) == (pieces + 1) * MIB
    assert digest == sha256(bytes((pieces + 1) * MIB)).hexdigest()
    assert int(grown_kib) * 1024 < 120 * MIB
