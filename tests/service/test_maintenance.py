"""Redis loses things; the store, and the next look at it, do not."""

import asyncio
import os
import time
from datetime import UTC, datetime

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core.contract import ExplainRequest
from rollout_core.jobs.records import LEASE_SECONDS, JobError, JobRecord, Ticket
from rollout_core.jobs.redis_records import KNOWN_SECONDS, WORKERS_KEY, job_key
from service.errors import JobNotFound
from service.maintenance import REMEMBERED_TTLS, STALE_UPLOAD_SECONDS, Reconciler, repeating, sweep
from service.redis_jobs import JOBS_KEY, Register
from service.usage import StoreUsage

QUEUE_KEY = "rq:queue:rollout-fake"


@pytest.fixture
def register(redis):
    return Register(redis)


@pytest.fixture
def reconciler(store, register):
    return Reconciler(store, StoreUsage(store), register)


@pytest.fixture
def stored(store):
    """A job whose service died before it could queue it."""
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


@pytest.fixture
def submit(queue, store, announce):
    announce()

    def one() -> str:
        with store.receiving() as path:
            path.write_bytes(b"video")
            return queue.submit(ExplainRequest(), path).id

    return one


def sweep_all(services) -> None:
    sweep(services.store, services.queue, services.settings.result_ttl)


def waiting(redis) -> list[str]:
    return [job_id.decode() for job_id in redis.lrange(QUEUE_KEY, 0, -1)]


def test_a_job_that_was_stored_but_not_queued_is_queued(reconciler, stored, queue, redis):
    reconciler.reconcile()

    job = queue.get(stored.id, owner="ann")
    assert (job.state, job.queue_position) == ("queued", 1)
    assert redis.zrange(f"{JOBS_KEY}:ann", 0, -1) == [stored.id.encode()]
    reconciler.reconcile()
    assert waiting(redis) == [stored.id]


def test_a_redis_that_comes_back_empty_is_told_all(reconciler, submit, queue, worker, redis):
    ids = [submit() for _ in range(4)]
    worker.succeed(ids[0])
    worker.claim(ids[1])
    queue.cancel(ids[2])
    reconciler.reconcile()
    before = queue.page().jobs
    redis.flushdb()

    reconciler.reconcile()

    after = queue.page().jobs
    assert [job.id for job in after] == ids[::-1]
    assert [job.state for job in after] == ["queued", "canceled", "queued", "succeeded"]
    assert [after[1], after[3]] == [before[1], before[3]]
    assert sorted(waiting(redis)) == sorted([ids[1], ids[3]])


def test_an_attempt_that_redis_forgot_keeps_its_number(reconciler, submit, worker, store, redis):
    """It may still run; were the next one to have its number, it would beat and end for it."""
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
    monkeypatch.setattr(reconciler, "_mend_list", lambda: worker.succeed(job_id))

    reconciler.reconcile()

    assert waiting(redis) == []
    assert not caplog.records


def test_a_job_that_a_worker_took_and_lost_is_queued_again(reconciler, submit, redis):
    """RQ keeps it in a list of its own, and looks there after a minute."""
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


def test_a_job_that_is_on_its_way_is_left_alone(reconciler, submit, worker, redis):
    job_id = submit()
    reconciler.reconcile()
    worker.claim(job_id)  # takes it off the queue

    for _ in range(3):
        reconciler.reconcile()

    assert waiting(redis) == []
    assert worker.record(job_id).attempt == 1


def test_a_job_whose_worker_is_dead_and_which_rq_has_lost_is_queued_again(
    reconciler, submit, worker, redis
):
    job_id = submit()
    worker.claim(job_id, age_seconds=LEASE_SECONDS + 1)

    for _ in range(2):
        reconciler.reconcile()

    assert waiting(redis) == [job_id]
    assert worker.record(job_id).attempt == 1


def test_what_rq_will_bring_back_itself_is_left_to_it(reconciler, submit, redis):
    job_id = submit()
    redis.lpop(QUEUE_KEY)
    redis.zadd("rq:wip:rollout-fake", {f"{job_id}:execution": 1})

    for _ in range(3):
        reconciler.reconcile()

    assert waiting(redis) == []


def test_what_has_ended_or_is_gone_leaves_no_trace(reconciler, submit, store, redis):
    ended, gone = submit(), submit()
    store.end(ended, JobRecord().ended("canceled", datetime.now(UTC)))
    store.delete(gone)

    reconciler.reconcile()

    assert not redis.exists(job_key(ended), job_key(gone))
    assert redis.zrange(JOBS_KEY, 0, -1) == [ended.encode()]


def test_a_job_that_cannot_be_read_stands_in_nobody_s_way(
    reconciler, submit, settings, redis, stored
):
    odd = submit()
    (settings.data_dir / "jobs" / odd / "job.json").write_text('{"of": "another version"}')

    reconciler.reconcile()

    assert stored.id in waiting(redis)


def test_two_services_that_look_at_once_queue_a_job_once(store, redis, stored):
    reconcilers = [Reconciler(store, StoreUsage(store), Register(redis)) for _ in range(2)]

    for reconciler in reconcilers:
        reconciler.reconcile()

    assert waiting(redis) == [stored.id]


def test_the_app_reconciles_while_it_runs(stored, open_client, queue, until):
    open_client()

    until(lambda: queue.get(stored.id, owner="ann").queue_position == 1)


