from datetime import UTC, datetime

import pytest

from rollout_core.contract import ExplainRequest
from rollout_core.errors import InvalidRequest
from rollout_core.jobs.records import Ticket
from service import listing
from service.listing import JOBS_KEY, JobList, Place


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
    monkeypatch.setattr(listing, "CHUNK", 3)
    redis.zadd(JOBS_KEY, {job_id(number): number for number in range(10)})

    ids = [place.job_id for place in jobs.newest_first()]

    assert ids == [job_id(number) for number in range(9, -1, -1)]


def test_places_after_another_leave_it_out(jobs, redis):
    redis.zadd(JOBS_KEY, {job_id(number): number for number in range(5)})

    rest = list(jobs.newest_first(after=Place(3.0, job_id(3))))

    assert rest == [Place(float(number), job_id(number)) for number in (2, 1, 0)]


def test_jobs_of_the_same_time_are_neither_lost_nor_repeated(jobs, redis, monkeypatch):
    monkeypatch.setattr(listing, "CHUNK", 4)
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
