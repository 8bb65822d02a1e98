import json
import zlib
from datetime import UTC, datetime

import pytest
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from rollout_core.contract import ExplainRequest
from rollout_core.jobs.records import JobRecord, Ticket
from rollout_core.jobs.redis_records import TASK, job_key
from service import job_lists
from service.redis_jobs import MAX_DELIVERIES, RedisJobs

QUEUE_KEY = "rq:queue:rollout-fake"

CREATED_AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def job_id(number):
    return f"{number:032x}"


IDS = [job_id(number) for number in range(3)]


def make_ticket(job_id, *, model="fake", owner=None):
    return Ticket(
        id=job_id,
        request=ExplainRequest(model=model),
        created_at=CREATED_AT,
        upload_bytes=1,
        owner=owner,
    )


@pytest.fixture
def jobs(redis):
    return RedisJobs(redis)


@pytest.fixture
def ticket():
    return make_ticket("1" * 32, owner="ann")


@pytest.fixture
def add(jobs):
    """Add jobs to the queue of a model."""

    def add_all(*job_ids, model="fake"):
        for one in job_ids:
            assert jobs.add(make_ticket(one, model=model))

    return add_all


def record_of(jobs, ticket):
    text = jobs.records.get_many_raw([ticket.id])[ticket.id]
    return None if text is None else JobRecord.from_json(text)


def listed(jobs, owner="ann"):
    return [place.job_id for place in jobs.lists.newest_first(owner)]


class TestAdd:
    def test_a_job_is_added_once(self, jobs, ticket):
        assert jobs.add(ticket)
        assert not jobs.add(ticket)

        assert record_of(jobs, ticket) == JobRecord()
        assert jobs.waiting("fake") == 1
        assert listed(jobs) == [ticket.id]
        assert list(jobs.open_jobs("ann")) == [ticket.id]
        assert list(jobs.records.ids()) == [ticket.id]

    def test_the_record_keeps_the_number_of_the_latest_attempt(self, jobs, ticket):
        jobs.add(ticket, 2)

        assert record_of(jobs, ticket) == JobRecord(attempt=2)

    def test_two_concurrent_adds_queue_the_job_once(self, jobs, ticket, monkeypatch):
        enqueue = jobs._enqueue

        def add_elsewhere_first(*arguments):
            monkeypatch.setattr(jobs, "_enqueue", enqueue)
            assert jobs.add(ticket)
            return enqueue(*arguments)

        monkeypatch.setattr(jobs, "_enqueue", add_elsewhere_first)

        assert not jobs.add(ticket)
        assert jobs.waiting("fake") == 1

    def test_a_failure_before_the_end_writes_nothing(self, jobs, ticket, redis, monkeypatch):
        def fail(*_):
            raise ZeroDivisionError

        monkeypatch.setattr(job_lists, "add", fail)

        with pytest.raises(ZeroDivisionError):
            jobs.add(ticket)

        assert redis.keys(f"*{ticket.id}*") == redis.keys("rollout:*") == []
        assert jobs.waiting("fake") == 0


class TestRecord:
    def test_a_request_to_cancel_is_kept_in_the_record(self, jobs, ticket):
        jobs.add(ticket)

        assert jobs.request_cancel(ticket.id).cancel_requested
        assert record_of(jobs, ticket).cancel_requested

    def test_a_request_to_cancel_does_not_recreate_a_record(self, jobs, ticket, redis):
        assert jobs.request_cancel(ticket.id) == JobRecord()
        assert not redis.exists(job_key(ticket.id))

    def test_a_job_without_record_stays_listed(self, jobs, ticket):
        jobs.add(ticket)

        jobs.records.delete(ticket.id)

        assert record_of(jobs, ticket) is None
        assert listed(jobs) == [ticket.id]

    def test_a_removed_job_leaves_nothing(self, jobs, ticket):
        jobs.add(ticket)

        jobs.remove(ticket.id, "ann")

        assert record_of(jobs, ticket) is None
        assert listed(jobs) == []
        assert jobs.open_jobs("ann") == {}


class TestQueue:
    def test_only_the_id_is_sent_as_json(self, add, redis):
        add(IDS[0])

        job = RqJob.fetch(IDS[0], connection=redis, serializer=JSONSerializer)

        assert job.func_name == TASK
        assert (job.args, job.kwargs) == ([IDS[0]], {})
        assert job.origin == "rollout-fake"
        assert json.loads(zlib.decompress(redis.hget(job.key, "data"))) == [
            TASK,
            None,
            [IDS[0]],
            {},
        ]

    def test_rq_never_times_out_keeps_or_gives_up_a_job(self, add, redis):
        add(IDS[0])

        job = RqJob.fetch(IDS[0], connection=redis, serializer=JSONSerializer)

        assert job.timeout == -1
        assert job.result_ttl == 0
        assert job.retries_left == MAX_DELIVERIES

    def test_positions_start_at_one_in_the_queue_of_each_model(self, jobs, add):
        add(IDS[0], IDS[1])
        add(IDS[2], model="other")

        assert [jobs.position(one, "fake") for one in IDS] == [1, 2, None]
        assert jobs.line("fake").waiting == {IDS[0]: 1, IDS[1]: 2}
        assert jobs.position(IDS[2], "other") == 1
        assert (jobs.waiting("fake"), jobs.waiting("other")) == (2, 1)

    @pytest.mark.parametrize("where", ["intermediate", "started", "lost"])
    def test_a_job_outside_the_queue_has_a_position(self, jobs, add, redis, where):
        add(IDS[0], IDS[1])
        add(IDS[2])
        queue = jobs._queue("fake")
        queue.remove(IDS[0])
        if where == "intermediate":
            redis.lpush(queue.intermediate_queue_key, IDS[0])
        elif where == "started":
            redis.zadd(queue.started_job_registry.key, {f"{IDS[0]}:execution": 1e10})

        expected = 3 if where == "lost" else 1
        assert jobs.place(IDS[0], "fake") == expected
        assert jobs.line("fake").position(IDS[0]) == expected
        assert jobs.place(IDS[2], "fake") == jobs.line("fake").position(IDS[2]) == 2

    def test_the_place_of_a_waiting_job_takes_one_command(self, jobs, add, redis):
        add(IDS[0])
        add(IDS[1])
        jobs.place(IDS[0], "fake")  # RQ asks for the version of the server once
        before = redis.info("stats")["total_commands_processed"]
        assert jobs.place(IDS[1], "fake") == 2
        after = redis.info("stats")["total_commands_processed"]
        assert after - before - 1 == 1  # and the INFO

    def test_a_waiting_job_can_be_dequeued(self, jobs, add, redis):
        add(*IDS)

        jobs.dequeue(IDS[1], "fake")

        assert [jobs.position(one, "fake") for one in IDS] == [1, None, 2]
        assert not redis.exists(RqJob.key_for(IDS[1]))

    def test_a_job_that_a_worker_took_is_not_dequeued(self, jobs, add, redis):
        add(IDS[0])
        redis.lpop(QUEUE_KEY)

        jobs.dequeue(IDS[0], "fake")

        assert redis.exists(RqJob.key_for(IDS[0]))

    def test_a_lost_job_found_by_two_services_is_queued_once(self, jobs, add, redis):
        add(IDS[0])
        redis.lmove(QUEUE_KEY, f"{QUEUE_KEY}:intermediate")

        for _ in range(2):
            jobs.requeue(IDS[0], "fake")

        assert jobs.waiting("fake") == 1
        assert redis.llen(f"{QUEUE_KEY}:intermediate") == 0
