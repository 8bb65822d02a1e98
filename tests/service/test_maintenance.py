"""Redis loses data, and the next pass over the store restores it."""

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core.contract import ExplainRequest
from rollout_core.errors import OtherStore
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.records import LEASE_SECONDS, JobError, JobRecord, Ticket
from rollout_core.jobs.redis_records import KNOWN_SECONDS, STORE_KEY, WORKERS_KEY, job_key
from service import jobs as jobs_module
from service.errors import JobNotFound
from service.inventory import Inventory
from service.job_lists import JOBS_KEY
from service.maintenance import (
    REMEMBERED_TTLS,
    STALE_UPLOAD_SECONDS,
    Reconciler,
    clean_up,
    periodic_tasks,
)
from tests.system.waiting import wait_until

QUEUE_KEY = "rq:queue:rollout-fake"


@pytest.fixture
def stored(store):
    """A stored job that was never queued: its service died in between."""
    ticket = Ticket(
        id="0" * 32,
        request=ExplainRequest(model="fake"),
        created_at=datetime.now(UTC),
        upload_bytes=5,
        owner="ann",
    )
    with store.receiving() as path:
        path.write_bytes(b"video")
        store.accept(ticket, path)
    return ticket


def clean_up_now(services) -> None:
    clean_up(services.store, services.jobs, services.settings.result_ttl)


def waiting(redis) -> list[str]:
    return [job_id.decode() for job_id in redis.lrange(QUEUE_KEY, 0, -1)]


@pytest.fixture
def services(client):
    return client.app_state["services"]


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def make_old(services, settings):
    def one(job_id, ttls=1):
        seconds = ttls * settings.result_ttl + 60
        path = settings.data_dir / "jobs" / job_id / "job.json"
        ticket = Ticket.from_json(path.read_bytes())
        created_at = ticket.created_at - timedelta(seconds=seconds)
        path.write_text(ticket.model_copy(update={"created_at": created_at}).to_json())
        age(path, seconds)

    return one


