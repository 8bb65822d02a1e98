from datetime import UTC, datetime, timedelta

import pytest

from rollout_core.jobs.records import LEASE_SECONDS, JobError, JobRecord, Progress
from service.errors import JobNotFound
from service.jobs import Jobs
from service.routes.artifacts import artifact_url
from tests.system.valkey import redis_that_is_away

ERROR = JobError(code="video_undecodable", title="The video cannot be decoded", detail="frame 3")


def test_a_running_job_shows_its_progress(jobs, worker, submit):
    job_id = submit()
    worker.claim(job_id)
    progress = Progress(stage="explain", done=1, total=4)
    worker.beat(job_id, progress)

    job = jobs.get(job_id)

    assert (job.state, job.attempt, job.progress) == ("running", 1, progress)
    assert job.started_at >= job.created_at
    assert job.queue_position is job.waiting_for is None


def test_a_job_with_an_expired_lease_is_queued(jobs, worker, submit):
    job_id = submit()
    worker.claim(job_id, age_seconds=LEASE_SECONDS + 1)

    job = jobs.get(job_id)

    assert (job.state, job.attempt) == ("queued", 1)
    assert job.started_at is job.progress is None
    assert job.queue_position == 1


def test_a_failed_job_shows_its_error(jobs, worker, submit):
    job_id = submit()
    worker.claim(job_id)
    worker.fail(job_id, ERROR)

    job = jobs.get(job_id)

    assert (job.state, job.error) == ("failed", ERROR)
    assert job.ended_at >= job.started_at


def test_the_stored_result_decides_success(jobs, worker, submit):
    job_id = submit()
    files = worker.succeed(job_id)

    job = jobs.get(job_id)

    assert (job.state, job.attempt, job.progress, job.error) == ("succeeded", 1, None, None)
    assert job.ended_at - job.started_at == timedelta(seconds=1)
    assert (job.result.clips, job.result.frames) == (2, 8)
    assert job.result.timings_seconds == {"decode": 0.5}
    names = [artifact.name for artifact in job.result.artifacts]
    assert names == ["result.json", *files]
    assert job.result.artifacts[2].bytes == len(files["overlay.mp4"])


def test_a_result_outlives_redis(jobs, worker, submit, redis):
    job_id = submit()
    worker.succeed(job_id)
    before = jobs.get(job_id)
    redis.flushdb()

    assert jobs.get(job_id) == before


def test_a_failure_outlives_redis(jobs, worker, submit, redis):
    job_id = submit()
    worker.claim(job_id)
    worker.fail(job_id, ERROR)
    before = jobs.get(job_id)
    redis.flushdb()

    assert jobs.get(job_id) == before


def test_a_job_that_has_ended_is_answered_without_redis(store, worker, submit):
    succeeded, canceled = submit(), submit()
    worker.succeed(succeeded)
    worker.end(canceled, JobRecord().ended("canceled", datetime.now(UTC)))
    jobs = Jobs(redis_that_is_away(), store, artifact_url=artifact_url)

    assert jobs.get(succeeded).state == "succeeded"
    assert jobs.get(canceled).state == "canceled"


def test_a_job_that_ends_while_it_is_looked_up_has_ended(jobs, worker, submit):
    job_id = submit()
    records = jobs._redis_jobs.records
    get_many_raw = records.get_many_raw

    def end_first(job_ids):
        worker.succeed(job_id)
        return get_many_raw(job_ids)

    records.get_many_raw = end_first

    assert jobs.get(job_id).state == "succeeded"


def test_a_job_lost_by_redis_is_queued(jobs, submit, redis):
    job_id = submit()
    redis.flushdb()

    job = jobs.get(job_id)

    assert (job.state, job.queue_position, job.waiting_for) == ("queued", 1, "worker")


@pytest.mark.parametrize("live", [{"age_seconds": 60}, {"ready": False}])
def test_a_job_without_a_ready_worker_waits_for_one(jobs, submit, announce, live):
    job_id = submit()
    announce(**live)

    assert jobs.get(job_id).waiting_for == "worker"


def test_a_job_whose_workers_pause_waits_for_the_store(jobs, submit, announce):
    job_id = submit()
    announce(ready=False, waiting_for="store")

    assert jobs.get(job_id).waiting_for == "store"
    announce(worker="w2", ready=True)
    assert jobs.get(job_id).waiting_for == "turn"


def test_an_unknown_id_is_not_found(jobs):
    with pytest.raises(JobNotFound):
        jobs.get("0" * 32)
