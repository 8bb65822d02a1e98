import os
import time

import pytest

from rollout_core.jobs.records import JobError
from rollout_core.jobs.redis_records import KNOWN_SECONDS, WORKERS_KEY, job_key
from service.errors import JobNotFound
from service.sweep import REMEMBERED_TTLS, STALE_UPLOAD_SECONDS, sweep


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

    sweep(services)

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
        sweep(services)
    assert store.has_expired(job_id)
    assert store.artifact_path(job_id, "overlay.mp4")

    sweep(services)

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

    sweep(services)

    for job_id, state in ((failed, "failed"), (canceled, "canceled")):
        assert not store.upload_path(job_id).exists()
        assert services.queue.get(job_id).state == state


def test_an_old_job_that_has_not_ended_is_kept(services, new_job, worker, make_old, store):
    waiting, running = new_job(), new_job()
    worker.claim(running)
    for job_id in (waiting, running):
        make_old(job_id)

    sweep(services)

    for job_id in (waiting, running):
        assert store.upload_path(job_id).exists()


def test_a_job_is_forgotten_in_the_end(services, new_job, worker, make_old, store, redis):
    ended, waiting = new_job(), new_job()
    worker.succeed(ended)
    for job_id in (ended, waiting):
        make_old(job_id, REMEMBERED_TTLS)

    sweep(services)

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

    sweep(services)

    assert [store.has_expired(job_id) for job_id in jobs] == [True, True, True]
    assert [job.id for job in services.queue.page().jobs] == [jobs[2], jobs[0]]


def test_a_broken_upload_is_removed(services, settings):
    folders = [settings.data_dir / "incoming" / name for name in ("old", "young")]
    for folder, seconds in zip(folders, (60, -60), strict=True):
        folder.mkdir()
        (folder / "video").write_bytes(b"half")
        for path in (folder / "video", folder):
            age(path, STALE_UPLOAD_SECONDS + seconds)

    sweep(services)

    assert [folder.exists() for folder in folders] == [False, True]


def test_stale_announcements_are_removed(services, announce, redis):
    announce(worker="old", age_seconds=KNOWN_SECONDS + 60)
    announce(worker="young")

    sweep(services)

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
