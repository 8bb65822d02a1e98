import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from rollout_core.contract import ExplainRequest
from rollout_core.errors import StoreFull
from rollout_core.jobs.records import Ticket
from service.errors import StorageQuotaExceeded
from service.redis_jobs import RedisJobs
from service.usage import ACCEPT_SECONDS, RESERVED_BYTES, Owner, Quotas, StoreUsage

ANN = Owner(name="ann", max_queued_jobs=2, max_stored_bytes=100)


BEN = Owner(name="ben")


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
def redis_jobs(redis):
    return RedisJobs(redis)


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def quotas(redis_jobs, store, usage, now):
    return Quotas(redis_jobs, store, usage, clock=lambda: now[0])


def test_bytes_are_counted_by_owner_without_a_recount(usage, accept):
    accept(1, owner="ann")
    accept(2, size=3000, owner="ben")
    usage.recount()
    assert usage.bytes_of("ben") - usage.bytes_of("ann") == pytest.approx(2000, abs=100)
    assert usage.bytes_of("cy") == 0

    usage.accept(accept(3, size=700, owner="cy"))

    assert usage.bytes_of("cy") == 700
    usage.recount()
    assert usage.bytes_of("cy") >= 700


def test_an_upload_beyond_the_store_limit_is_refused(store, accept):
    usage = StoreUsage(store, max_bytes=100_000)
    accept(1, size=60_000)
    usage.recount()

    usage.require_room(30_000)
    with pytest.raises(StoreFull, match="of the 100000 bytes"):
        usage.require_room(40_000)
    usage.accept(accept(2, size=30_000))
    with pytest.raises(StoreFull):
        usage.require_room(30_000)


def test_a_nearly_full_disk_refuses_uploads(usage, monkeypatch):
    disk_usage = namedtuple("disk_usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk_usage(RESERVED_BYTES + 1000))

    usage.require_room(1000)
    with pytest.raises(StoreFull, match="nearly full"):
        usage.require_room(1001)


class TestReservations:
    def test_jobs_up_to_the_limit_are_reserved(self, quotas, accept):
        for number in range(2):
            assert quotas.reserve(job_id(number), ANN)
            accept(number, size=5, owner="ann")

        assert not quotas.reserve(job_id(2), ANN)

    def test_each_owner_has_a_separate_limit(self, quotas, accept):
        other = ANN.model_copy(update={"name": "cid"})

        taken = [quotas.reserve(job_id(number), ANN) for number in range(2)]

        assert all([*taken, quotas.reserve(job_id(2), other)])

    @pytest.mark.parametrize("owner", [None, BEN])
    def test_without_a_limit_there_is_none(self, quotas, owner):
        assert all(quotas.reserve(job_id(number), owner) for number in range(50))

    def test_a_limit_of_zero_allows_none(self, quotas):
        assert not quotas.reserve(job_id(1), ANN.model_copy(update={"max_queued_jobs": 0}))

    def test_an_ended_job_no_longer_counts(self, quotas, accept, store):
        for number in range(2):
            quotas.reserve(job_id(number), ANN)
            accept(number, size=5, owner="ann")
        (store.upload_path(job_id(0)).parents[1] / "result").mkdir()

        assert quotas.reserve(job_id(2), ANN)
        assert not quotas.reserve(job_id(3), ANN)

    def test_a_released_job_no_longer_counts(self, quotas):
        for number in range(2):
            quotas.reserve(job_id(number), ANN)
        quotas.release(job_id(0), ANN)
        quotas.release(job_id(9), None)

        assert quotas.reserve(job_id(2), ANN)

    def test_a_reservation_without_a_stored_job_expires(self, quotas, now):
        for number in range(2):
            quotas.reserve(job_id(number), ANN)

        now[0] += ACCEPT_SECONDS
        assert not quotas.reserve(job_id(2), ANN)
        now[0] += 1
        assert quotas.reserve(job_id(2), ANN)

    def test_concurrent_reservations_stop_exactly_at_the_limit(self, redis_jobs, redis):
        def reserve(number):
            return RedisJobs(redis).reserve_open(job_id(number), "ann", 0.0, 7)

        with ThreadPoolExecutor(16) as pool:
            reserved = list(pool.map(reserve, range(100)))

        assert sum(reserved) == len(redis_jobs.open_jobs("ann")) == 7

    def test_an_accepted_job_keeps_the_time_of_its_reservation(self, redis_jobs, redis):
        redis_jobs.reserve_open(job_id(1), "ann", 5.0, 7)
        for one in (ticket(1), ticket(2), ticket(3, owner=None)):
            redis_jobs.add(one)

        assert redis_jobs.open_jobs("ann").keys() == {job_id(1), job_id(2)}
        assert redis_jobs.open_jobs("ann")[job_id(1)] == 5.0
        assert redis.keys("rollout:open:*") == [b"rollout:open:ann"]


class TestBytes:
    def test_bytes_up_to_the_limit_are_accepted(self, quotas, usage, accept):
        accept(1, size=5, owner="ann")
        usage.recount()
        held = usage.bytes_of("ann")
        owner = ANN.model_copy(update={"max_stored_bytes": held + 10})

        quotas.require_bytes(owner, 10)
        with pytest.raises(StorageQuotaExceeded, match=f"{held} of the {held + 10} bytes"):
            quotas.require_bytes(owner, 11)

    @pytest.mark.parametrize("owner", [None, BEN])
    def test_without_a_limit_there_is_none(self, quotas, owner):
        quotas.require_bytes(owner, 10**18)
