from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core.contract import ExplainRequest
from rollout_core.errors import InvalidRequest, JobEnded, StoreFull, UnknownModel
from rollout_core.jobs.records import LEASE_SECONDS, JobError, JobRecord, Progress
from rollout_core.jobs.redis_records import job_key
from service import jobs as queue_module
from service.errors import JobNotFound, QueueFull
from service.jobs import Jobs
from service.redis_jobs import JOBS_KEY
from service.usage import StoreUsage

ERROR = JobError(code="video_undecodable", title="The video cannot be decoded", detail="frame 3")


@pytest.fixture
def submit(queue, store, announce):
    """Submit a job as the upload route does; return its id."""
    announce()

    def one(queue=queue, **request):
        with store.receiving() as path:
            path.write_bytes(b"video")
            return queue.submit(ExplainRequest(**request), path).id

    return one


class TestSubmit:
    def test_a_new_job_waits(self, queue, store, submit):
        before = datetime.now(UTC)
        job = queue.get(submit(clips="tile"))

        assert (job.state, job.model, job.attempt, job.queue_position) == ("queued", "fake", 0, 1)
        assert before <= job.created_at <= datetime.now(UTC)
        assert job.request == ExplainRequest(model="fake", clips="tile")
        assert job.started_at is job.ended_at is job.progress is job.result is job.error is None
        assert job.waiting_for == "turn"
        assert store.upload_path(job.id).read_bytes() == b"video"
        assert store.ticket(job.id).upload_bytes == 5

    def test_positions_follow_the_order_of_arrival(self, queue, submit):
        ids = [submit() for _ in range(3)]

        assert [queue.get(job_id).queue_position for job_id in ids] == [1, 2, 3]

    def test_an_unknown_model_leaves_nothing_behind(self, submit, redis, leftovers):
        with pytest.raises(UnknownModel):
            submit(model="other")

        assert not redis.exists(JOBS_KEY)
        assert leftovers() == []

    @pytest.mark.parametrize(
        ("request_", "detail"),
        [
            ({"start_layer": 12}, "start_layer is 12, but the model has 12 layers"),
            ({"method": "attention", "layer": 40}, "layer is 40"),
            ({"method": "gradient_rollout", "target": "swimming"}, "no class 'swimming'"),
            ({"faithfulness": True, "target": 3}, "no class 3"),
            ({"query": {"frame": 0, "row": 2, "column": 0}}, "query: row is 2"),
        ],
    )
    def test_what_the_model_cannot_do_is_refused_at_once(self, submit, leftovers, request_, detail):
        with pytest.raises(InvalidRequest, match=detail):
            submit(**request_)

        assert leftovers() == []

    def test_what_the_model_can_do_waits(self, queue, submit):
        query = {"clip": 0, "frame": 3, "row": 1, "column": 2}
        job_id = submit(method="gradient_rollout", target=2, start_layer=11, query=query)

        assert queue.get(job_id).state == "queued"

    def test_the_default_model_is_filled_in(self, redis, store, submit, announce):
        announce("other", worker="w2")
        queue = Jobs(redis, store, default_model="other")

        assert queue.get(submit(queue)).request.model == "other"

    def test_a_full_queue_says_when_to_come_back(self, redis, store, submit, announce):
        announce(seconds_per_job=20)
        announce("other", worker="w2")
        queue = Jobs(redis, store, max_queued=2)
        submit(queue, model="fake")
        submit(queue, model="fake")

        with pytest.raises(QueueFull) as caught:
            submit(queue, model="fake")

        assert caught.value.retry_after_seconds == 40
        assert queue.get(submit(queue, model="other")).queue_position == 1

    def test_a_job_that_cannot_be_queued_is_not_kept(self, queue, submit, monkeypatch, leftovers):
        def fail(*_):
            raise RedisConnectionError

        monkeypatch.setattr(queue._register.delivery, "add", fail)

        with pytest.raises(RedisConnectionError):
            submit()

        assert leftovers() == []
        assert queue.page().jobs == ()

    def test_an_upload_finds_room_or_is_refused(self, redis, store, submit):
        usage = StoreUsage(store, max_bytes=12)
        queue = Jobs(redis, store, usage=usage)
        queue.require_room(12)
        submit(queue)

        queue.require_room(7)
        with pytest.raises(StoreFull, match="5 of the 12 bytes"):
            queue.require_room(8)


