from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from rollout_core.contract import ExplainRequest
from rollout_core.jobs.records import Ticket
from service.redis_jobs import RedisJobs
from service.usage import ACCEPT_SECONDS, Owner, Quotas

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
def redis_jobs(redis):
    return RedisJobs(redis)


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def quotas(redis_jobs, store, now):
    return Quotas(redis_jobs, store, clock=lambda: now[0])


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
