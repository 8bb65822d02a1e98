from datetime import UTC, datetime

import pytest

from rollout_core.errors import InvalidRequest
from service import job_lists
from service.inventory import StoredJob
from service.job_lists import JOBS_KEY, JobLists, Place, list_key

CREATED_AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def job_id(number):
    return f"{number:032x}"


def stored(state="open", *, owner=None, created_at=CREATED_AT):
    return StoredJob(1, 5, state, owner, created_at)


@pytest.fixture
def lists(redis):
    return JobLists(redis)


def ids(places):
    return [place.job_id for place in places]


class TestPlace:
    def test_a_place_can_be_read_from_its_cursor(self):
        place = Place(1795400000.123457, job_id(7))

        assert Place.parse(str(place)) == place

    @pytest.mark.parametrize(
        "text", ["", "nonsense", "é", "MTIz", "YSBi", "%00", "e30=", "bmFuIHg=", "aW5mIHg="]
    )
    def test_an_invalid_cursor_is_refused(self, text):
        with pytest.raises(InvalidRequest):
            Place.parse(text)


class TestList:
    def test_jobs_are_listed_by_creation_time(self, lists, redis):
        lists.put({job_id(1): stored(), job_id(2): stored("failed")})

        assert redis.zscore(JOBS_KEY, job_id(1)) == CREATED_AT.timestamp()
        assert redis.zcard(JOBS_KEY) == 2

    def test_places_come_newest_first_across_chunks(self, lists, redis, monkeypatch):
        monkeypatch.setattr(job_lists, "CHUNK", 3)
        redis.zadd(JOBS_KEY, {job_id(number): number for number in range(10)})

        ids = [place.job_id for place in lists.newest_first()]

        assert ids == [job_id(number) for number in range(9, -1, -1)]

    def test_places_after_another_leave_it_out(self, lists, redis):
        redis.zadd(JOBS_KEY, {job_id(number): number for number in range(5)})

        rest = list(lists.newest_first(after=Place(3.0, job_id(3))))

        assert rest == [Place(float(number), job_id(number)) for number in (2, 1, 0)]

    def test_jobs_of_the_same_time_are_neither_lost_nor_repeated(self, lists, redis, monkeypatch):
        monkeypatch.setattr(job_lists, "CHUNK", 4)
        redis.zadd(JOBS_KEY, {job_id(number): 1.0 + number // 3 for number in range(9)})

        whole = list(lists.newest_first())

        assert [place.job_id for place in whole] == [job_id(number) for number in range(8, -1, -1)]
        for index, place in enumerate(whole):
            assert list(lists.newest_first(after=place)) == whole[index + 1 :]

    def test_the_cursor_of_a_deleted_job_still_works(self, lists, redis):
        redis.zadd(JOBS_KEY, {job_id(1): 1.0, job_id(3): 3.0})

        rest = lists.newest_first(after=Place(2.0, job_id(2)))

        assert [place.created for place in rest] == [1.0]

    def test_each_owner_has_lists(self, lists):
        owners = {job_id(1): None, job_id(2): "ann", job_id(3): "ben", job_id(4): "ann"}
        lists.put({one: stored(owner=owner) for one, owner in owners.items()})

        assert lists.owners() == {None, "ann", "ben"}
        assert ids(lists.newest_first("ann")) == [job_id(4), job_id(2)]
        assert ids(lists.newest_first()) == [job_id(1)]

    def test_the_list_of_a_state_is_apart(self, lists):
        lists.put({job_id(1): stored(), job_id(2): stored("failed"), job_id(3): stored("unknown")})

        assert ids(lists.newest_first(state="failed")) == [job_id(2)]
        assert ids(lists.newest_first(state="open")) == [job_id(3), job_id(1)]

    def test_a_job_that_ends_is_moved(self, lists):
        lists.put({job_id(1): stored(owner="ann")})
        lists.put({job_id(1): stored("canceled", owner="ann")})

        assert lists.of("ann") == {
            None: {job_id(1)},
            "open": set(),
            "succeeded": set(),
            "failed": set(),
            "canceled": {job_id(1)},
        }

    def test_a_job_without_a_readable_ticket_is_not_listed(self, lists, redis):
        lists.put({job_id(1): stored(created_at=None)})

        assert redis.keys() == []

    def test_more_jobs_than_fit_into_a_command_are_listed(self, lists, monkeypatch):
        monkeypatch.setattr(job_lists, "CHUNK", 3)

        lists.put({job_id(number): stored("failed") for number in range(10)})

        assert len(lists.of(None)["failed"]) == len(lists.of(None)[None]) == 10

    def test_jobs_not_ended_are_read_at_once_from_a_place_on(self, lists, redis, monkeypatch):
        monkeypatch.setattr(job_lists, "CHUNK", 2)
        redis.zadd(list_key(None, "open"), {job_id(number): number // 2 for number in range(6)})

        assert ids(lists.not_ended(None, None)) == [job_id(number) for number in range(5, -1, -1)]
        assert ids(lists.not_ended(None, Place(1.0, job_id(3)))) == [
            job_id(2),
            job_id(1),
            job_id(0),
        ]


class TestDoubt:
    def test_lists_of_an_older_version_disagree(self, lists, redis):
        lists.put({job_id(1): stored(owner="ann"), job_id(2): stored(owner="ben")})
        assert lists.disagree(["ann", "ben", None]) == set()

        redis.zadd(list_key("ben"), {job_id(3): 1.0})

        assert lists.disagree(["ann", "ben", None]) == {"ben"}

    def test_an_emptied_redis_holds_no_complete_lists(self, lists, redis):
        assert lists.holder() is None
        lists.set_complete()
        assert lists.holder() == redis.info("server")["run_id"]

        redis.flushall()

        assert lists.holder() is None
