from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from rollout_core.contract import ExplainRequest
from rollout_core.jobs.records import Ticket
from service.census import Census
from service.errors import StorageQuotaExceeded
from service.keys import Owner
from service.quota import ACCEPT_SECONDS, OpenJobs, Quotas

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
def census(store):
    return Census(store)


@pytest.fixture
def quotas(open_jobs, store, census, now):
    return Quotas(open_jobs, store, census, clock=lambda: now[0])


@pytest.fixture
def accept(store):
    def one(number):
        with store.receiving() as path:
            path.write_bytes(bytes(5))
            store.accept(ticket(number), path)

    return one


class TestPlaces:
    def test_as_many_as_the_limit(self, quotas, accept):
        for number in range(2):
            assert quotas.take_place(job_id(number), ANN)
            accept(number)

        assert not quotas.take_place(job_id(2), ANN)

    def test_each_owner_has_his_own(self, quotas, accept):
        other = ANN.model_copy(update={"name": "cid"})

        taken = [quotas.take_place(job_id(number), ANN) for number in range(2)]

        assert all([*taken, quotas.take_place(job_id(2), other)])

    @pytest.mark.parametrize("owner", [None, BEN])
    def test_without_a_limit_there_is_none(self, quotas, owner):
        assert all(quotas.take_place(job_id(number), owner) for number in range(50))

    def test_none_at_all(self, quotas):
        assert not quotas.take_place(job_id(1), ANN.model_copy(update={"max_queued_jobs": 0}))

    def test_the_place_of_a_job_that_has_ended_is_free(self, quotas, accept, store):
        for number in range(2):
            quotas.take_place(job_id(number), ANN)
            accept(number)
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
    def test_up_to_the_limit(self, quotas, census, accept):
        accept(1)
        census.take()
        held = census.bytes_of("ann")
        owner = ANN.model_copy(update={"max_stored_bytes": held + 10})

        quotas.require_bytes(owner, 10)
        with pytest.raises(StorageQuotaExceeded, match=f"{held} of the {held + 10} bytes"):
            quotas.require_bytes(owner, 11)

    @pytest.mark.parametrize("owner", [None, BEN])
    def test_without_a_limit_there_is_none(self, quotas, owner):
        quotas.require_bytes(owner, 10**18)