class TestGet:
    def test_a_running_job_says_how_far_it_is(self, queue, worker, submit):
        job_id = submit()
        worker.claim(job_id)
        progress = Progress(stage="explain", done=1, total=4)
        worker.beat(job_id, progress)

        job = queue.get(job_id)

        assert (job.state, job.attempt, job.progress) == ("running", 1, progress)
        assert job.started_at >= job.created_at
        assert job.queue_position is job.waiting_for is None

    def test_a_job_whose_attempt_died_waits_again(self, queue, worker, submit):
        job_id = submit()
        worker.claim(job_id, age_seconds=LEASE_SECONDS + 1)

        job = queue.get(job_id)

        assert (job.state, job.attempt) == ("queued", 1)
        assert job.started_at is job.progress is job.queue_position is None

    def test_a_failed_job_says_why(self, queue, worker, submit):
        job_id = submit()
        worker.claim(job_id)
        worker.fail(job_id, ERROR)

        job = queue.get(job_id)

        assert (job.state, job.error) == ("failed", ERROR)
        assert job.ended_at >= job.started_at

    def test_the_stored_result_decides_success(self, queue, worker, submit):
        job_id = submit()
        files = worker.succeed(job_id)

        job = queue.get(job_id)

        assert (job.state, job.attempt, job.progress, job.error) == ("succeeded", 1, None, None)
        assert job.ended_at - job.started_at == timedelta(seconds=1)
        assert (job.result.clips, job.result.frames) == (2, 8)
        assert job.result.timings_seconds == {"decode": 0.5}
        names = [artifact.name for artifact in job.result.artifacts]
        assert names == ["result.json", *files]
        assert job.result.artifacts[2].bytes == len(files["overlay.mp4"])

    def test_a_result_outlives_redis(self, queue, worker, submit, redis):
        job_id = submit()
        worker.succeed(job_id)
        before = queue.get(job_id)
        redis.flushdb()

        assert queue.get(job_id) == before

    def test_a_failure_outlives_redis(self, queue, worker, submit, redis):
        job_id = submit()
        worker.claim(job_id)
        worker.fail(job_id, ERROR)
        before = queue.get(job_id)
        redis.flushdb()

        assert queue.get(job_id) == before

    def test_a_job_that_has_ended_is_answered_without_redis(self, store, worker, submit):
        succeeded, canceled = submit(), submit()
        worker.succeed(succeeded)
        worker.end(canceled, JobRecord().ended("canceled", datetime.now(UTC)))
        queue = Jobs(Redis(unix_socket_path="/nonexistent/socket"), store)

        assert queue.get(succeeded).state == "succeeded"
        assert queue.get(canceled).state == "canceled"

    def test_a_job_that_ends_while_it_is_looked_up_has_ended(self, queue, worker, submit):
        job_id = submit()
        record = queue._register.record

        def end_first(job_id):
            worker.succeed(job_id)
            return record(job_id)

        queue._register.record = end_first

        assert queue.get(job_id).state == "succeeded"

    def test_a_job_that_redis_has_forgotten_waits(self, queue, submit, redis):
        job_id = submit()
        redis.flushdb()

        job = queue.get(job_id)

        assert (job.state, job.queue_position, job.waiting_for) == ("queued", None, "worker")

    @pytest.mark.parametrize("live", [{"age_seconds": 60}, {"ready": False}])
    def test_a_job_says_when_there_is_no_worker_for_it(self, queue, submit, announce, live):
        job_id = submit()
        announce(**live)

        assert queue.get(job_id).waiting_for == "worker"

    def test_an_unknown_id(self, queue):
        with pytest.raises(JobNotFound):
            queue.get("0" * 32)


