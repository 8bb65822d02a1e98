"""What both kinds of `UploadStore` promise: that of a folder, and that of a bucket."""

import asyncio
from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha1, sha256

import pytest
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from rollout_core.contract import ExplainRequest
from rollout_core.errors import UnsupportedContainer
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.object_store import ObjectStore
from rollout_core.jobs.records import Ticket
from service.errors import ChecksumMismatch, OffsetMismatch, UploadLocked, UploadNotFound
from service.resumable import resuming
from service.tus import read_checksum
from service.upload_store import Received, UploadRecord
from service.uploads_of import uploads_of
from tests.service.conftest import MP4

VIDEO = MP4 + bytes(3000)
SIZE = len(VIDEO)
DIGEST = sha256(VIDEO).hexdigest()
JOB = "a" * 32


@pytest.fixture(params=["folder", "bucket"])
def kind(request):
    return request.param


@pytest.fixture
def open_store(kind, tmp_path, request):
    """Open the store, as each process does."""
    if kind == "folder":
        return lambda: FolderStore(tmp_path / "data")
    bucket = request.getfixturevalue("bucket")
    return lambda: ObjectStore(bucket, tmp_path / "scratch", remember_seconds=0)


@pytest.fixture
def store(open_store):
    return open_store()


@pytest.fixture
def uploads(store):
    return uploads_of(store)


@pytest.fixture
def everything(kind, tmp_path, request):
    """List what is stored of uploads."""
    if kind == "folder":
        places = [tmp_path / "data" / name for name in ("uploads", "blobs", "incoming")]
        return lambda: [path for place in places for path in place.rglob("*")]
    bucket = request.getfixturevalue("bucket")
    scratch = tmp_path / "scratch" / "incoming"
    return lambda: [*bucket.objects("uploads"), *scratch.iterdir()]


@pytest.fixture
def add(uploads, store):
    def one(number=1, *, content=VIDEO, **changes):
        record = UploadRecord(
            id=f"{number:032x}",
            created_at=datetime.now(UTC),
            bytes=len(content),
            sha256=sha256(content).hexdigest(),
            **changes,
        )
        with store.receiving() as path:
            path.write_bytes(content)
            uploads.add(record, path)
        return record

    return one


@pytest.fixture
def begin(uploads):
    def one(number=1, *, size=SIZE):
        record = UploadRecord(id=f"{number:032x}", created_at=datetime.now(UTC), bytes=size)
        uploads.begin(record)
        return record

    return one


@pytest.fixture
def content_of(store, uploads):
    """Return the bytes of an upload, as a job gets them."""

    def read(record):
        ticket = Ticket(
            id=JOB,
            request=ExplainRequest(model="fake"),
            created_at=datetime.now(UTC),
            upload_bytes=record.bytes,
        )
        store.accept(ticket, uploads.location(record.id))
        attempt = store.begin_attempt(JOB, 1)
        content = store.stage_upload(JOB, attempt).read_bytes()
        store.delete(JOB)
        return content

    return read


async def whole(*chunks):
    for chunk in chunks:
        yield chunk


async def broken(*chunks):
    for chunk in chunks:
        yield chunk
    raise ClientDisconnect


async def append_to(uploads, record, stream, *, offset=0, checksum=None):
    async with resuming(uploads, record) as upload:
        await upload.append(stream, offset=offset, idle_seconds=5, checksum=checksum)
        return await upload.offset()


def run_append(*args, **options):
    return asyncio.run(append_to(*args, **options))


def checksum_of(data):
    digest = b64encode(sha1(data).digest()).decode()
    return read_checksum(Headers({"upload-checksum": f"sha1 {digest}"}))


def test_what_was_added_is_found(uploads, add, content_of):
    record = add(owner="ann", filename="clip.mp4")

    assert uploads.record(record.id) == record
    assert uploads.received_bytes(record.id) == len(VIDEO)
    assert uploads.has_bytes(record.id)
    assert not uploads.has_expired(record.id)
    assert uploads.names() == [record.id]
    assert content_of(record) == VIDEO


