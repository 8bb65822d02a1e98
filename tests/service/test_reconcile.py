"""Redis loses things; the store, and the next look at it, do not."""

from datetime import UTC, datetime

import pytest

from rollout_core.contract import ExplainRequest
from rollout_core.jobs.records import LEASE_SECONDS, JobRecord, Ticket
from rollout_core.jobs.redis_records import job_key
from service.census import Census
from service.listing import JOBS_KEY
from service.reconcile import Reconciler
from service.register import Register

QUEUE_KEY = "rq:queue:rollout-fake"


@pytest.fixture
def register(redis):
    return Register(redis)


@pytest.fixture
def reconciler(store, register):
    return Reconciler(store, Census(store), register)


@pytest.fixture
def stored(store):
    """A job whose service died before it could queue it."""
    ticket = Ticket(
        id="0" * 32,
        request=ExplainRequest(model="fake"),
        created_at=datetime.now(UTC),
        upload_bytes=5,
        owner="ann",
    )
    with store.receiving() as path:
        path.write_bytes(b"video")
        store.accept(ticket, path)
    return ticket


@pytest.fixture
def submit(queue, store, announce):
    announce()

    def one() -> str:
        with store.receiving() as path:
            path.write_bytes(b"video")
            return queue.submit(ExplainRequest(), path).id

    return one


def waiting(redis) -> list[str]:
    return [job_id.decode() for job_id in redis.lrange(QUEUE_KEY, 0, -1)]


def test_a_job_that_was_stored_but_not_queued_is_queued(reconciler, stored, queue, redis):
    reconciler.reconcile()

    job = queue.get(stored.id, owner="ann")
    assert (job.state, job.queue_position) == ("queued", 1)
    assert redis.zrange(f"{JOBS_KEY}:ann", 0, -1) == [stored.id.encode()]
    reconciler.reconcile()
    assert waiting(redis) == [stored.id]


def test_a_redis_that_comes_back_empty_is_told_all(reconciler, submit, queue, worker, redis):
    ids = [submit() for _ in range(4)]
    worker.succeed(ids[0])
    worker.claim(ids[1])
    queue.cancel(ids[2])
    reconciler.reconcile()
    before = queue.page().jobs
    redis.flushdb()

    reconciler.reconcile()

    after = queue.page().jobs
    assert [job.id for job in after] == ids[::-1]
    assert [job.state for job in after] == ["queued", "canceled", "queued", "succeeded"]
    assert [after[1], after[3]] == [before[1], before[3]]
    assert sorted(waiting(redis)) == sorted([ids[1], ids[3]])


def test_an_attempt_that_redis_forgot_keeps_its_number(reconciler, submit, worker, store, redis):
    """It may still run; were the next one to have its number, it would beat and end for it."""
    job_id = submit()
    worker.claim(job_id)
    store.begin_attempt(job_id, 1)
    redis.flushdb()

    reconciler.reconcile()

    assert worker.record(job_id).lease_until is None
    worker.claim(job_id)
    assert worker.record(job_id).attempt == 2


def test_a_job_that_ends_while_jobs_are_counted_is_not_queued_again(
    reconciler, submit, worker, redis, monkeypatch, caplog
):
    job_id = submit()
    monkeypatch.setattr(reconciler, "_mend_list", lambda: worker.succeed(job_id))

    reconciler.reconcile()

    assert waiting(redis) == []
    assert not caplog.records


def test_a_job_that_a_worker_took_and_lost_is_queued_again(reconciler, submit, redis):
    """RQ keeps it in a list of its own, and looks there after a minute."""
    job_id = submit()
    redis.lmove(QUEUE_KEY, f"{QUEUE_KEY}:intermediate")
    redis.set(f"{QUEUE_KEY}:intermediate:first_seen:{job_id}", 1)

    reconciler.reconcile()
    assert waiting(redis) == []
    reconciler.reconcile()

    assert waiting(redis) == [job_id]
    assert list(redis.scan_iter(f"{QUEUE_KEY}:intermediate*")) == []
    reconciler.reconcile()
    assert waiting(redis) == [job_id]


def test_a_job_that_is_on_its_way_is_left_alone(reconciler, submit, worker, redis):
    job_id = submit()
    reconciler.reconcile()
    worker.claim(job_id)  # takes it off the queue

    for _ in range(3):
        reconciler.reconcile()

    assert waiting(redis) == []
    assert worker.record(job_id).attempt == 1


def test_a_job_whose_worker_is_dead_and_which_rq_has_lost_is_queued_again(
    reconciler, submit, worker, redis
):
    job_id = submit()
    worker.claim(job_id, age_seconds=LEASE_SECONDS + 1)

    for _ in range(2):
        reconciler.reconcile()

    assert waiting(redis) == [job_id]
    assert worker.record(job_id).attempt == 1


def test_what_rq_will_bring_back_itself_is_left_to_it(reconciler, submit, redis):
    job_id = submit()
    redis.lpop(QUEUE_KEY)
    redis.zadd("rq:wip:rollout-fake", {f"{job_id}:execution": 1})

    for _ in range(3):
        reconciler.reconcile()

    assert waiting(redis) == []


def test_what_has_ended_or_is_gone_leaves_no_trace(reconciler, submit, store, redis):
    ended, gone = submit(), submit()
    store.end(ended, JobRecord().ended("canceled", datetime.now(UTC)))
    store.delete(gone)

    reconciler.reconcile()

    assert not redis.exists(job_key(ended), job_key(gone))
    assert redis.zrange(JOBS_KEY, 0, -1) == [ended.encode()]


def test_a_job_that_cannot_be_read_stands_in_nobody_s_way(
    reconciler, submit, settings, redis, stored
):
    odd = submit()
    (settings.data_dir / "jobs" / odd / "job.json").write_text('{"of": "another version"}')

    reconciler.reconcile()

    assert stored.id in waiting(redis)


def test_two_services_that_look_at_once_queue_a_job_once(store, redis, stored):
    reconcilers = [Reconciler(store, Census(store), Register(redis)) for _ in range(2)]

    for reconciler in reconcilers:
        reconciler.reconcile()

    assert waiting(redis) == [stored.id]


def test_the_app_reconciles_while_it_runs(stored, open_client, queue, until):
    open_client()

    until(lambda: queue.get(stored.id, owner="ann").queue_position == 1)
