import json
import zlib
from datetime import UTC, datetime

import pytest
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from rollout_core.contract import ExplainRequest
from rollout_core.errors import InvalidRequest
from rollout_core.jobs.records import JobRecord, Ticket
from rollout_core.jobs.redis_records import TASK, job_key
from service import redis_jobs
from service.redis_jobs import JOBS_KEY, MAX_DELIVERIES, Delivery, JobList, Place, Register


@pytest.fixture
def register(redis):
    return Register(redis)


@pytest.fixture
def ticket():
    return Ticket(
        id="1" * 32,
        request=ExplainRequest(model="fake"),
        created_at=datetime.now(UTC),
        upload_bytes=1,
        owner="ann",
    )


def test_a_job_is_entered_once(register, ticket):
    assert register.enter(ticket)
    assert not register.enter(ticket)

    assert register.record(ticket.id) == JobRecord()
    assert register.delivery.waiting("fake") == 1
    assert register.list.owners() == {ticket.id: "ann"}
    assert list(register.recorded()) == [ticket.id]


def test_a_job_is_entered_after_the_attempts_that_it_has_seen(register, ticket):
    register.enter(ticket, 2)

    assert register.record(ticket.id) == JobRecord(attempt=2)


def test_of_two_who_enter_a_job_at_once_one_does(register, ticket, monkeypatch):
    add = register.delivery.add

    def enter_elsewhere_first(*arguments):
        monkeypatch.setattr(register.delivery, "add", add)
        assert register.enter(ticket)
        add(*arguments)

    monkeypatch.setattr(register.delivery, "add", enter_elsewhere_first)

    assert not register.enter(ticket)
    assert register.delivery.waiting("fake") == 1


def test_a_request_to_cancel_is_for_whoever_has_the_job(register, ticket):
    register.enter(ticket)

    assert register.request_cancel(ticket.id).cancel_requested
    assert register.record(ticket.id).cancel_requested


def test_a_request_to_cancel_brings_no_record_back(register, ticket, redis):
    assert register.request_cancel(ticket.id) == JobRecord()
    assert not redis.exists(job_key(ticket.id))


def test_a_job_that_has_ended_keeps_its_place(register, ticket):
    register.enter(ticket)

    register.close(ticket.id)

    assert register.record(ticket.id) is None
    assert register.list.owners() == {ticket.id: "ann"}


def test_a_job_that_is_gone_keeps_nothing(register, ticket):
    register.enter(ticket)

    register.strike(ticket.id, "ann")

    assert register.record(ticket.id) is None
    assert register.list.owners() == {}


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


def job_id(number):
    return f"{number:032x}"


@pytest.fixture
def jobs(redis):
    return JobList(redis)


def test_a_place_survives_being_a_cursor():
    place = Place(1795400000.123457, job_id(7))

    assert Place.parse(str(place)) == place


@pytest.mark.parametrize(
    "text", ["", "nonsense", "é", "MTIz", "YSBi", "%00", "e30=", "bmFuIHg=", "aW5mIHg="]
)
def test_a_strange_cursor_is_refused(text):
    with pytest.raises(InvalidRequest):
        Place.parse(text)


def test_jobs_are_added_and_removed_with_a_transaction(jobs, redis):
    created = datetime(2026, 11, 1, 12, tzinfo=UTC)
    ticket = Ticket(
        id=job_id(1), request=ExplainRequest(model="a"), created_at=created, upload_bytes=1
    )
    with redis.pipeline() as pipe:
        jobs.add(ticket, pipe)
        assert redis.zcard(JOBS_KEY) == 0
        pipe.execute()
    assert redis.zscore(JOBS_KEY, job_id(1)) == created.timestamp()

    with redis.pipeline() as pipe:
        jobs.remove(job_id(1), None, pipe)
        pipe.execute()
    assert redis.zcard(JOBS_KEY) == 0


def test_places_come_newest_first_across_chunks(jobs, redis, monkeypatch):
    monkeypatch.setattr(redis_jobs, "CHUNK", 3)
    redis.zadd(JOBS_KEY, {job_id(number): number for number in range(10)})

    ids = [place.job_id for place in jobs.newest_first()]

    assert ids == [job_id(number) for number in range(9, -1, -1)]


def test_places_after_another_leave_it_out(jobs, redis):
    redis.zadd(JOBS_KEY, {job_id(number): number for number in range(5)})

    rest = list(jobs.newest_first(after=Place(3.0, job_id(3))))

    assert rest == [Place(float(number), job_id(number)) for number in (2, 1, 0)]


def test_jobs_of_the_same_time_are_neither_lost_nor_repeated(jobs, redis, monkeypatch):
    monkeypatch.setattr(redis_jobs, "CHUNK", 4)
    redis.zadd(JOBS_KEY, {job_id(number): 1.0 + number // 3 for number in range(9)})

    whole = list(jobs.newest_first())

    assert [place.job_id for place in whole] == [job_id(number) for number in range(8, -1, -1)]
    for index, place in enumerate(whole):
        assert list(jobs.newest_first(after=place)) == whole[index + 1 :]


def test_a_cursor_whose_job_was_deleted_still_points(jobs, redis):
    redis.zadd(JOBS_KEY, {job_id(1): 1.0, job_id(3): 3.0})

    assert [place.created for place in jobs.newest_first(after=Place(2.0, job_id(2)))] == [1.0]


def test_every_owner_has_a_list(jobs, redis):
    created = datetime(2026, 11, 1, 12, tzinfo=UTC)
    owners = {job_id(1): None, job_id(2): "ann", job_id(3): "ben", job_id(4): "ann"}
    with redis.pipeline() as pipe:
        for name, owner in owners.items():
            request = ExplainRequest(model="a")
            jobs.add(
                Ticket(id=name, request=request, created_at=created, upload_bytes=1, owner=owner),
                pipe,
            )
        pipe.execute()

    assert jobs.owners() == owners
    assert [place.job_id for place in jobs.newest_first("ann")] == [job_id(4), job_id(2)]
    assert [place.job_id for place in jobs.newest_first()] == [job_id(1)]
    with redis.pipeline() as pipe:
        jobs.remove(job_id(2), "ann", pipe)
        pipe.execute()
    assert [place.job_id for place in jobs.newest_first("ann")] == [job_id(4)]