class TestPage:
    def test_newest_first_in_pages(self, queue, submit):
        ids = [submit() for _ in range(5)][::-1]

        first = queue.page(limit=2)
        second = queue.page(limit=2, cursor=first.next_cursor)
        third = queue.page(limit=2, cursor=second.next_cursor)

        assert [job.id for page in (first, second, third) for job in page.jobs] == ids
        assert third.next_cursor is None

    def test_a_full_last_page_has_no_next(self, queue, submit):
        for _ in range(2):
            submit()

        assert queue.page(limit=2).next_cursor is None

    def test_only_the_state_asked_for(self, queue, worker, submit):
        ids = [submit() for _ in range(4)]
        worker.claim(ids[0])
        worker.fail(ids[0], ERROR)
        worker.claim(ids[2])
        worker.succeed(ids[3])

        found = {
            state: [job.id for job in queue.page(state=state).jobs]
            for state in ("failed", "running", "succeeded", "queued", "canceled")
        }

        assert found == {
            "failed": [ids[0]],
            "running": [ids[2]],
            "succeeded": [ids[3]],
            "queued": [ids[1]],
            "canceled": [],
        }

    def test_a_page_looks_at_a_bounded_number_of_jobs(self, queue, worker, submit, monkeypatch):
        monkeypatch.setattr(queue_module, "SCAN_LIMIT", 2)
        ids = [submit() for _ in range(3)]
        worker.claim(ids[0])

        first = queue.page(state="running")
        second = queue.page(state="running", cursor=first.next_cursor)

        assert first.jobs == ()
        assert [job.id for job in second.jobs] == [ids[0]]
        assert second.next_cursor is None

    def test_a_job_that_vanished_is_passed_over(self, queue, store, submit):
        gone, kept = submit(), submit()
        store.delete(gone)

        assert [job.id for job in queue.page().jobs] == [kept]

    def test_an_empty_list(self, queue):
        page = queue.page()

        assert (page.jobs, page.next_cursor) == ((), None)

    def test_a_strange_cursor(self, queue):
        with pytest.raises(InvalidRequest):
            queue.page(cursor="strange")


class TestCancel:
    def test_a_waiting_job_is_canceled_at_once(self, queue, submit, redis):
        first, second = submit(), submit()

        job = queue.cancel(first)

        assert (job.state, job.attempt) == ("canceled", 0)
        assert job.ended_at >= job.created_at
        assert queue.get(second).queue_position == 1
        assert not redis.exists(f"rq:job:{first}", job_key(first))

    def test_a_job_that_redis_has_forgotten_is_canceled_at_once(self, queue, submit, redis):
        job_id = submit()
        redis.flushdb()

        assert queue.cancel(job_id).state == "canceled"
        assert not redis.exists(job_key(job_id))

    def test_an_attempt_taken_for_dead_may_be_quicker(self, queue, worker, submit, store):
        job_id = submit()
        request_cancel = queue._register.request_cancel

        def succeed_first(job_id):
            record = request_cancel(job_id)
            worker.succeed(job_id)
            return record

        queue._register.request_cancel = succeed_first

        assert queue.cancel(job_id).state == "succeeded"

    def test_a_running_job_is_asked_to_stop(self, queue, worker, submit):
        job_id = submit()
        worker.claim(job_id)

        assert queue.cancel(job_id).state == "running"

        assert worker.record(job_id).cancel_requested

    def test_a_job_whose_attempt_died_is_canceled_at_once(self, queue, store, worker, submit):
        job_id = submit()
        worker.claim(job_id, age_seconds=LEASE_SECONDS + 1)
        folder = store.begin_attempt(job_id, 1)

        assert queue.cancel(job_id).state == "canceled"
        assert not folder.exists()

    @pytest.mark.parametrize("end", ["succeed", "fail", "cancel"])
    def test_an_ended_job_cannot_be_canceled(self, queue, worker, submit, end):
        job_id = submit()
        if end == "succeed":
            worker.succeed(job_id)
        elif end == "fail":
            worker.claim(job_id)
            worker.fail(job_id, ERROR)
        else:
            queue.cancel(job_id)
        before = queue.get(job_id)

        with pytest.raises(JobEnded):
            queue.cancel(job_id)

        assert queue.get(job_id) == before

    def test_a_step_of_the_worker_in_between_is_not_lost(self, queue, worker, submit, monkeypatch):
        job_id = submit()
        request_cancel = JobRecord.request_cancel

        def claim_first(record):
            if worker.record(job_id).attempt == 0:  # between reading the record and writing it
                worker.claim(job_id)
            return request_cancel(record)

        monkeypatch.setattr(JobRecord, "request_cancel", claim_first)
        job = queue.cancel(job_id)

        record = worker.record(job_id)
        assert (record.attempt, record.cancel_requested) == (1, True)
        assert job.state == "running"

    def test_an_unknown_job(self, queue):
        with pytest.raises(JobNotFound):
            queue.cancel("0" * 32)