def test_what_does_not_exist_is_not_found(uploads):
    missing = UploadRecord(id="f" * 32, created_at=datetime.now(UTC))

    assert uploads.record(missing.id) is None
    assert uploads.received_bytes(missing.id) == 0
    assert not uploads.has_bytes(missing.id)
    assert not uploads.has_expired(missing.id)
    assert list(uploads.jobs(missing.id)) == []
    assert uploads.changed(missing.id) is None
    assert uploads.survey(missing.id) is None
    assert list(uploads.names()) == []
    assert uploads.delete(missing) is False
    uploads.detach(missing.id, JOB)
    with pytest.raises(FileNotFoundError):
        uploads.attach(missing.id, JOB)
    with pytest.raises(UploadNotFound):
        run_append(uploads, missing, whole(VIDEO))


def test_nothing_is_left_of_a_missing_upload(uploads, everything):
    with pytest.raises(FileNotFoundError):
        uploads.attach("f" * 32, JOB)
    uploads.expire(UploadRecord(id="f" * 32, created_at=datetime.now(UTC)))

    assert everything() == []


def test_a_deleted_upload_leaves_nothing(uploads, add, everything):
    record, other = add(1), add(2)
    uploads.attach(record.id, JOB)

    assert uploads.delete(record) is True
    assert uploads.record(record.id) is None
    assert uploads.has_bytes(other.id)
    assert uploads.delete(other) is True
    assert everything() == []


def test_an_upload_that_cannot_be_stored_leaves_nothing(uploads, everything, tmp_path):
    record = UploadRecord(id="1" * 32, created_at=datetime.now(UTC), bytes=1, sha256=DIGEST)
    with pytest.raises(FileNotFoundError):
        uploads.add(record, tmp_path / "missing")

    assert everything() == []


def test_jobs_are_attached_and_detached(uploads, add):
    record = add()
    uploads.attach(record.id, JOB)
    uploads.attach(record.id, "b" * 32)
    uploads.attach(record.id, JOB)
    assert sorted(uploads.jobs(record.id)) == [JOB, "b" * 32]

    uploads.detach(record.id, JOB)
    uploads.detach(record.id, JOB)
    assert list(uploads.jobs(record.id)) == ["b" * 32]
    uploads.detach(record.id, "b" * 32)
    assert uploads.record(record.id) == record


def test_an_upload_sent_with_a_job_goes_with_the_last_one(uploads, add, everything):
    record = add(with_job=True)
    for job_id in (JOB, "b" * 32):
        uploads.attach(record.id, job_id)

    uploads.detach(record.id, JOB)
    assert uploads.record(record.id)
    uploads.detach(record.id, "b" * 32)
    assert everything() == []


def test_a_job_keeps_its_video(uploads, add, store):
    record = add()
    ticket = Ticket(
        id=JOB,
        request=ExplainRequest(model="fake"),
        created_at=datetime.now(UTC),
        upload_bytes=len(VIDEO),
    )
    store.accept(ticket, uploads.location(record.id))
    uploads.delete(record)

    attempt = store.begin_attempt(JOB, 1)
    assert store.stage_upload(JOB, attempt).read_bytes() == VIDEO


def test_no_job_can_be_made_of_bytes_that_are_gone(uploads, add, store, content_of):
    record = add()
    uploads.expire(record)

    with pytest.raises(FileNotFoundError):
        content_of(record)
    assert not store.exists(JOB)


@pytest.mark.parametrize("arrived", [0, 3000, len(VIDEO)])
def test_an_expired_upload_keeps_its_record_only(uploads, begin, arrived):
    record = begin()
    if arrived:
        run_append(uploads, record, whole(VIDEO[:arrived]))
    record = uploads.record(record.id)
    assert uploads.has_bytes(record.id)

    uploads.expire(record)
    uploads.expire(record)

    assert uploads.has_expired(record.id)
    assert not uploads.has_bytes(record.id)
    assert uploads.received_bytes(record.id) == 0
    assert uploads.record(record.id) == record
    assert uploads.survey(record.id).file is None
    assert uploads.names() == [record.id]


def test_names_are_known_to_change(uploads, begin):
    before = uploads.names_changed()
    first = begin(1)
    second = begin(2)

    assert uploads.names_changed() > before
    assert sorted(uploads.names()) == [first.id, second.id]


def test_an_upload_is_known_to_change(uploads, begin):
    record = begin()
    seen = [uploads.changed(record.id)]
    assert uploads.changed(record.id) == seen[0]
    run_append(uploads, record, whole(VIDEO))
    seen.append(uploads.changed(record.id))
    uploads.expire(record)
    seen.append(uploads.changed(record.id))

    assert len(set(seen)) == 3
    uploads.delete(record)
    assert uploads.changed(record.id) is None


