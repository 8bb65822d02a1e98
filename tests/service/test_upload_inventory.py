from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from service import upload_inventory as module
from service.entries import Entries
from service.folder_uploads import FolderUploads
from service.ledger import Entry
from service.upload_inventory import UploadInventory
from service.upload_store import UploadRecord

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def uploads(store):
    return FolderUploads(store)


@pytest.fixture
def entries():
    return Entries()


@pytest.fixture
def inventory(uploads, entries):
    return UploadInventory(uploads, entries)


@pytest.fixture
def add(uploads, store):
    def one(number, *, owner=None):
        video = b"%d" % number
        record = UploadRecord(
            id=f"{number:032x}",
            created_at=START + timedelta(seconds=number),
            owner=owner,
            bytes=len(video),
            sha256=sha256(video).hexdigest(),
        )
        with store.receiving() as path:
            path.write_bytes(video)
            uploads.add(record, path)
        return record

    return one


def test_uploads_are_found_newest_first(inventory, add):
    records = [add(number, owner="ann") for number in (3, 1, 2)]
    add(4, owner="ben")
    inventory.refresh()

    newest, middle, oldest = (records[index] for index in (0, 2, 1))
    assert inventory.newest_first("ann", None, 5) == [newest, middle, oldest]
    assert inventory.newest_first("ann", None, 1) == [newest]
    after = (newest.created_at.timestamp(), newest.id)
    assert inventory.newest_first("ann", after, 1) == [middle]
    assert inventory.newest_first(None, None, 5) == []


def test_uploads_that_are_gone_are_forgotten(inventory, add, uploads, entries):
    record = add(1)
    inventory.refresh()
    uploads.delete(record)

    inventory.refresh()

    assert inventory.newest_first(None, None, 5) == []
    assert entries.all() == {}


def test_what_another_process_expires_is_noticed_in_turn(
    inventory, add, uploads, entries, monkeypatch
):
    monkeypatch.setattr(module, "TURN_SECONDS", 0)
    records = [add(number) for number in range(3)]
    inventory.refresh()
    for record in records:
        uploads.expire(record)

    for _ in range(6):
        inventory.refresh()

    assert inventory.newest_first(None, None, 5) == []
    assert entries.all().keys() == {record.id for record in records}


def test_an_upload_that_grows_is_looked_at_each_time(inventory, uploads, entries):
    record = UploadRecord(id="1" * 32, created_at=START, owner="ann", bytes=100)
    uploads.begin(record)
    path = uploads.path(record.id)
    for size in (0, 10, 90):
        path.write_bytes(bytes(size))
        inventory.refresh()
        assert entries.all() == {record.id: Entry(100, 100, 100 - size, "ann")}


@pytest.mark.parametrize("text", ["{", '{"version": 2}', None])
def test_one_that_cannot_be_read_is_logged_once_and_hides_no_other(
    inventory, add, store, caplog, text
):
    broken, good = add(1), add(2)
    path = store.root / "uploads" / broken.id / "upload.json"
    path.unlink() if text is None else path.write_text(text)

    for _ in range(3):
        inventory.refresh()

    assert inventory.newest_first(None, None, 5) == [good]
    assert [broken.id in record.getMessage() for record in caplog.records] == [True]


def test_what_is_no_upload_is_skipped(inventory, add, store):
    record = add(1)
    (store.root / "uploads" / "lost+found").mkdir()
    (store.root / "uploads" / ".nfs0001").touch()

    inventory.refresh()

    assert inventory.newest_first(None, None, 5) == [record]
