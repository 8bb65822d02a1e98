from datetime import UTC, datetime
from hashlib import sha256

import pytest

from service.folder_uploads import FolderUploads
from service.upload_store import Received, UploadRecord

VIDEO = b"a video"
DIGEST = sha256(VIDEO).hexdigest()


@pytest.fixture
def uploads(store):
    return FolderUploads(store)


@pytest.fixture
def add(uploads, store):
    def one(number, *, owner=None, with_job=False):
        record = UploadRecord(
            id=f"{number:032x}",
            created_at=datetime.now(UTC),
            owner=owner,
            bytes=len(VIDEO),
            sha256=DIGEST,
            with_job=with_job,
        )
        with store.receiving() as path:
            path.write_bytes(VIDEO)
            uploads.add(record, path)
        return record

    return one


def inode(uploads, record):
    return uploads.path(record.id).stat().st_ino


def test_what_was_added_is_found(uploads, add):
    record = add(1)

    assert uploads.record(record.id) == record
    assert uploads.path(record.id).read_bytes() == VIDEO
    assert uploads.names() == [record.id]
    assert Received.of(uploads.path(record.id)) == Received(len(VIDEO), DIGEST)


def test_equal_bytes_are_one_file_for_an_owner_and_two_for_two(uploads, add):
    first, second, other = add(1, owner="ann"), add(2, owner="ann"), add(3, owner="ben")

    assert inode(uploads, first) == inode(uploads, second) != inode(uploads, other)


def test_bytes_go_with_the_last_upload(uploads, add, leftovers):
    first, second = add(1), add(2)

    uploads.delete(first)
    assert uploads.path(second.id).read_bytes() == VIDEO
    uploads.delete(second)

    assert leftovers() == []
    assert uploads.delete(second) is False


def test_an_upload_that_arrives_in_parts_is_completed(uploads, add):
    complete = add(1)
    record = complete.model_copy(update={"id": "f" * 32, "sha256": None})
    uploads.begin(record)
    with uploads.path(record.id).open("ab") as file:
        file.write(VIDEO)
    assert not uploads.record(record.id).is_complete
    assert uploads.received_bytes(record.id) == len(VIDEO)

    uploads.complete(record.model_copy(update={"sha256": DIGEST}))

    assert uploads.record(record.id).is_complete
    assert inode(uploads, record) == inode(uploads, complete)


def test_an_expired_upload_keeps_its_record(uploads, add, store):
    record = add(1)

    uploads.expire(record)

    assert uploads.has_expired(record.id)
    assert uploads.record(record.id) == record
    assert uploads.received_bytes(record.id) == 0
    assert list((store.root / "blobs").iterdir()) == []


def test_only_the_upload_of_a_form_goes_with_its_last_job(uploads, add):
    formed, sent = add(1, with_job=True), add(2)
    for record in (formed, sent):
        for job_id in ("1" * 32, "2" * 32):
            uploads.attach(record.id, job_id)
        uploads.detach(record.id, "1" * 32)
        assert uploads.jobs(record.id) == ["2" * 32]
        uploads.detach(record.id, "2" * 32)

    assert uploads.names() == [sent.id]


def test_no_job_is_made_from_an_upload_that_is_gone(uploads, add):
    record = add(1)
    uploads.delete(record)

    with pytest.raises(FileNotFoundError):
        uploads.attach(record.id, "1" * 32)
    assert uploads.jobs(record.id) == []
    uploads.detach(record.id, "1" * 32)


def test_without_hard_links_each_upload_has_its_own_bytes(uploads, add, monkeypatch, store):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)

    records = [add(1), add(2)]

    assert [uploads.path(record.id).read_bytes() for record in records] == [VIDEO] * 2
    assert list((store.root / "blobs").iterdir()) == []
