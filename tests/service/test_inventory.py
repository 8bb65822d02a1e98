import errno
import os
import time
from datetime import UTC, datetime
from threading import Barrier

import pytest

from rollout_core.jobs.records import JobRecord
from service import inventory as inventory_module
from service.inventory import Inventory
from service.ledger import MIN_RESULT_BYTES, Entry

ENDED = JobRecord().ended("canceled", datetime.now(UTC))


@pytest.fixture
def jobs_folder(store):
    return store.root / "jobs"


@pytest.fixture
def inventory(store):
    return Inventory(store)


@pytest.fixture
def surveyed(store, monkeypatch):
    """The ids of the jobs that are looked at."""
    looked_at = []
    survey = store.survey

    def watch(job_id):
        looked_at.append(job_id)
        return survey(job_id)

    monkeypatch.setattr(store, "survey", watch)
    return looked_at


def states(inventory):
    return {job_id: job.state for job_id, job in inventory.jobs.items()}


def test_every_job_is_known_with_its_state(inventory, store, accept):
    waiting, ended = accept(1), accept(2)
    store.end(ended.id, ENDED)

    inventory.refresh()

    assert states(inventory) == {waiting.id: "open", ended.id: "canceled"}
    assert inventory.open == {waiting.id: waiting}
    assert inventory.get(ended.id).created_at == ended.created_at


def test_jobs_are_counted_by_model_and_state(inventory, store, accept, jobs_folder):
    ended, gone, broken = accept(1), accept(2), accept(3)
    inventory.refresh()
    assert inventory.counts() == {("fake", "open"): 3}
    store.end(ended.id, ENDED)
    store.delete(gone.id)
    (jobs_folder / broken.id / "job.json").write_text("{}")

    inventory.look([ended.id, gone.id, broken.id])

    counts = {key: count for key, count in inventory.counts().items() if count}
    assert counts == {("fake", "canceled"): 1, (None, "unknown"): 1}


def test_changes_are_told_once(inventory, store, accept):
    ended, gone = accept(1, owner="ann"), accept(2, owner="ben")
    inventory.refresh()
    assert inventory.take_changes().jobs.keys() == {ended.id, gone.id}
    store.end(ended.id, ENDED)
    store.delete(gone.id)

    inventory.refresh()

    changes = inventory.take_changes()
    assert {job_id: job.state for job_id, job in changes.jobs.items()} == {ended.id: "canceled"}
    assert changes.gone == {gone.id: "ben"}
    assert inventory.take_changes().jobs == inventory.take_changes().gone == {}


def test_entries_follow_what_becomes_of_a_job(inventory, store, accept):
    job, gone = accept(1, size=5000, owner="ann"), accept(2, owner="ann")
    inventory.refresh()
    stored = store.survey(job.id).total_bytes
    room = 5000 + MIN_RESULT_BYTES
    assert inventory.entries().keys() == {job.id, gone.id}
    assert inventory.entries()[job.id] == Entry(stored, room, room - stored, "ann")
    store.end(job.id, ENDED)
    store.delete(gone.id)
    inventory.refresh()
    stored = store.survey(job.id).total_bytes
    assert inventory.entries() == {job.id: Entry(stored, stored, 0, "ann")}

    store.expire(job.id)
    inventory.refresh()

    assert inventory.entries()[job.id].own < 1000
    assert inventory.owners() == {"ann"}


def test_a_name_that_a_listing_missed_is_kept(inventory, store, accept, monkeypatch):
    ticket = accept(1)
    inventory.refresh()
    monkeypatch.setattr(store, "names", lambda: [])

    inventory.refresh()

    assert inventory.jobs.keys() == {ticket.id}


def test_ended_jobs_are_not_looked_at_again(inventory, store, accept, surveyed):
    ended = accept(1)
    store.end(ended.id, ENDED)
    inventory.refresh()
    surveyed.clear()

    for _ in range(3):
        inventory.refresh()

    assert surveyed == []