def test_a_survey_tells_what_is_there(uploads, begin, add):
    begun, added = begin(1), add(2)
    assert uploads.survey(begun.id).file.bytes == 0
    assert uploads.survey(added.id).file.bytes == len(VIDEO)

    run_append(uploads, begun, whole(VIDEO[:3000]))
    assert uploads.survey(begun.id).file.bytes == 3000
    run_append(uploads, begun, whole(VIDEO[3000:]), offset=3000)

    seen = uploads.survey(begun.id)
    assert seen.file.bytes == len(VIDEO)
    assert seen.changed == uploads.changed(begun.id)
    assert UploadRecord.from_json(seen.record) == uploads.record(begun.id)


def test_an_upload_arrives_in_parts(uploads, begin, content_of):
    record = begin()
    pieces = [VIDEO[:7], VIDEO[7:3000], VIDEO[3000:]]
    offset = 0
    for piece in pieces:
        assert not uploads.record(record.id).is_complete
        offset = run_append(uploads, record, whole(piece[:5], piece[5:]), offset=offset)
        assert uploads.received_bytes(record.id) == offset

    found = uploads.record(record.id)
    assert found == record.model_copy(update={"sha256": DIGEST})
    assert content_of(found) == VIDEO


def test_a_broken_part_leaves_what_has_arrived(uploads, begin, content_of):
    record = begin()
    with pytest.raises(ClientDisconnect):
        run_append(uploads, record, broken(VIDEO[:1000], VIDEO[1000:3000]))

    assert uploads.received_bytes(record.id) == 3000
    assert run_append(uploads, record, whole(VIDEO[3000:]), offset=3000) == len(VIDEO)
    assert content_of(record) == VIDEO


@pytest.mark.parametrize("offset", [0, 2999, 3001])
def test_a_part_must_begin_where_the_last_one_ends(uploads, begin, offset):
    record = begin()
    run_append(uploads, record, whole(VIDEO[:3000]))

    with pytest.raises(OffsetMismatch):
        run_append(uploads, record, whole(VIDEO[offset:]), offset=offset)
    assert uploads.received_bytes(record.id) == 3000


@pytest.mark.parametrize(
    ("stream", "error"),
    [(broken, ClientDisconnect), (whole, ChecksumMismatch)],
)
def test_a_part_with_a_checksum_counts_wholly_or_not_at_all(
    uploads, begin, everything, content_of, stream, error
):
    record = begin()
    run_append(uploads, record, whole(VIDEO[:500]))
    before = len(everything())
    with pytest.raises(error):
        run_append(
            uploads, record, stream(VIDEO[500:3000]), offset=500, checksum=checksum_of(VIDEO[500:])
        )

    assert uploads.received_bytes(record.id) == 500
    assert before <= len(everything()) <= before + 1  # a folder keeps the name of the writer
    end = run_append(
        uploads, record, whole(VIDEO[500:]), offset=500, checksum=checksum_of(VIDEO[500:])
    )
    assert end == len(VIDEO)
    assert content_of(record) == VIDEO


def test_any_process_goes_on(uploads, begin, open_store, content_of):
    record, others = begin(), uploads_of(open_store())
    run_append(uploads, record, whole(VIDEO[:1000]))
    run_append(others, record, whole(VIDEO[1000:3000]), offset=1000)
    run_append(uploads, record, whole(VIDEO[3000:]), offset=3000)

    assert others.record(record.id).sha256 == DIGEST
    assert content_of(record) == VIDEO


def test_a_second_call_takes_over(uploads, begin, open_store, content_of):
    """Whichever bytes of the two calls arrive, none is there twice or missing."""
    record, others = begin(), uploads_of(open_store())
    first_is_writing = asyncio.Event()

    async def stalled():
        yield VIDEO[:3000]
        first_is_writing.set()
        await asyncio.sleep(3)
        yield VIDEO[3000:4000]

    async def second():
        await first_is_writing.wait()
        async with resuming(others, record) as upload:
            offset = await upload.offset()
            await upload.append(whole(VIDEO[offset:]), offset=offset, idle_seconds=5)
            return await upload.offset()

    async def both():
        first = append_to(uploads, record, stalled())
        return await asyncio.gather(first, second(), return_exceptions=True)

    ended, end = asyncio.run(both())

    assert isinstance(ended, UploadLocked | int)
    assert end == len(VIDEO)
    assert uploads.record(record.id).sha256 == DIGEST
    assert content_of(record) == VIDEO