class Task:
    """Counts its runs; the first one raises `error`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.runs = 0
        self._error = error

    def __call__(self) -> None:
        self.runs += 1
        if self._error and self.runs == 1:
            raise self._error


def run(*tasks: Task, until: int = 3) -> None:
    async def watch() -> None:
        async with periodic_tasks(*((task, 0.001) for task in tasks)):
            while any(task.runs < until for task in tasks):
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(watch(), 10))


def test_a_job_that_was_stored_but_not_queued_is_queued(reconciler, stored, jobs, redis):
    reconciler.reconcile()

    job = jobs.get(stored.id, owner="ann")
    assert (job.state, job.queue_position) == ("queued", 1)
    assert redis.zrange(f"{JOBS_KEY}:ann", 0, -1) == [stored.id.encode()]
    reconciler.reconcile()
    assert waiting(redis) == [stored.id]


def test_an_emptied_redis_gets_all_jobs_again(reconciler, submit, jobs, worker, redis):
    ids = [submit() for _ in range(4)]
    worker.succeed(ids[0])
    worker.claim(ids[1])
    jobs.cancel(ids[2])
    reconciler.reconcile()
    before = jobs.page().jobs
    redis.flushdb()

    reconciler.reconcile()

    after = jobs.page().jobs
    assert [job.id for job in after] == ids[::-1]
    assert [job.state for job in after] == ["queued", "canceled", "queued", "succeeded"]
    assert [after[1], after[3]] == [before[1], before[3]]
    assert sorted(waiting(redis)) == sorted([ids[1], ids[3]])


def test_an_attempt_lost_by_redis_keeps_its_number(reconciler, submit, worker, store, redis):
    """It may still run; a next attempt of the same number would share its heartbeats and end."""
    job_id = submit()
    worker.claim(job_id)
    store.begin_attempt(job_id, 1)
    redis.flushdb()

    reconciler.reconcile()

    assert worker.record(job_id).lease_until is None
    worker.claim(job_id)
    assert worker.record(job_id).attempt == 2


def test_a_job_that_ends_while_jobs_are_counted_is_not_queued_again(
    reconciler, submit, worker, redis, monkeypatch, caplog
):
    job_id = submit()
    caplog.clear()
    monkeypatch.setattr(reconciler._keeper, "correct", lambda _: worker.succeed(job_id))

    reconciler.reconcile()

    assert waiting(redis) == []
    assert not caplog.records


def test_a_job_that_a_worker_took_and_lost_is_queued_again(reconciler, submit, redis):
    """RQ keeps it in its intermediate list, which it checks only after a minute."""
    job_id = submit()
    redis.lmove(QUEUE_KEY, f"{QUEUE_KEY}:intermediate")
    redis.set(f"{QUEUE_KEY}:intermediate:first_seen:{job_id}", 1)

    reconciler.reconcile()
    assert waiting(redis) == []
    reconciler.reconcile()

    assert waiting(redis) == [job_id]
    assert list(redis.scan_iter(f"{QUEUE_KEY}:intermediate*")) == []
    reconciler.reconcile()
    assert waiting(redis) == [job_id]


def test_a_running_job_is_not_queued_again(reconciler, submit, worker, redis):
    job_id = submit()
    reconciler.reconcile()
    worker.claim(job_id)  # takes it off the queue

    for _ in range(3):
        reconciler.reconcile()

    assert waiting(redis) == []
    assert worker.record(job_id).attempt == 1


def test_a_job_with_an_expired_lease_that_rq_lost_is_queued_again(
    reconciler, submit, worker, redis
):
    job_id = submit()
    worker.claim(job_id, age_seconds=LEASE_SECONDS + 1)

    for _ in range(2):
        reconciler.reconcile()

    assert waiting(redis) == [job_id]
    assert worker.record(job_id).attempt == 1


def test_a_job_that_rq_will_retry_is_not_queued(reconciler, submit, redis):
    job_id = submit()
    redis.lpop(QUEUE_KEY)
    redis.zadd("rq:wip:rollout-fake", {f"{job_id}:execution": 1})

    for _ in range(3):
        reconciler.reconcile()

    assert waiting(redis) == []


def test_records_of_ended_and_deleted_jobs_are_removed(reconciler, submit, store, redis):
    ended, gone = submit(), submit()
    store.end(ended, JobRecord().ended("canceled", datetime.now(UTC)))
    store.delete(gone)

    reconciler.reconcile()

    assert not redis.exists(job_key(ended), job_key(gone))
    assert redis.zrange(JOBS_KEY, 0, -1) == [ended.encode()]


def test_an_unreadable_job_does_not_block_others(reconciler, submit, settings, redis, stored):
    odd = submit()
    (settings.data_dir / "jobs" / odd / "job.json").write_text('{"of": "another version"}')

    reconciler.reconcile()

    assert stored.id in waiting(redis)


@pytest.mark.parametrize("queued", [1, 40])
def test_a_pass_without_differences_costs_few_commands(reconciler, submit, redis, queued):
    for _ in range(queued):
        submit()
    reconciler.reconcile()
    before = redis.info("stats")["total_commands_processed"]

    reconciler.reconcile()

    assert redis.info("stats")["total_commands_processed"] - before - 1 <= 24


def test_a_lost_job_with_an_unreadable_submission_is_queued_again(reconciler, submit, redis, store):
    """Its worker does not read it."""
    job_id = submit()
    (store.root / "jobs" / job_id / "submission.json").write_text('{"version": 99}')
    redis.flushall()
    reconciler.reconcile()

    assert waiting(redis) == [job_id]


def test_two_services_queue_a_lost_job_once(store, redis, stored):
    reconcilers = [Reconciler(store, Inventory(store), redis) for _ in range(2)]

    for reconciler in reconcilers:
        reconciler.reconcile()

    assert waiting(redis) == [stored.id]


def test_the_app_reconciles_while_it_runs(stored, open_client, jobs):
    open_client()

    wait_until(lambda: jobs.get(stored.id, owner="ann").queue_position == 1)


def test_an_old_result_expires(services, new_job, worker, make_old, store):
    old, young = new_job(), new_job()
    for job_id in (old, young):
        worker.succeed(job_id)
    make_old(old)

    clean_up_now(services)

    assert (store.has_expired(old), store.has_expired(young)) == (True, False)
    assert not store.upload_path(old).exists()
    assert store.artifact_path(old, "overlay.mp4") is None
    assert store.artifact_path(young, "overlay.mp4")
    assert services.jobs.get(old).state == "succeeded"


def test_an_incomplete_expiry_is_completed(services, new_job, worker, make_old, store, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    job_id = new_job()
    worker.succeed(job_id)
    make_old(job_id)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pathlib.Path.unlink", die)
        clean_up_now(services)
    assert store.has_expired(job_id)
    assert store.artifact_path(job_id, "overlay.mp4")

    clean_up_now(services)

    assert not store.upload_path(job_id).exists()
    assert store.artifact_path(job_id, "overlay.mp4") is None


def test_an_old_job_that_failed_or_was_canceled_loses_its_upload(
    services, new_job, worker, make_old, store
):
    failed, canceled = new_job(), new_job()
    worker.claim(failed)
    worker.fail(failed, JobError(code="x", title="x", detail="x"))
    services.jobs.cancel(canceled)
    for job_id in (failed, canceled):
        make_old(job_id)

    clean_up_now(services)

    for job_id, state in ((failed, "failed"), (canceled, "canceled")):
        assert not store.upload_path(job_id).exists()
        assert services.jobs.get(job_id).state == state


def test_an_old_job_that_has_not_ended_is_kept(services, new_job, worker, make_old, store):
    waiting, running = new_job(), new_job()
    worker.claim(running)
    for job_id in (waiting, running):
        make_old(job_id)

    clean_up_now(services)

    for job_id in (waiting, running):
        assert store.upload_path(job_id).exists()


def test_a_job_is_deleted_after_several_times_to_live(
    services, new_job, worker, make_old, store, redis
):
    ended, waiting = new_job(), new_job()
    worker.succeed(ended)
    for job_id in (ended, waiting):
        make_old(job_id, REMEMBERED_TTLS)

    clean_up_now(services)

    assert not store.exists(ended)
    assert store.upload_path(waiting).exists()
    assert not redis.exists(job_key(ended))
    assert [job.id for job in services.jobs.page().jobs] == [waiting]
    with pytest.raises(JobNotFound):
        services.jobs.get(ended)


def test_an_unreadable_job_does_not_stop_the_expiry_of_others(
    services, new_job, worker, make_old, store, settings
):
    jobs = [new_job() for _ in range(3)]
    for job_id in jobs:
        worker.succeed(job_id)
    for job_id in jobs:
        make_old(job_id)
    ticket = settings.data_dir / "jobs" / jobs[1] / "job.json"
    ticket.write_text('{"of": "another version"}')
    age(ticket, 2 * settings.result_ttl)

    clean_up_now(services)

    assert [store.has_expired(job_id) for job_id in jobs] == [True, True, True]
    assert [job.id for job in services.jobs.page().jobs] == [jobs[2], jobs[0]]


def test_a_broken_upload_is_removed(services, settings, monkeypatch):
    folders = [settings.data_dir / "incoming" / name for name in ("broken", "growing")]
    for folder in folders:
        folder.mkdir()
        (folder / "video").write_bytes(b"half")
    seconds = [time.monotonic()]
    monkeypatch.setattr(services.store._spool._watch, "_clock", lambda: seconds[0])
    clean_up_now(services)
    seconds[0] += STALE_UPLOAD_SECONDS + 60
    (folders[1] / "video").write_bytes(b"more than half")

    clean_up_now(services)

    assert [folder.exists() for folder in folders] == [False, True]


class TestClocks:
    """A clock that is ahead, or jumps ahead, makes no job old."""

    DAYS = 8 * 86400

    @pytest.fixture
    def ended(self, new_job, worker):
        job_id = new_job()
        worker.succeed(job_id)
        return job_id

    @pytest.mark.parametrize("seconds", [-DAYS, DAYS])
    def test_a_service_or_a_redis_that_is_ahead_expires_nothing(
        self, services, ended, store, shift_redis_clock, seconds, make_old
    ):
        shift_redis_clock(seconds)
        if seconds < 0:
            make_old(ended)  # so it seems to this host; and to Redis, it is of the future

        clean_up_now(services)

        assert not store.has_expired(ended)

    def test_a_jump_of_both_clocks_expires_nothing(
        self, services, ended, store, shift_redis_clock, monkeypatch
    ):
        services.jobs.age_now()
        wall = time.time
        monkeypatch.setattr(services.jobs._age_clock, "_wall", lambda: wall() + self.DAYS)
        shift_redis_clock(self.DAYS)

        clean_up_now(services)

        assert not store.has_expired(ended)

    def test_a_ticket_with_an_old_time_of_its_file_is_not_old(
        self, services, ended, store, settings
    ):
        """A host whose clock is behind wrote it."""
        age(settings.data_dir / "jobs" / ended / "job.json", 2 * settings.result_ttl)

        clean_up_now(services)

        assert not store.has_expired(ended)


class TestWithoutWorker:
    @pytest.fixture
    def waiting_job(self, new_job, make_old, monkeypatch):
        monkeypatch.setattr(jobs_module, "ABSENT_SECONDS", 0.5)
        job_id = new_job()
        make_old(job_id)
        return job_id

    def test_a_job_that_waits_for_no_worker_fails(
        self, services, waiting_job, announce, store, redis
    ):
        announce(age_seconds=60)
        wait_until(lambda: services.jobs._workers.are_absent("fake", 0.5), 3)

        clean_up_now(services)

        job = services.jobs.get(waiting_job)
        assert (job.state, job.error.code, job.attempt) == ("failed", "no_worker", 0)
        assert "'fake'" in job.error.detail
        assert not store.upload_path(waiting_job).exists()
        assert waiting(redis) == []
        assert not redis.exists(job_key(waiting_job), f"rq:job:{waiting_job}")

    def test_a_job_whose_worker_lives_waits_on(self, services, waiting_job, announce):
        announce()

        clean_up_now(services)

        assert services.jobs.get(waiting_job).state == "queued"

    def test_a_job_that_runs_goes_on(self, services, waiting_job, announce, worker):
        worker.claim(waiting_job)
        announce(age_seconds=60)

        clean_up_now(services)

        assert services.jobs.get(waiting_job).state == "running"


def test_stale_announcements_are_removed(services, announce, redis):
    announce(worker="old", age_seconds=KNOWN_SECONDS + 60)
    announce(worker="young")

    clean_up_now(services)

    assert redis.hkeys(WORKERS_KEY) == [b"young"]


def test_the_app_cleans_up_while_it_runs(open_client, new_job, worker, make_old, store, settings):
    job_id = new_job()
    worker.succeed(job_id)
    make_old(job_id)

    open_client()

    wait_until(lambda: store.has_expired(job_id))


def test_a_short_time_to_live_is_kept(open_client, new_job, worker, store):
    open_client(result_ttl=1)
    job_id = new_job()
    worker.succeed(job_id)

    wait_until(lambda: store.has_expired(job_id))


def test_every_task_is_repeated_until_the_context_ends():
    tasks = Task(), Task()
    run(*tasks)
    runs = [task.runs for task in tasks]
    assert min(runs) >= 3
    assert [task.runs for task in tasks] == runs


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (RedisConnectionError("away"), "WARNING"),
        (OSError(28, "No space left on device"), "WARNING"),
        (ZeroDivisionError("a bug"), "ERROR"),
    ],
)
def test_a_task_that_fails_is_logged_and_repeated(error, level, caplog):
    run(Task(error), Task())
    assert [record.levelname for record in caplog.records] == [level]
    assert ("Traceback" in caplog.text) == (level == "ERROR")
    assert str(error) in caplog.text


def test_a_service_with_another_store_leaves_redis_alone(
    reconciler, store, redis, submit, tmp_path
):
    job_id = submit()
    reconciler.reconcile()
    astray = FolderStore(tmp_path / "other")
    with pytest.raises(OtherStore):
        Reconciler(astray, Inventory(astray), redis).reconcile()
    assert redis.exists(job_key(job_id))
    assert waiting(redis) == [job_id]
    redis.delete(STORE_KEY)  # as when it expires: the first service has ended
    Reconciler(astray, Inventory(astray), redis).reconcile()
    assert not redis.exists(job_key(job_id))
