import shutil
from collections import namedtuple
from datetime import UTC, datetime

import pytest

from rollout_core.contract import ExplainRequest
from rollout_core.errors import StoreFull
from rollout_core.jobs.records import JobRecord, Ticket
from service.census import RESERVED_BYTES, Census

ENDED = JobRecord().ended("canceled", datetime.now(UTC))


@pytest.fixture
def accept(store):
    """Put a job into the store; return its ticket."""

    def one(number: int, *, size: int = 1000, owner: str | None = None) -> Ticket:
        ticket = Ticket(
            id=f"{number:032x}",
            request=ExplainRequest(model="fake"),
            created_at=datetime.now(UTC),
            upload_bytes=size,
            owner=owner,
        )
        with store.receiving() as path:
            path.write_bytes(bytes(size))
            store.accept(ticket, path)
        return ticket

    return one


@pytest.fixture
def census(store):
    return Census(store)


def test_every_job_is_counted_and_which_are_open(census, store, accept):
    tickets = [accept(number) for number in range(3)]
    store.end(tickets[1].id, ENDED)

    census.take()

    assert census.tickets == {ticket.id: ticket for ticket in tickets}
    assert census.open.keys() == {tickets[0].id, tickets[2].id}


def test_a_job_that_ends_expires_or_goes_is_counted_anew(census, store, accept):
    ended, gone = accept(1, size=5000), accept(2)
    census.take()
    store.end(ended.id, ENDED)
    store.delete(gone.id)

    census.take()

    assert (census.jobs, census.open) == ({ended.id}, {})
    before = census.bytes_of(None)
    store.expire(ended.id)
    census.take()
    assert before - census.bytes_of(None) >= 5000


def test_what_has_ended_is_not_looked_at_twice(census, store, accept, monkeypatch):
    ended, waiting = accept(1), accept(2)
    store.end(ended.id, ENDED)
    census.take()
    looked_at = []
    monkeypatch.setattr(store, "bytes_of", lambda job_id: looked_at.append(job_id) or 1)

    census.take()

    assert looked_at == [waiting.id]
    assert census.jobs == {ended.id, waiting.id}


def test_bytes_are_counted_by_owner_and_at_once(census, accept):
    accept(1, owner="ann")
    accept(2, size=3000, owner="ben")
    census.take()
    assert census.bytes_of("ben") - census.bytes_of("ann") == pytest.approx(2000, abs=100)
    assert census.bytes_of("cy") == 0

    census.accept(accept(3, size=700, owner="cy"))

    assert census.bytes_of("cy") == 700
    census.take()
    assert census.bytes_of("cy") >= 700


def test_a_job_that_cannot_be_read_is_counted_but_not_open(census, accept, settings, caplog):
    ticket = accept(1)
    path = settings.data_dir / "jobs" / ticket.id / "job.json"
    path.write_text('{"of": "another version"}')

    census.take()

    assert census.jobs == {ticket.id}
    assert census.tickets == census.open == {}
    assert ticket.id in caplog.text


def test_a_limited_store_has_room_until_it_is_full(store, accept):
    census = Census(store, max_bytes=100_000)
    accept(1, size=60_000)
    census.take()

    census.require_room(30_000)
    with pytest.raises(StoreFull, match="of the 100000 bytes"):
        census.require_room(40_000)
    census.accept(accept(2, size=30_000))
    with pytest.raises(StoreFull):
        census.require_room(30_000)


def test_a_disk_that_is_nearly_full_takes_nothing(census, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(RESERVED_BYTES + 1000))

    census.require_room(1000)
    with pytest.raises(StoreFull, match="nearly full"):
        census.require_room(1001)
