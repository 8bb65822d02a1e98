import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core.errors import StoreUnavailable
from service import jobs as jobs_module
from service.errors import NotCounted
from service.jobs import Jobs
from service.ledger import Ledger
from service.readiness import check_ready
from service.routes.artifacts import artifact_url
from tests.system.valkey import redis_that_is_away


@pytest.fixture
def counted(redis, store):
    ledger = Ledger(redis)
    ledger.update({})
    return Jobs(redis, store, artifact_url=artifact_url, ledger=ledger)


def test_the_ready_workers_of_each_model_are_told(counted, store, announce):
    announce("a", worker="1")
    announce("b", worker="2", ready=False)

    assert check_ready(store, counted) == {"a": 1, "b": 0}


def test_a_store_that_was_not_counted_is_not_ready(jobs, store, monkeypatch):
    monkeypatch.setattr(jobs_module, "READY_SECONDS", 0.01)

    with pytest.raises(NotCounted):
        check_ready(store, jobs)


def test_a_store_that_cannot_be_written_is_not_ready(counted, store, monkeypatch):
    def fail():
        raise StoreUnavailable("no")

    monkeypatch.setattr(store, "check_writable", fail)

    with pytest.raises(StoreUnavailable):
        check_ready(store, counted)


def test_without_redis_it_is_not_ready(store):
    with pytest.raises(RedisConnectionError):
        check_ready(store, Jobs(redis_that_is_away(), store, artifact_url=artifact_url))
