"""The account of a job that has not ended, at each place where the job may be."""

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from rollout_core.contract import ExplainRequest
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.records import JobRecord, Progress, Ticket
from rollout_core.jobs.redis_records import job_key, queue_name
from service.redis_jobs import RedisJobs
from tests.chaos.account import account

JOB = "0" * 32
NOW = datetime.now(UTC)


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "data")


@pytest.fixture
def system(redis, redis_url, store):
    """What the account needs of a system; each client of it is a new one."""

    class FakeSystem(SimpleNamespace):
        @property
        def redis(self) -> Redis:
            return Redis.from_url(redis_url)

    return FakeSystem(store=store)


@pytest.fixture
def ticket(store):
    ticket = Ticket(id=JOB, request=ExplainRequest(model="fake"), created_at=NOW, upload_bytes=5)
    with store.receiving() as path:
        path.write_bytes(b"video")
        store.accept(ticket, path)
    return ticket


@pytest.fixture
def queue(redis):
    return Queue(queue_name("fake"), connection=redis, serializer=JSONSerializer)


def test_a_waiting_job(system, redis, ticket):
    RedisJobs(redis).add(ticket)
    assert account(system, JOB) == (
        f"{JOB}: record: attempt 0, no lease; "
        "delivery: waits as 1 of 1, status queued, worker None; store: open, latest attempt 0"
    )


def test_a_job_that_a_worker_has_taken_but_not_claimed(system, redis, ticket, queue):
    RedisJobs(redis).add(ticket)
    redis.lmove(queue.key, queue.intermediate_queue.key)
    assert "delivery: taken, status queued" in account(system, JOB)


def test_a_running_job_whose_worker_is_halted(system, redis, store, ticket, queue):
    store.begin_attempt(JOB, 2)
    record = JobRecord(
        attempt=2,
        lease_until=NOW - timedelta(seconds=30),
        progress=Progress(stage="explain", done=1, total=2),
        cancel_requested=True,
    )
    redis.set(job_key(JOB), record.to_json())
    redis.zadd(queue.started_job_registry.key, {f"{JOB}:execution": NOW.timestamp() + 6})
    text = account(system, JOB)
    assert re.search(r"record: attempt 2, lease over since \d+\.\d s, explain", text)
    assert " s, explain, cancel_requested; delivery: started" in text
    assert text.endswith("store: open, latest attempt 2")


def test_a_job_that_redis_has_lost(system, ticket):
    assert "record: none; delivery: nowhere, status None" in account(system, JOB)


def test_a_job_without_a_folder(system, redis):
    redis.set(job_key(JOB), JobRecord().to_json())
    assert account(system, JOB).endswith("delivery: unknown model; store: no folder")
