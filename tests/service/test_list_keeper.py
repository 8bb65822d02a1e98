from datetime import UTC, datetime

import pytest

from rollout_core.jobs.records import JobRecord
from service import list_keeper
from service.job_lists import STATES, list_key

ENDED = JobRecord().ended("canceled", datetime.now(UTC))


def listed(redis):
    """Return the number of jobs in each list."""
    return [redis.zcard(list_key(None, state)) for state in (None, *STATES)]


def test_a_job_that_ends_moves_to_the_list_of_its_state(reconciler, submit, worker, redis):
    ended, waiting = submit(), submit()
    reconciler.reconcile()
    worker.succeed(ended)

    reconciler.reconcile()

    assert listed(redis) == [2, 1, 1, 0, 0]
    assert redis.zrange(list_key(None, "succeeded"), 0, -1) == [ended.encode()]
    assert redis.zrange(list_key(None, "open"), 0, -1) == [waiting.encode()]


def test_a_job_whose_worker_died_after_its_end_moves_in_its_turn(reconciler, submit, store, redis):
    """Its record is still there."""
    job_id = submit()
    reconciler.reconcile()
    store.end(job_id, ENDED)

    for _ in range(2):
        reconciler.reconcile()

    assert listed(redis) == [1, 0, 0, 0, 1]


@pytest.mark.parametrize("state", [None, "open"])
def test_lists_of_an_older_version_are_completed(reconciler, submit, redis, state):
    """It writes, and removes from, the list of all jobs only."""
    ids = [submit() for _ in range(3)]
    reconciler.reconcile()
    redis.zrem(list_key(None, state), ids[0])

    reconciler.reconcile()

    assert listed(redis) == [3, 3, 0, 0, 0]


def test_a_redis_that_lost_its_data_gets_all_lists_again(reconciler, submit, worker, redis):
    ids = [submit() for _ in range(3)]
    worker.succeed(ids[0])
    reconciler.reconcile()
    redis.flushall()

    reconciler.reconcile()

    assert listed(redis) == [3, 2, 1, 0, 0]


def test_lists_are_compared_from_time_to_time(reconciler, submit, redis, monkeypatch):
    submit()
    reconciler.reconcile()
    for state in (None, "open"):
        redis.zadd(list_key(None, state), {"f" * 32: 1.0})
    reconciler.reconcile()
    assert listed(redis) == [2, 2, 0, 0, 0]

    monkeypatch.setattr(list_keeper, "COMPARE_SECONDS", 0)
    for _ in range(2):
        reconciler._keeper._compare_at = 0.0
        reconciler.reconcile()

    assert listed(redis) == [1, 1, 0, 0, 0]


def test_a_job_deleted_without_redis_leaves_the_lists(reconciler, submit, store, redis):
    job_id = submit()
    reconciler.reconcile()
    store.delete(job_id)

    reconciler.reconcile()

    assert listed(redis) == [0, 0, 0, 0, 0]
    assert not list(redis.scan_iter("rollout:job:*"))
