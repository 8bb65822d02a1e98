"""The order of waiting jobs, sorted by the script in a real Redis."""

from datetime import timedelta

import pytest
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from rollout_core.contract import ExplainRequest
from rollout_core.jobs.records import Ticket
from rollout_core.jobs.redis_records import queue_name
from service.fair_order import LOW_SECONDS, ORDER_KEY, ORDER_SECONDS
from service.redis_jobs import RedisJobs

QUEUE = queue_name("fake")


@pytest.fixture
def jobs(redis):
    return RedisJobs(redis)


@pytest.fixture
def tickets():
    """All tickets that `add` has made, by id."""
    return {}


@pytest.fixture
def add(jobs, tickets):
    """Queue jobs by short names such as `a1`; its letter is the owner, `_` for none."""

    def add_all(*names, age=0.0, priority="normal"):
        for name in names:
            ticket = Ticket.model_construct(
                id=name,
                request=ExplainRequest(model="fake"),
                created_at=jobs.now() - timedelta(seconds=age),
                upload_bytes=1,
                owner=None if name[0] == "_" else name[0],
            )
            tickets[name] = ticket
            assert jobs.add(ticket, priority=priority)

    return add_all


@pytest.fixture
def order(redis):
    return lambda: [job.decode() for job in redis.lrange(f"rq:queue:{QUEUE}", 0, -1)]


@pytest.fixture
def start(redis, jobs):
    """Let a worker of RQ take the next job, as far as its start; return the job."""

    def take():
        queue = jobs._queue("fake")
        worker = SimpleWorker([queue], connection=redis, serializer=JSONSerializer)
        job, _ = worker.dequeue_job_and_maintain_ttl(None)
        worker.prepare_execution(job)
        worker.prepare_job_execution(job, remove_from_intermediate_queue=True)
        return job.id

    return take


def test_one_owner_is_served_in_the_order_of_arrival(add, order):
    add("a1", "a2", "a3")

    assert order() == ["a1", "a2", "a3"]


def test_jobs_without_an_owner_are_served_in_the_order_of_arrival(add, order):
    add("_1", "_2", "_3")

    assert order() == ["_1", "_2", "_3"]


def test_owners_alternate(add, order):
    add("a1", "a2", "a3", "a4", "b1", "b2", "c1")

    assert order() == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_an_owner_whose_jobs_run_goes_after_one_without(add, order, start):
    add("a1", "a2", "a3", "a4", "a5")
    assert [start(), start()] == ["a1", "a2"]
    add("b1", "b2", "b3", "b4")

    assert order() == ["b1", "b2", "a3", "b3", "a4", "b4", "a5"]


def test_a_job_that_was_taken_counts_as_running(add, order, redis):
    add("a1", "a2")
    redis.lmove(f"rq:queue:{QUEUE}", f"rq:queue:{QUEUE}:intermediate")
    add("b1")

    assert order() == ["b1", "a2"]


def test_a_job_that_ended_counts_no_longer(add, order, start, jobs, redis, tickets):
    add("a1", "a2", "a3")
    start()
    add("b1", "b2")
    assert order() == ["b1", "a2", "b2", "a3"]
    redis.delete(f"rq:wip:{QUEUE}")
    jobs.sort("fake", tickets)

    assert order() == ["b1", "a2", "b2", "a3"]
    add("a4", "c1")
    assert order() == ["b1", "a2", "c1", "b2", "a3", "a4"]


def test_a_job_that_was_handed_back_stays_its_owners_first(add, order, redis):
    add("a2", "a3", "b1")
    add("a1")
    redis.lrem(f"rq:queue:{QUEUE}", 1, "a1")
    redis.lpush(f"rq:queue:{QUEUE}", "a1")
    add("b2")

    assert order() == ["a1", "b1", "a2", "b2", "a3"]


def test_low_priority_goes_after_all_others(add, order):
    add("a1", "a2", priority="low")
    add("b1", "b2", "a3")

    assert order() == ["b1", "a3", "b2", "a1", "a2"]


def test_low_priority_alternates_among_owners_too(add, order):
    add("a1", "a2", "a3", "b1", "b2", priority="low")

    assert order() == ["a1", "b1", "a2", "b2", "a3"]


def test_low_priority_ends_in_time(add, order):
    add("a1", age=LOW_SECONDS + 5, priority="low")
    add("a2", age=LOW_SECONDS - 60, priority="low")
    add("b1", "b2")

    assert order() == ["a1", "b1", "b2", "a2"]


def test_a_job_of_an_earlier_release_has_no_owner_until_the_queue_is_tidied(
    add, order, redis, jobs, tickets
):
    add("a1", "a2", "c1")
    redis.delete(ORDER_KEY + QUEUE)
    add("b1", "b2", "_1")
    assert order() == ["a1", "b1", "c1", "b2", "a2", "_1"]

    jobs.sort("fake", tickets)
    assert order() == ["a1", "b1", "c1", "_1", "b2", "a2"]


def test_what_is_known_of_a_job_is_forgotten_once_it_has_ended(add, jobs, redis, tickets):
    add("a1", "a2", "a3")
    jobs.dequeue("a1", "fake")
    jobs.dequeue("a2", "fake")

    jobs.sort("fake", {"a2": tickets["a2"]})

    assert redis.hkeys(ORDER_KEY + QUEUE) == [b"a2", b"a3"]
    assert 0 < redis.ttl(ORDER_KEY + QUEUE) <= ORDER_SECONDS


def test_a_lost_job_is_queued_again_in_its_fair_place(add, order, jobs):
    add("a1", "a2", "a3", "b1")
    jobs.dequeue("b1", "fake")
    jobs.requeue("b1", "fake")

    assert order() == ["a1", "b1", "a2", "a3"]


def test_an_owners_waiting_jobs_are_counted(add, jobs, start):
    add("a1", "a2", "a3", "b1", "_1")
    start()

    assert [jobs.waiting_of(owner, "fake") for owner in ("a", "b", "c", None)] == [2, 1, 0, 1]


def test_a_long_queue_is_kept_whole(add, order, redis):
    waiting = [f"a{number}" for number in range(9000)]
    redis.rpush(f"rq:queue:{QUEUE}", *waiting)
    redis.hset(ORDER_KEY + QUEUE, mapping=dict.fromkeys(waiting, "0:a"))
    add("b1")

    assert order() == [waiting[0], "b1", *waiting[1:]]


def calls_of(redis, command):
    return redis.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


def test_a_job_that_waits_alone_is_queued_without_a_look_at_those_that_run(add, redis, start):
    add("a1")
    start()
    before = calls_of(redis, "zrange")

    add("a2")
    assert calls_of(redis, "zrange") == before

    add("b1")  # the first that has another one before it
    assert calls_of(redis, "zrange") == before + 1