class TestDelete:
    @pytest.mark.parametrize("state", ["queued", "canceled", "succeeded"])
    def test_nothing_stays(self, queue, worker, submit, redis, leftovers, state):
        job_id = submit()
        if state == "canceled":
            queue.cancel(job_id)
        if state == "succeeded":
            worker.succeed(job_id)
            redis.delete(f"rq:job:{job_id}")  # as RQ does when the task returns

        queue.delete(job_id)

        assert leftovers() == []
        assert [key for key in redis.scan_iter("*") if job_id.encode() in key] == []
        assert redis.zcard(JOBS_KEY) == 0
        with pytest.raises(JobNotFound):
            queue.get(job_id)

    def test_a_running_attempt_finds_its_job_gone(self, queue, worker, submit, store, redis):
        job_id = submit()
        worker.claim(job_id)
        folder = store.begin_attempt(job_id, 1)

        queue.delete(job_id)

        assert not folder.exists()
        assert redis.get(job_key(job_id)) is None

    def test_a_second_deletion_finds_nothing(self, queue, submit):
        job_id = submit()
        queue.delete(job_id)

        with pytest.raises(JobNotFound):
            queue.delete(job_id)

    def test_a_deletion_that_broke_off_can_be_repeated(
        self, queue, store, submit, monkeypatch, leftovers
    ):
        job_id = submit()

        def fail(*_):
            raise PermissionError

        with monkeypatch.context() as patch, pytest.raises(PermissionError):
            patch.setattr(store, "delete", fail)
            queue.delete(job_id)

        queue.delete(job_id)
        assert leftovers() == []

    def test_bytes_are_removed_although_redis_is_away(self, store, submit, leftovers):
        job_id = submit()

        Jobs(Redis(unix_socket_path="/nonexistent/socket"), store).delete(job_id)

        assert leftovers() == []


def test_the_time_to_ask_again_grows_with_the_queue(queue, submit, announce):
    announce(seconds_per_job=3)
    ids = [submit() for _ in range(3)]

    assert [queue.wait_seconds(queue.get(job_id)) for job_id in ids] == [3, 6, 9]


@pytest.mark.parametrize("seconds", [-60, 60])
def test_a_service_whose_clock_is_wrong_knows_what_runs(redis, store, new_job, worker, seconds):
    running, dead = new_job(), new_job()
    worker.claim(running)
    worker.claim(dead, age_seconds=LEASE_SECONDS + 1)
    queue = Jobs(redis, store, clock=lambda: datetime.now(UTC) + timedelta(seconds=seconds))

    assert queue.cancel(running).state == "running"
    assert queue.cancel(dead).state == "canceled"
