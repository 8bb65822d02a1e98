import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from service import ledger as module
from service.ledger import (
    COMPARE_SECONDS,
    ENTRIES_KEY,
    LEASES_KEY,
    MAX_SMALL_RESULT_BYTES,
    MIN_RESULT_BYTES,
    SUMS_KEY,
    Entry,
    Ledger,
    Limits,
    Refusal,
    result_bytes,
)
from tests.system.valkey import redis_that_is_away, running_valkey, url_of

FREE = Limits(own=None, shared=None, pending=10**15)


def entry(own=100, *, owner="ann", room=0):
    return Entry(own, own + room, room, owner)


def sums(redis):
    return {field.decode(): int(total) for field, total in redis.hgetall(SUMS_KEY).items()}


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def ledger(redis, now):
    ledger = Ledger(redis, clock=lambda: now[0])
    ledger.update({})
    return ledger


@pytest.fixture
def expire(redis):
    """Let the lease of an entry end."""
    return lambda job_id: redis.zadd(LEASES_KEY, {job_id: 1})


class TestEntry:
    def test_an_upload_counts_with_room_for_its_result(self):
        one = Entry.of_upload("ann", 1_000_000, 400_000)

        assert one == (1_000_000, 21_000_000, 20_600_000, "ann")

    def test_an_attempt_that_writes_more_than_expected_counts_in_full(self):
        assert Entry.of_upload(None, 100, 9_000_000) == (
            9_000_000,
            9_000_000,
            100 - 9_000_000 + MIN_RESULT_BYTES,
            None,
        )

    @pytest.mark.parametrize(
        ("upload_bytes", "expected"),
        [
            (0, MIN_RESULT_BYTES),
            (100, MIN_RESULT_BYTES),
            (1024**2, 20 * 1024**2),
            (20 * 1024**2, MAX_SMALL_RESULT_BYTES),
            (500 * 1024**2, 500 * 1024**2),
        ],
    )
    def test_room_for_a_result_has_a_floor_and_a_ceiling(self, upload_bytes, expected):
        assert result_bytes(upload_bytes) == expected


class TestReserve:
    def test_sums_are_kept_by_owner_store_and_disk(self, ledger, redis):
        ledger.reserve("a", entry(100, room=5), FREE)
        ledger.reserve("b", entry(20, room=7), FREE)
        ledger.reserve("c", entry(3, owner=None), FREE)

        assert sums(redis) == {"owner:ann": 120, "owner:": 3, "shared": 135, "pending": 12}
        ledger.remove("a", "b", "c", "unknown")
        assert sums(redis) == {}
        assert not redis.exists(ENTRIES_KEY)

    @pytest.mark.parametrize(
        ("limits", "refusal"),
        [
            (FREE._replace(own=149), Refusal("own", 100)),
            (FREE._replace(shared=169), Refusal("shared", 110)),
            (FREE._replace(pending=19), Refusal("pending", 10)),
            (FREE._replace(pending=-5), Refusal("pending", 10)),
        ],
    )
    def test_each_limit_is_exact(self, ledger, redis, limits, refusal):
        assert ledger.reserve("a", entry(100, room=10), FREE) is None
        before = sums(redis)

        assert ledger.reserve("b", entry(50, room=10), limits) == refusal
        assert sums(redis) == before
        exact = Limits(*(limit and max(limit + 1, 20) for limit in limits))
        assert ledger.reserve("b", entry(50, room=10), exact) is None

    def test_one_owner_s_bytes_do_not_count_for_another(self, ledger):
        ledger.reserve("a", entry(100), FREE)

        assert ledger.reserve("b", entry(100, owner="ben"), FREE._replace(own=100)) is None

    def test_an_entry_is_replaced_and_may_always_become_smaller(self, ledger, redis):
        ledger.reserve("a", entry(100), FREE)

        assert ledger.reserve("a", entry(90), FREE._replace(own=0)) is None
        assert ledger.reserve("a", entry(91), FREE._replace(own=90)) == Refusal("own", 0)
        assert sums(redis) == {"owner:ann": 90, "shared": 90}

    def test_an_entry_whose_lease_has_ended_counts_no_more(self, ledger, redis, expire):
        ledger.reserve("dead", entry(100), FREE)
        expire("dead")

        assert ledger.reserve("a", entry(100), FREE._replace(own=100)) is None
        assert redis.hkeys(ENTRIES_KEY) == [b"a"]
        assert ledger.reserve("dead", entry(1), FREE._replace(own=100)) == Refusal("own", 100)

    def test_a_lease_from_before_redis_clock_was_set_back_is_shortened(self, ledger, redis):
        ledger.reserve("dead", entry(100), FREE)
        redis.zadd(LEASES_KEY, {"dead": 10**12})

        ledger.reserve("a", entry(1), FREE)

        assert redis.zscore(LEASES_KEY, "dead") < redis.time()[0] + 60

    def test_reservations_of_many_processes_stop_exactly_at_the_limit(self, redis_url, ledger):
        def reserve(number):
            with Redis.from_url(redis_url) as redis:
                mine = Ledger(redis)
                mine.update({})
                start.wait()
                return mine.reserve(f"{number}", entry(300), FREE._replace(own=1000))

        start = threading.Barrier(40)
        with ThreadPoolExecutor(40) as pool:
            results = list(pool.map(reserve, range(40)))

        assert results.count(None) == 3
        assert {result for result in results if result} == {Refusal("own", 900)}