def test_of_two_calls_with_different_bytes_one_wins(uploads, begin, open_store):
    """The bytes of two calls are never mixed within a part."""
    record, others = begin(), uploads_of(open_store())
    contents = [MP4 + bytes([number]) * 3000 for number in range(2)]

    async def both():
        calls = [
            append_to(place, record, whole(*(content[at : at + 700] for at in range(0, 5000, 700))))
            for place, content in zip((uploads, others), contents, strict=True)
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    ends = asyncio.run(both())
    for end in ends:
        assert end == len(VIDEO) or isinstance(end, UploadLocked | OffsetMismatch), end

    received = uploads.received_bytes(record.id)
    if received < len(VIDEO):
        run_append(uploads, record, whole(contents[0][received:]), offset=received)
    found = uploads.record(record.id)
    assert found.sha256 in [sha256(content).hexdigest() for content in contents]


def test_an_upload_can_be_completed_twice(uploads, begin, open_store, content_of, everything):
    record, others = begin(), uploads_of(open_store())

    async def arrive_and_stop():
        async with uploads.writing(record.id) as writer:
            await asyncio.to_thread(writer.append, VIDEO)
            await asyncio.to_thread(writer.flush)

    async def complete(place):
        async with resuming(place, record) as upload:
            return await upload.offset()

    async def both():
        await arrive_and_stop()
        calls = complete(uploads), complete(others)
        return await asyncio.gather(*calls, return_exceptions=True)

    ends = asyncio.run(both())
    assert len(VIDEO) in ends
    assert all(end == len(VIDEO) or isinstance(end, UploadLocked) for end in ends), ends
    found = uploads.record(record.id)
    assert found.sha256 == DIGEST
    assert content_of(record) == VIDEO
    uploads.delete(found)
    assert everything() == []


def test_what_is_no_video_is_removed(uploads, begin, everything):
    record = begin()
    with pytest.raises(UnsupportedContainer):
        run_append(uploads, record, whole(b"x" * len(VIDEO)))

    assert uploads.record(record.id) is None
    assert everything() == []


def test_a_short_file_that_is_no_video_is_removed(uploads, begin, everything):
    record = begin(size=10)
    with pytest.raises(UnsupportedContainer):
        run_append(uploads, record, whole(b"x" * 10))

    assert everything() == []


def test_a_deleted_upload_ends_the_call_that_writes(uploads, begin):
    record = begin()

    async def deleted_meanwhile():
        yield VIDEO[:3000]
        await asyncio.to_thread(uploads.delete, record)
        await asyncio.sleep(60)

    with pytest.raises(UploadNotFound):
        run_append(uploads, record, deleted_meanwhile())
    assert uploads.record(record.id) is None


def test_a_deleted_upload_does_not_come_back(uploads, begin):
    record = begin()

    async def go():
        async with uploads.writing(record.id) as writer:
            await asyncio.to_thread(writer.append, VIDEO)
            await asyncio.to_thread(writer.flush)
            digest = await asyncio.to_thread(writer.sha256)
            await asyncio.to_thread(uploads.delete, record)
            done = record.model_copy(update={"sha256": digest})
            with pytest.raises(FileNotFoundError):
                await asyncio.to_thread(uploads.complete, done)

    asyncio.run(go())

    assert uploads.record(record.id) is None
    assert not uploads.has_bytes(record.id)


def test_leftovers_go_and_uploads_stay(uploads, add, begin, everything):
    complete, begun = add(1), begin(2)
    run_append(uploads, begun, whole(VIDEO[:3000]))
    before = everything()

    for _ in range(3):
        uploads.remove_leftovers(0)

    assert everything() == before
    assert uploads.received_bytes(begun.id) == 3000
    assert uploads.has_bytes(complete.id)


def test_received_tells_size_and_digest(tmp_path):
    path = tmp_path / "video"
    path.write_bytes(VIDEO)

    assert Received.of(path) == Received(len(VIDEO), DIGEST)
