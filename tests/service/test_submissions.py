from datetime import UTC, datetime

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core.contract import ExplainRequest, JobOptions
from rollout_core.errors import InvalidRequest, TooMuchWork, UnknownModel
from rollout_core.jobs.records import JobError
from rollout_core.jobs.redis_records import redis_now
from service.errors import ModelUnavailable, QueueFull
from service.inventory import Inventory
from service.job_lists import JOBS_KEY
from service.jobs import Jobs
from service.routes.artifacts import artifact_url
from service.submissions import Rules
from service.upload_store import Received
from service.usage import Owner

ERROR = JobError(code="video_undecodable", title="The video cannot be decoded", detail="frame 3")


def test_a_new_job_waits(jobs, store, submit):
    before = datetime.now(UTC)
    job = jobs.get(submit(clips="tile"))

    assert (job.state, job.model, job.attempt, job.queue_position) == ("queued", "fake", 0, 1)
    assert before <= job.created_at <= datetime.now(UTC)
    assert job.request == ExplainRequest(model="fake", clips="tile")
    assert job.started_at is job.ended_at is job.progress is job.result is job.error is None
    assert job.waiting_for == "turn"
    assert store.upload_path(job.id).read_bytes() == b"video"
    assert store.ticket(job.id).upload_bytes == 5


def test_positions_follow_the_order_of_arrival(jobs, submit):
    ids = [submit() for _ in range(3)]

    assert [jobs.get(job_id).queue_position for job_id in ids] == [1, 2, 3]


def test_a_request_for_an_unknown_model_stores_nothing(submit, redis, leftovers):
    with pytest.raises(UnknownModel):
        submit(model="other")

    assert not redis.exists(JOBS_KEY)
    assert leftovers() == []


@pytest.mark.parametrize(
    ("request_", "detail"),
    [
        ({"start_layer": 12}, "start_layer: there is no layer 12; the model has 12 layers"),
        ({"method": "attention", "layer": 40}, "layer: there is no layer 40"),
        ({"method": "gradient_rollout", "target": "swimming"}, "no class 'swimming'"),
        ({"faithfulness": True, "target": 3}, "no class 3"),
        ({"query": {"frame": 0, "row": 2, "column": 0}}, "query: row is 2"),
    ],
)
def test_a_request_that_does_not_fit_the_model_is_refused(submit, leftovers, request_, detail):
    with pytest.raises(InvalidRequest, match=detail):
        submit(**request_)

    assert leftovers() == []


def test_a_request_with_too_large_arrays_is_refused(redis, store, submit, leftovers):
    rules = Rules(max_array_bytes=2_000)
    jobs = Jobs(redis, store, artifact_url=artifact_url, rules=rules)
    with pytest.raises(TooMuchWork, match=r"the arrays of 1 clip, 64 queries, .* are allowed"):
        submit(jobs, query=["cls"] * 64)

    assert leftovers() == []
    submit(jobs)


def test_only_a_fake_engine_takes_a_script(submit, jobs, announce):
    script = {"fail": "out_of_memory"}
    assert jobs.get(submit(model="fake", fake=script)).request.fake.fail == "out_of_memory"
    announce("real", worker="w2", engine="torch")
    with pytest.raises(InvalidRequest, match="fake engine"):
        submit(model="real", fake=script)
    assert len(jobs.page().jobs) == 1


def test_a_request_that_fits_the_model_is_queued(jobs, submit):
    query = {"clip": 0, "frame": 3, "row": 1, "column": 2}
    job_id = submit(method="gradient_rollout", target=2, start_layer=11, query=query)

    assert jobs.get(job_id).state == "queued"


def test_the_default_model_is_filled_in(redis, store, submit, announce):
    announce("other", worker="w2")
    jobs = Jobs(redis, store, artifact_url=artifact_url, rules=Rules(default_model="other"))

    assert jobs.get(submit(jobs)).request.model == "other"


def test_a_full_queue_gives_a_time_to_retry(redis, store, submit, announce):
    announce(seconds_per_job=20)
    announce("other", worker="w2")
    jobs = Jobs(redis, store, artifact_url=artifact_url, rules=Rules(max_queued=2))
    submit(jobs, model="fake")
    submit(jobs, model="fake")

    with pytest.raises(QueueFull) as caught:
        submit(jobs, model="fake")

    assert caught.value.retry_after_seconds == 40
    assert jobs.get(submit(jobs, model="other")).queue_position == 1


def test_one_owner_cannot_fill_a_queue(redis, store, submit, announce):
    announce(seconds_per_job=2)
    jobs = Jobs(redis, store, artifact_url=artifact_url, rules=Rules(max_queued=20))
    greedy, other, third = (Owner(name=name) for name in ("greedy", "other", "third"))
    for _ in range(19):
        submit(jobs, owner=greedy)

    with pytest.raises(QueueFull, match="19 of your jobs wait for fake; the last 1 places") as full:
        submit(jobs, owner=greedy)
    assert full.value.retry_after_seconds == 38
    submit(jobs, owner=other)
    with pytest.raises(QueueFull, match="20 jobs wait"):
        submit(jobs, owner=third)


def test_jobs_without_keys_fill_a_queue(redis, store, submit):
    jobs = Jobs(redis, store, artifact_url=artifact_url, rules=Rules(max_queued=20))

    assert len({submit(jobs) for _ in range(20)}) == 20


def test_the_priority_of_a_job_orders_the_queue(jobs, submit):
    low, normal = submit(priority="low"), submit()

    assert [jobs.get(job_id).queue_position for job_id in (normal, low)] == [1, 2]
    assert [jobs.get(job_id).priority for job_id in (normal, low)] == ["normal", "low"]


def test_the_priority_of_a_job_that_redis_lost_is_kept(jobs, submit, redis, reconciler, announce):
    low, normal = submit(priority="low"), submit()
    redis.flushall()
    announce()
    reconciler.reconcile()

    assert [jobs.get(job_id).queue_position for job_id in (normal, low)] == [1, 2]


def test_a_job_that_cannot_be_queued_is_not_kept(jobs, submit, monkeypatch, leftovers):
    def fail(*_):
        raise RedisConnectionError

    monkeypatch.setattr(jobs._redis_jobs, "_enqueue", fail)

    with pytest.raises(RedisConnectionError):
        submit()

    assert leftovers() == []
    assert jobs.page().jobs == ()


def test_a_lost_model_is_unavailable_while_its_jobs_wait(redis, store, submit, announce):
    submit(model="fake")
    inventory = Inventory(store)
    inventory.refresh()
    redis.flushall()
    announce("other")
    jobs = Jobs(redis, store, artifact_url=artifact_url, inventory=inventory)  # remembers nothing

    with store.receiving() as path:
        path.write_bytes(b"video")
        with (
            jobs.submissions.adding_upload(path, Received.of(path)) as upload,
            pytest.raises(ModelUnavailable),
        ):
            jobs.submit(JobOptions(model="fake"), upload)


@pytest.mark.parametrize("seconds", [-8 * 86400, 8 * 86400])
def test_jobs_are_created_and_canceled_by_the_clock_of_redis(
    jobs, redis, submit, announce, shift_redis_clock, seconds
):
    shift_redis_clock(seconds)
    announce(age_seconds=-seconds)
    before = redis_now(redis)

    job = jobs.cancel(submit())

    assert before <= job.created_at <= job.ended_at <= redis_now(redis)