def test_names_are_read_again_only_if_the_folder_changed(
    inventory, store, accept, jobs_folder, monkeypatch
):
    accept(1)
    os.utime(jobs_folder, (0, time.time() - 60))
    inventory.refresh()
    read = []
    names = store.names
    monkeypatch.setattr(store, "names", lambda: read.append(1) or names())

    inventory.refresh()
    assert read == []
    accept(2)
    inventory.refresh()

    assert read == [1]
    assert len(inventory.jobs) == 2


def test_turns_are_limited_in_time(inventory, accept, surveyed, monkeypatch):
    for number in range(20):
        accept(number)
    inventory.refresh()
    inventory.refresh()
    monkeypatch.setattr(inventory_module, "TURN_SECONDS", 0)
    surveyed.clear()

    seen = []
    for _ in range(25):
        inventory.refresh()
        seen.append(len(surveyed))

    assert seen[0] == 1
    assert set(surveyed) == inventory.jobs.keys()


def test_many_jobs_on_a_slow_disk_are_looked_at_at_the_same_time(
    inventory, store, accept, monkeypatch
):
    monkeypatch.setattr(inventory_module, "CHUNK", 1)
    for number in range(5):
        accept(number)
    together = Barrier(4)
    survey = store.survey
    waits = iter([lambda: time.sleep(0.05), *[lambda: together.wait(20)] * 4])

    def slow(job_id):
        next(waits)()
        return survey(job_id)

    monkeypatch.setattr(store, "survey", slow)

    inventory.refresh()

    assert len(inventory.jobs) == 5


def spoil_with_another_version(folder):
    (folder / "job.json").write_text('{"of": "another version"}')


def spoil_with_a_newer_version(folder):
    text = (folder / "job.json").read_text()
    (folder / "job.json").write_text(text.replace("{", '{"version": 2, ', 1))


def spoil_with_a_folder(folder):
    (folder / "job.json").unlink()
    (folder / "job.json").mkdir()


def spoil_with_a_loop(folder):
    (folder / "job.json").unlink()
    (folder / "job.json").symlink_to("job.json")


def spoil_by_removal(folder):
    (folder / "job.json").unlink()


def spoil_with_binary(folder):
    (folder / "job.json").write_bytes(b"\xff\0")


SPOIL = [
    spoil_with_another_version,
    spoil_with_a_newer_version,
    spoil_with_a_folder,
    spoil_with_a_loop,
    spoil_by_removal,
    spoil_with_binary,
]


@pytest.mark.parametrize("spoil", SPOIL)
@pytest.mark.parametrize("has_ended", [False, True])
def test_a_job_that_cannot_be_read_is_logged_once_and_hides_no_other(
    inventory, store, accept, jobs_folder, caplog, spoil, has_ended
):
    bad, good = accept(1), accept(2)
    if has_ended:
        store.end(bad.id, ENDED)
    spoil(jobs_folder / bad.id)

    for _ in range(3):
        inventory.refresh()

    assert inventory.open == {good.id: good}
    assert inventory.get(bad.id).created_at is None
    assert [bad.id in record.getMessage() for record in caplog.records] == [True]
    assert "Traceback" not in caplog.text


def test_an_end_of_another_version_is_unknown_and_not_open(inventory, store, accept, jobs_folder):
    ticket = accept(1)
    store.end(ticket.id, ENDED)
    path = jobs_folder / ticket.id / "result" / "ended.json"
    path.write_text(path.read_text().replace("{", '{"version": 2, ', 1))

    inventory.refresh()

    assert states(inventory) == {ticket.id: "unknown"}
    assert inventory.get(ticket.id).created_at == ticket.created_at
    assert inventory.open == {}


def test_what_is_no_job_is_skipped(inventory, accept, jobs_folder, caplog):
    good = accept(1)
    (jobs_folder / "lost+found").mkdir()
    (jobs_folder / ".nfs0001").touch()
    (jobs_folder / ("f" * 32)).touch()

    for _ in range(3):
        inventory.refresh()

    assert inventory.open == {good.id: good}
    assert len(caplog.records) == 3


def test_a_failing_disk_is_no_fault_of_a_job(inventory, store, accept, monkeypatch, caplog):
    def fail(_):
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    accept(1)
    monkeypatch.setattr(store, "survey", fail)

    with pytest.raises(OSError, match="not connected"):
        inventory.refresh()

    assert not caplog.records
