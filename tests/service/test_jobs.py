import pytest

from rollout_core.errors import JobEnded
from rollout_core.jobs.records import LEASE_SECONDS, JobError, JobRecord
from rollout_core.jobs.redis_records import job_key
from service.errors import JobNotFound
from service.job_lists import JOBS_KEY
from service.jobs import Jobs
from service.routes.artifacts import artifact_url
from tests.system.valkey import redis_that_is_away

ERROR = JobError(code="video_undecodable", title="The video cannot be decoded", detail="frame 3")


class TestCancel:
    def test_a_waiting_job_is_canceled_at_once(self, jobs, submit, redis):
        first, second = submit(), submit()

        job = jobs.cancel(first)

        assert (job.state, job.attempt) == ("canceled", 0)
        assert job.ended_at >= job.created_at
        assert jobs.get(second).queue_position == 1
        assert not redis.exists(f"rq:job:{first}", job_key(first))

    def test_a_job_lost_by_redis_is_canceled_at_once(self, jobs, submit, redis):
        job_id = submit()
        redis.flushdb()

        assert jobs.cancel(job_id).state == "canceled"
        assert not redis.exists(job_key(job_id))

    def test_an_attempt_believed_dead_may_succeed_before_the_cancel(
        self, jobs, worker, submit, store
    ):
        job_id = submit()
        request_cancel = jobs._redis_jobs.request_cancel

        def succeed_first(job_id):
            record = request_cancel(job_id)
            worker.succeed(job_id)
            return record

        jobs._redis_jobs.request_cancel = succeed_first

        assert jobs.cancel(job_id).state == "succeeded"

    def test_a_running_job_is_asked_to_stop(self, jobs, worker, submit):
        job_id = submit()
        worker.claim(job_id)

        assert jobs.cancel(job_id).state == "running"

        assert worker.record(job_id).cancel_requested

    def test_a_job_with_an_expired_lease_is_canceled_at_once(self, jobs, store, worker, submit):
        job_id = submit()
        worker.claim(job_id, age_seconds=LEASE_SECONDS + 1)
        folder = store.begin_attempt(job_id, 1)

        assert jobs.cancel(job_id).state == "canceled"
        assert not folder.exists()

    @pytest.mark.parametrize("end", ["succeed", "fail", "cancel"])
    def test_an_ended_job_cannot_be_canceled(self, jobs, worker, submit, end):
        job_id = submit()
        if end == "succeed":
            worker.succeed(job_id)
        elif end == "fail":
            worker.claim(job_id)
            worker.fail(job_id, ERROR)
        else:
            jobs.cancel(job_id)
        before = jobs.get(job_id)

        with pytest.raises(JobEnded):
            jobs.cancel(job_id)

        assert jobs.get(job_id) == before

    def test_a_concurrent_claim_is_not_lost_by_a_cancel(self, jobs, worker, submit, monkeypatch):
        job_id = submit()
        request_cancel = JobRecord.request_cancel

        def claim_first(record):
            if worker.record(job_id).attempt == 0:  # between reading the record and writing it
                worker.claim(job_id)
            return request_cancel(record)

        monkeypatch.setattr(JobRecord, "request_cancel", claim_first)
        job = jobs.cancel(job_id)

        record = worker.record(job_id)
        assert (record.attempt, record.cancel_requested) == (1, True)
        assert job.state == "running"

    def test_an_unknown_job_is_not_found(self, jobs):
        with pytest.raises(JobNotFound):
            jobs.cancel("0" * 32)


class TestDelete:
    @pytest.mark.parametrize("state", ["queued", "canceled", "succeeded"])
    def test_a_deleted_job_leaves_nothing(self, jobs, worker, submit, redis, leftovers, state):
        job_id = submit()
        if state == "canceled":
            jobs.cancel(job_id)
        if state == "succeeded":
            worker.succeed(job_id)
            redis.delete(f"rq:job:{job_id}")  # as RQ does when the task returns

        jobs.delete(job_id)

        assert leftovers() == []
        assert [key for key in redis.scan_iter("*") if job_id.encode() in key] == []
        assert redis.zcard(JOBS_KEY) == 0
        with pytest.raises(JobNotFound):
            jobs.get(job_id)

    def test_deleting_a_running_job_removes_its_attempt_and_record(
        self, jobs, worker, submit, store, redis
    ):
        job_id = submit()
        worker.claim(job_id)
        folder = store.begin_attempt(job_id, 1)

        jobs.delete(job_id)

        assert not folder.exists()
        assert redis.get(job_key(job_id)) is None

    def test_a_second_deletion_is_not_found(self, jobs, submit):
        job_id = submit()
        jobs.delete(job_id)

        with pytest.raises(JobNotFound):
            jobs.delete(job_id)

    def test_a_failed_deletion_can_be_repeated(self, jobs, store, submit, monkeypatch, leftovers):
        job_id = submit()

        def fail(*_):
            raise PermissionError

        with monkeypatch.context() as patch, pytest.raises(PermissionError):
            patch.setattr(store, "delete", fail)
            jobs.delete(job_id)

        jobs.delete(job_id)
        assert leftovers() == []

    def test_files_are_deleted_even_without_redis(self, store, submit, leftovers):
        job_id = submit()

        Jobs(redis_that_is_away(), store, artifact_url=artifact_url).delete(job_id)

        assert leftovers() == []


def test_a_job_that_runs_ends_after_what_is_left_of_its_time(
    jobs, submit, announce, worker, shift_redis_clock
):
    announce(seconds_per_job=60)
    job_id = submit()
    worker.claim(job_id)

    assert jobs.wait_seconds(jobs.get(job_id)) == 60
    shift_redis_clock(4)
    assert jobs.wait_seconds(jobs.get(job_id)) == 56


def test_the_retry_time_grows_with_the_queue(jobs, submit, announce):
    announce(seconds_per_job=3)
    ids = [submit() for _ in range(3)]

    assert [jobs.wait_seconds(jobs.get(job_id)) for job_id in ids] == [3, 6, 9]


@pytest.mark.parametrize("seconds", [-60, 60])
def test_leases_are_compared_with_the_clock_of_redis(
    jobs, new_job, worker, shift_redis_clock, seconds
):
    running, dead = new_job(), new_job()
    shift_redis_clock(seconds)
    worker.claim(running, age_seconds=-seconds)
    worker.claim(dead, age_seconds=LEASE_SECONDS + 1 - seconds)

    assert jobs.cancel(running).state == "running"
    assert jobs.cancel(dead).state == "canceled"