class TestRenew:
    def test_leases_become_longer_and_lost_entries_come_back(self, ledger, redis):
        ledger.reserve("a", entry(100), FREE)
        redis.flushall()

        ledger.renew({"a": entry(100)})

        assert sums(redis) == {"owner:ann": 100, "shared": 100}
        assert redis.zscore(LEASES_KEY, "a") > redis.time()[0]

    def test_a_longer_lease_is_kept(self, ledger, redis):
        ledger.reserve("a", entry(100), FREE, lease_seconds=500)
        before = redis.zscore(LEASES_KEY, "a")

        ledger.renew({"a": entry(100)})

        assert redis.zscore(LEASES_KEY, "a") == before

    def test_a_counted_job_gets_no_lease_again(self, ledger, redis):
        ledger.reserve("a", entry(100), FREE)
        ledger.update({"a": entry(70)})

        ledger.renew({"a": entry(100)})

        assert redis.zscore(LEASES_KEY, "a") is None
        assert sums(redis)["owner:ann"] == 70


class TestUpdate:
    def test_before_the_first_count_nothing_is_reserved(self, redis):
        ledger = Ledger(redis)

        assert ledger.reserve("a", entry(), FREE) == Refusal("counted", 0)
        ledger.update({})
        assert ledger.reserve("a", entry(), FREE) is None

    def test_without_redis_and_a_count_it_is_redis_that_fails(self):
        away = redis_that_is_away()

        with pytest.raises(RedisConnectionError):
            Ledger(away).reserve("a", entry(), FREE)

    def test_after_redis_came_back_empty_nothing_is_reserved_until_a_count(self, ledger, redis):
        ledger.update({"a": entry(100)})
        redis.flushall()

        assert ledger.reserve("b", entry(), FREE) == Refusal("counted", 0)
        ledger.update({"a": entry(100)})
        assert ledger.reserve("b", entry(1), FREE._replace(own=100)) == Refusal("own", 100)

    def test_a_redis_that_was_started_again_must_be_compared_again(self):
        """It may have lost its latest changes."""
        with running_valkey(persist=True) as server, Redis.from_url(url_of(server)) as redis:
            ledger = Ledger(redis)
            ledger.update({"a": entry(100)})
            redis.hdel(ENTRIES_KEY, "a")
            server.stop()
            server.start()

            assert ledger.reserve("b", entry(), FREE) == Refusal("counted", 0)
            ledger.update({"a": entry(100)})
            assert redis.hkeys(ENTRIES_KEY) == [b"a"]

    def test_an_accepted_job_keeps_its_entry_without_a_lease(self, ledger, redis, expire):
        ledger.reserve("a", entry(100), FREE)
        ledger.update({"a": entry(120)})

        assert sums(redis)["owner:ann"] == 120
        assert redis.zcard(LEASES_KEY) == 0

    def test_entries_of_jobs_that_are_gone_are_removed_and_uploads_stay(self, ledger, redis):
        ledger.update({"a": entry(100), "b": entry(20)})
        ledger.reserve("upload", entry(3), FREE)

        ledger.update({"b": entry(20)})

        assert sums(redis)["owner:ann"] == 23

    def test_only_changes_are_sent(self, ledger, monkeypatch):
        jobs = {f"{number}": entry(number) for number in range(1200)}
        ledger.update(jobs)
        sent = []
        monkeypatch.setattr(ledger, "_write", lambda _, fields: sent.append(fields[0]))

        del jobs["9"]
        ledger.update(jobs | {"7": entry(70)}, {"7", "9"})

        assert sorted(sent) == ["7", "9"]

    def test_what_another_process_wrote_wrongly_is_corrected_after_a_time(self, ledger, redis, now):
        ledger.update({"a": entry(100)})
        other = Ledger(redis)
        other.update({"a": entry(100), "ghost": entry(5)})
        other.remove("a")

        now[0] += COMPARE_SECONDS + 1
        ledger.update({"a": entry(100)})

        assert redis.hkeys(ENTRIES_KEY) == [b"a"]
        assert sums(redis) == {"owner:ann": 100, "shared": 100}

    def test_a_count_that_could_not_be_sent_is_sent_again(self, ledger, redis, monkeypatch):
        def fail(*_):
            raise RedisConnectionError

        with monkeypatch.context() as patch, pytest.raises(RedisConnectionError):
            patch.setattr(ledger, "_write", fail)
            ledger.update({"a": entry(100)})

        ledger.update({"a": entry(100)})

        assert sums(redis)["owner:ann"] == 100

    def test_many_jobs_are_sent_in_batches(self, ledger, redis, monkeypatch):
        monkeypatch.setattr(module, "BATCH", 7)

        ledger.update({f"{number}": entry(1) for number in range(100)})

        assert sums(redis)["owner:ann"] == 100


def test_what_is_held_is_the_sum_over_all_entries(ledger):
    assert ledger.held() == (0, 0)
    ledger.update({"a": entry(100, room=900), "b": entry(50, owner=None)})

    assert ledger.held() == (1050, 900)