@pytest.fixture
def services(client):
    return client.app_state["services"]


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def make_old(services, settings):
    def one(job_id, ttls=1):
        ticket = settings.data_dir / "jobs" / job_id / "job.json"
        age(ticket, ttls * settings.result_ttl + 60)

    return one


def test_an_old_result_expires(services, new_job, worker, make_old, store):
    old, young = new_job(), new_job()
    for job_id in (old, young):
        worker.succeed(job_id)
    make_old(old)

    sweep_all(services)

    assert (store.has_expired(old), store.has_expired(young)) == (True, False)
    assert not store.upload_path(old).exists()
    assert store.artifact_path(old, "overlay.mp4") is None
    assert store.artifact_path(young, "overlay.mp4")
    assert services.queue.get(old).state == "succeeded"


def test_what_a_killed_service_has_left_half_expired_is_removed(
    services, new_job, worker, make_old, store, monkeypatch
):
    class Killed(Exception):
        pass

    def die(*_, **__):
        raise Killed

    job_id = new_job()
    worker.succeed(job_id)
    make_old(job_id)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pathlib.Path.unlink", die)
        sweep_all(services)
    assert store.has_expired(job_id)
    assert store.artifact_path(job_id, "overlay.mp4")

    sweep_all(services)

    assert not store.upload_path(job_id).exists()
    assert store.artifact_path(job_id, "overlay.mp4") is None


def test_an_old_job_that_failed_or_was_canceled_loses_its_upload(
    services, new_job, worker, make_old, store
):
    failed, canceled = new_job(), new_job()
    worker.claim(failed)
    worker.fail(failed, JobError(code="x", title="x", detail="x"))
    services.queue.cancel(canceled)
    for job_id in (failed, canceled):
        make_old(job_id)

    sweep_all(services)

    for job_id, state in ((failed, "failed"), (canceled, "canceled")):
        assert not store.upload_path(job_id).exists()
        assert services.queue.get(job_id).state == state


def test_an_old_job_that_has_not_ended_is_kept(services, new_job, worker, make_old, store):
    waiting, running = new_job(), new_job()
    worker.claim(running)
    for job_id in (waiting, running):
        make_old(job_id)

    sweep_all(services)

    for job_id in (waiting, running):
        assert store.upload_path(job_id).exists()


def test_a_job_is_forgotten_in_the_end(services, new_job, worker, make_old, store, redis):
    ended, waiting = new_job(), new_job()
    worker.succeed(ended)
    for job_id in (ended, waiting):
        make_old(job_id, REMEMBERED_TTLS)

    sweep_all(services)

    assert not store.exists(ended)
    assert store.upload_path(waiting).exists()
    assert not redis.exists(job_key(ended))
    assert [job.id for job in services.queue.page().jobs] == [waiting]
    with pytest.raises(JobNotFound):
        services.queue.get(ended)


def test_a_job_that_cannot_be_read_does_not_stop_the_others(
    services, new_job, worker, make_old, store, settings
):
    jobs = [new_job() for _ in range(3)]
    for job_id in jobs:
        worker.succeed(job_id)
    ticket = settings.data_dir / "jobs" / jobs[1] / "job.json"
    ticket.write_text('{"of": "another version"}')
    for job_id in jobs:
        make_old(job_id)

    sweep_all(services)

    assert [store.has_expired(job_id) for job_id in jobs] == [True, True, True]
    assert [job.id for job in services.queue.page().jobs] == [jobs[2], jobs[0]]


def test_a_broken_upload_is_removed(services, settings):
    folders = [settings.data_dir / "incoming" / name for name in ("old", "young")]
    for folder, seconds in zip(folders, (60, -60), strict=True):
        folder.mkdir()
        (folder / "video").write_bytes(b"half")
        for path in (folder / "video", folder):
            age(path, STALE_UPLOAD_SECONDS + seconds)

    sweep_all(services)

    assert [folder.exists() for folder in folders] == [False, True]


def test_stale_announcements_are_removed(services, announce, redis):
    announce(worker="old", age_seconds=KNOWN_SECONDS + 60)
    announce(worker="young")

    sweep_all(services)

    assert redis.hkeys(WORKERS_KEY) == [b"young"]


def test_the_app_sweeps_while_it_runs(open_client, new_job, worker, make_old, store, settings):
    job_id = new_job()
    worker.succeed(job_id)
    make_old(job_id)

    open_client()

    deadline = time.monotonic() + 10
    while not store.has_expired(job_id):
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Chore:
    """Fails at first, in the way that it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.runs = 0
        self._error = error

    def __call__(self) -> None:
        self.runs += 1
        if self._error and self.runs == 1:
            raise self._error


def run(*chores: Chore, until: int = 3) -> None:
    async def watch() -> None:
        async with repeating(*((chore, 0.001) for chore in chores)):
            while any(chore.runs < until for chore in chores):
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(watch(), 10))


def test_every_chore_is_done_time_and_again_until_the_end():
    chores = Chore(), Chore()
    run(*chores)
    runs = [chore.runs for chore in chores]
    assert min(runs) >= 3
    assert [chore.runs for chore in chores] == runs


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (RedisConnectionError("away"), "WARNING"),
        (OSError(28, "No space left on device"), "WARNING"),
        (ZeroDivisionError("a bug"), "ERROR"),
    ],
)
def test_one_that_fails_is_logged_and_tried_again(error, level, caplog):
    run(Chore(error), Chore())
    assert [record.levelname for record in caplog.records] == [level]
    assert ("Traceback" in caplog.text) == (level == "ERROR")
    assert str(error) in caplog.text
