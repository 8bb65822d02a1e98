import json
import zlib

import pytest
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from rollout_core.jobs.redis_records import TASK
from service.delivery import MAX_DELIVERIES, Delivery

IDS = [f"{number:032x}" for number in range(3)]


@pytest.fixture
def delivery(redis):
    return Delivery(redis)


def add(delivery, redis, *job_ids, model="fake"):
    for job_id in job_ids:
        with redis.pipeline() as pipe:
            delivery.add(job_id, model, pipe)
            pipe.execute()


def test_only_the_id_travels_and_as_json(delivery, redis):
    add(delivery, redis, IDS[0])

    job = RqJob.fetch(IDS[0], connection=redis, serializer=JSONSerializer)

    assert job.func_name == TASK
    assert (job.args, job.kwargs) == ([IDS[0]], {})
    assert job.origin == "rollout-fake"
    assert json.loads(zlib.decompress(redis.hget(job.key, "data"))) == [TASK, None, [IDS[0]], {}]


def test_rq_neither_ends_keeps_nor_gives_up_a_job(delivery, redis):
    add(delivery, redis, IDS[0])

    job = RqJob.fetch(IDS[0], connection=redis, serializer=JSONSerializer)

    assert job.timeout == -1
    assert job.result_ttl == 0
    assert job.retries_left == MAX_DELIVERIES


def test_adding_is_part_of_the_callers_transaction(delivery, redis):
    with redis.pipeline() as pipe:
        delivery.add(IDS[0], "fake", pipe)
        assert delivery.waiting("fake") == 0
        pipe.execute()

    assert delivery.waiting("fake") == 1


def test_places_are_counted_from_one_in_each_models_queue(delivery, redis):
    add(delivery, redis, IDS[0], IDS[1])
    add(delivery, redis, IDS[2], model="other")

    assert [delivery.position(job_id, "fake") for job_id in IDS] == [1, 2, None]
    assert delivery.position(IDS[2], "other") == 1
    assert (delivery.waiting("fake"), delivery.waiting("other")) == (2, 1)


def test_a_waiting_job_can_be_taken_back(delivery, redis):
    add(delivery, redis, *IDS)

    delivery.withdraw(IDS[1], "fake")

    assert [delivery.position(job_id, "fake") for job_id in IDS] == [1, None, 2]
    assert not redis.exists(RqJob.key_for(IDS[1]))


def test_a_job_that_a_worker_holds_is_left_to_it(delivery, redis):
    add(delivery, redis, IDS[0])
    redis.lpop("rq:queue:rollout-fake")

    delivery.withdraw(IDS[0], "fake")

    assert redis.exists(RqJob.key_for(IDS[0]))


def test_a_job_that_two_services_find_lost_is_queued_once(delivery, redis):
    add(delivery, redis, IDS[0])
    redis.lmove("rq:queue:rollout-fake", "rq:queue:rollout-fake:intermediate")

    for _ in range(2):
        delivery.repeat(IDS[0], "fake")

    assert delivery.waiting("fake") == 1
    assert redis.llen("rq:queue:rollout-fake:intermediate") == 0
