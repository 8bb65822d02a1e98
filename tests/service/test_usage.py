import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from rollout_core.contract import ExplainRequest
from rollout_core.errors import StoreFull
from rollout_core.jobs.records import JobRecord, Ticket
from service.errors import StorageQuotaExceeded
from service.redis_jobs import OpenJobs
from service.usage import ACCEPT_SECONDS, RESERVED_BYTES, Owner, Quotas, StoreUsage

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
def usage(store):
    return StoreUsage(store)


def test_every_job_is_counted_and_which_are_open(usage, store, accept):
    tickets = [accept(number) for number in range(3)]
    store.end(tickets[1].id, ENDED)

    usage.take()

    assert usage.tickets == {ticket.id: ticket for ticket in tickets}
    assert usage.open.keys() == {tickets[0].id, tickets[2].id}


def test_a_job_that_ends_expires_or_goes_is_counted_anew(usage, store, accept):
    ended, gone = accept(1, size=5000), accept(2)
    usage.take()
    store.end(ended.id, ENDED)
    store.delete(gone.id)

    usage.take()

    assert (usage.jobs, usage.open) == ({ended.id}, {})
    before = usage.bytes_of(None)
    store.expire(ended.id)
    usage.take()
    assert before - usage.bytes_of(None) >= 5000


def test_what_has_ended_is_not_looked_at_twice(usage, store, accept, monkeypatch):
    ended, waiting = accept(1), accept(2)
    store.end(ended.id, ENDED)
    usage.take()
    looked_at = []
    monkeypatch.setattr(store, "bytes_of", lambda job_id: looked_at.append(job_id) or 1)

    usage.take()

    assert looked_at == [waiting.id]
    assert usage.jobs == {ended.id, waiting.id}


def test_bytes_are_counted_by_owner_and_at_once(usage, accept):
    accept(1, owner="ann")
    accept(2, size=3000, owner="ben")
    usage.take()
    assert usage.bytes_of("ben") - usage.bytes_of("ann") == pytest.approx(2000, abs=100)
    assert usage.bytes_of("cy") == 0

    usage.accept(accept(3, size=700, owner="cy"))

    assert usage.bytes_of("cy") == 700
    usage.take()
    assert usage.bytes_of("cy") >= 700


def test_a_job_that_cannot_be_read_is_counted_but_not_open(usage, accept, settings, caplog):
    ticket = accept(1)
    path = settings.data_dir / "jobs" / ticket.id / "job.json"
    path.write_text('{"of": "another version"}')

    usage.take()

    assert usage.jobs == {ticket.id}
    assert usage.tickets == usage.open == {}
    assert ticket.id in caplog.text


def test_a_limited_store_has_room_until_it_is_full(store, accept):
    usage = StoreUsage(store, max_bytes=100_000)
    accept(1, size=60_000)
    usage.take()

    usage.require_room(30_000)
    with pytest.raises(StoreFull, match="of the 100000 bytes"):
        usage.require_room(40_000)
    usage.accept(accept(2, size=30_000))
    with pytest.raises(StoreFull):
        usage.require_room(30_000)


def test_a_disk_that_is_nearly_full_takes_nothing(usage, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(RESERVED_BYTES + 1000))

    usage.require_room(1000)
    with pytest.raises(StoreFull, match="nearly full"):
        usage.require_room(1001)


ANN = Owner(name="ann", max_queued_jobs=2, max_stored_bytes=100)


BEN = Owner(name="ben")


def job_id(number):
    return f"{number:032x}"


def ticket(number, owner="ann"):
    return Ticket(
        id=job_id(number),
        request=ExplainRequest(model="fake"),
        created_at=datetime.now(UTC),
        upload_bytes=5,
        owner=owner,
    )


@pytest.fixture
def open_jobs(redis):
    return OpenJobs(redis)


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def quotas(open_jobs, store, usage, now):
    return Quotas(open_jobs, store, usage, clock=lambda: now[0])


@pytest.fixture
def accept_quota(store):
    def one(number):
        with store.receiving() as path:
            path.write_bytes(bytes(5))
            store.accept(ticket(number), path)

    return one


class TestPlaces:
    def test_as_many_as_the_limit(self, quotas, accept_quota):
        for number in range(2):
            assert quotas.take_place(job_id(number), ANN)
            accept_quota(number)

        assert not quotas.take_place(job_id(2), ANN)

    def test_each_owner_has_his_own(self, quotas, accept_quota):
        other = ANN.model_copy(update={"name": "cid"})

        taken = [quotas.take_place(job_id(number), ANN) for number in range(2)]

        assert all([*taken, quotas.take_place(job_id(2), other)])

    @pytest.mark.parametrize("owner", [None, BEN])
    def test_without_a_limit_there_is_none(self, quotas, owner):
        assert all(quotas.take_place(job_id(number), owner) for number in range(50))

    def test_none_at_all(self, quotas):
        assert not quotas.take_place(job_id(1), ANN.model_copy(update={"max_queued_jobs": 0}))

    def test_the_place_of_a_job_that_has_ended_is_free(self, quotas, accept_quota, store):
        for number in range(2):
            quotas.take_place(job_id(number), ANN)
            accept_quota(number)
        (store.upload_path(job_id(0)).parents[1] / "result").mkdir()

        assert quotas.take_place(job_id(2), ANN)
        assert not quotas.take_place(job_id(3), ANN)

    def test_a_place_given_back_is_free(self, quotas):
        for number in range(2):
            quotas.take_place(job_id(number), ANN)
        quotas.give_back(job_id(0), ANN)
        quotas.give_back(job_id(9), None)

        assert quotas.take_place(job_id(2), ANN)

    def test_a_job_on_its_way_to_the_store_keeps_its_place_for_a_while(self, quotas, now):
        for number in range(2):
            quotas.take_place(job_id(number), ANN)

        now[0] += ACCEPT_SECONDS
        assert not quotas.take_place(job_id(2), ANN)
        now[0] += 1
        assert quotas.take_place(job_id(2), ANN)

    def test_the_limit_is_exact_whoever_asks_at_once(self, open_jobs, redis):
        def take(number):
            return OpenJobs(redis).take(job_id(number), "ann", 0.0, 7)

        with ThreadPoolExecutor(16) as pool:
            taken = list(pool.map(take, range(100)))

        assert sum(taken) == len(open_jobs.of("ann")) == 7

    def test_an_accepted_job_keeps_the_time_of_its_place(self, open_jobs, redis):
        open_jobs.take(job_id(1), "ann", 5.0, 7)
        with redis.pipeline() as pipe:
            for one in (ticket(1), ticket(2), ticket(3, owner=None)):
                open_jobs.add(one, pipe)
            pipe.execute()

        assert open_jobs.of("ann").keys() == {job_id(1), job_id(2)}
        assert open_jobs.of("ann")[job_id(1)] == 5.0
        assert redis.keys("rollout:open:*") == [b"rollout:open:ann"]


class TestBytes:
    def test_up_to_the_limit(self, quotas, usage, accept_quota):
        accept_quota(1)
        usage.take()
        held = usage.bytes_of("ann")
        owner = ANN.model_copy(update={"max_stored_bytes": held + 10})

        quotas.require_bytes(owner, 10)
        with pytest.raises(StorageQuotaExceeded, match=f"{held} of the {held + 10} bytes"):
            quotas.require_bytes(owner, 11)

    @pytest.mark.parametrize("owner", [None, BEN])
    def test_without_a_limit_there_is_none(self, quotas, owner):
        quotas.require_bytes(owner, 10**18)
