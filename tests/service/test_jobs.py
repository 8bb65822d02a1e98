from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core.contract import ExplainRequest, JobOptions
from rollout_core.errors import InvalidRequest, JobEnded, UnknownModel
from rollout_core.jobs.records import LEASE_SECONDS, JobError, JobRecord, Progress
from rollout_core.jobs.redis_records import job_key, redis_now
from service import jobs as jobs_module
from service.errors import JobNotFound, ModelUnavailable, QueueFull
from service.inventory import Inventory
from service.job_lists import JOBS_KEY, list_key
from service.jobs import Jobs
from service.maintenance import Reconciler
from service.routes.artifacts import artifact_url
from service.upload_store import Received

ERROR = JobError(code="video_undecodable", title="The video cannot be decoded", detail="frame 3")


@pytest.fixture
def submit(jobs, store, announce):
    """Submit a job as the upload route does; return its id."""
    announce()

    def one(jobs=jobs, **request):
        with store.receiving() as path:
            path.write_bytes(b"video")
            with jobs.adding_upload(path, Received.of(path)) as upload:
                return jobs.submit(JobOptions(**request), upload).id

    return one


class TestSubmit:
    def test_a_new_job_waits(self, jobs, store, submit):
        before = datetime.now(UTC)
        job = jobs.get(submit(clips="tile"))

        assert (job.state, job.model, job.attempt, job.queue_position) == ("queued", "fake", 0, 1)
        assert before <= job.created_at <= datetime.now(UTC)
        assert job.request == ExplainRequest(model="fake", clips="tile")
        assert job.started_at is job.ended_at is job.progress is job.result is job.error is None
        assert job.waiting_for == "turn"
        assert store.upload_path(job.id).read_bytes() == b"video"
        assert store.ticket(job.id).upload_bytes == 5

    def test_positions_follow_the_order_of_arrival(self, jobs, submit):
        ids = [submit() for _ in range(3)]

        assert [jobs.get(job_id).queue_position for job_id in ids] == [1, 2, 3]

    def test_a_request_for_an_unknown_model_stores_nothing(self, submit, redis, leftovers):
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
    def test_a_request_that_does_not_fit_the_model_is_refused(
        self, submit, leftovers, request_, detail
    ):
        with pytest.raises(InvalidRequest, match=detail):
            submit(**request_)

        assert leftovers() == []

    def test_only_a_fake_engine_takes_a_script(self, submit, jobs, announce):
        script = {"fail": "out_of_memory"}
        assert jobs.get(submit(model="fake", fake=script)).request.fake.fail == "out_of_memory"
        announce("real", worker="w2", engine="torch")
        with pytest.raises(InvalidRequest, match="fake engine"):
            submit(model="real", fake=script)
        assert len(jobs.page().jobs) == 1

    def test_a_request_that_fits_the_model_is_queued(self, jobs, submit):
        query = {"clip": 0, "frame": 3, "row": 1, "column": 2}
        job_id = submit(method="gradient_rollout", target=2, start_layer=11, query=query)

        assert jobs.get(job_id).state == "queued"

    def test_the_default_model_is_filled_in(self, redis, store, submit, announce):
        announce("other", worker="w2")
        jobs = Jobs(redis, store, artifact_url=artifact_url, default_model="other")

        assert jobs.get(submit(jobs)).request.model == "other"

    def test_a_full_queue_gives_a_time_to_retry(self, redis, store, submit, announce):
        announce(seconds_per_job=20)
        announce("other", worker="w2")
        jobs = Jobs(redis, store, artifact_url=artifact_url, max_queued=2)
        submit(jobs, model="fake")
        submit(jobs, model="fake")

        with pytest.raises(QueueFull) as caught:
            submit(jobs, model="fake")

        assert caught.value.retry_after_seconds == 40
        assert jobs.get(submit(jobs, model="other")).queue_position == 1

    def test_a_job_that_cannot_be_queued_is_not_kept(self, jobs, submit, monkeypatch, leftovers):
        def fail(*_):
            raise RedisConnectionError

        monkeypatch.setattr(jobs._redis_jobs, "_enqueue", fail)

        with pytest.raises(RedisConnectionError):
            submit()

        assert leftovers() == []
        assert jobs.page().jobs == ()

    def test_a_lost_model_is_unavailable_while_its_jobs_wait(self, redis, store, submit, announce):
        submit(model="fake")
        inventory = Inventory(store)
        inventory.refresh()
        redis.flushall()
        announce("other")
        jobs = Jobs(
            redis, store, artifact_url=artifact_url, inventory=inventory
        )  # remembers nothing

        with store.receiving() as path:
            path.write_bytes(b"video")
            with (
                jobs.adding_upload(path, Received.of(path)) as upload,
                pytest.raises(ModelUnavailable),
            ):
                jobs.submit(JobOptions(model="fake"), upload)

    @pytest.mark.parametrize("seconds", [-8 * 86400, 8 * 86400])
    def test_jobs_are_created_and_canceled_by_the_clock_of_redis(
        self, jobs, redis, submit, announce, shift_redis_clock, seconds
    ):
        shift_redis_clock(seconds)
        announce(age_seconds=-seconds)
        before = redis_now(redis)

        job = jobs.cancel(submit())

        assert before <= job.created_at <= job.ended_at <= redis_now(redis)


class TestGet:
    def test_a_running_job_shows_its_progress(self, jobs, worker, submit):
        job_id = submit()
        worker.claim(job_id)
        progress = Progress(stage="explain", done=1, total=4)
        worker.beat(job_id, progress)

        job = jobs.get(job_id)

        assert (job.state, job.attempt, job.progress) == ("running", 1, progress)
        assert job.started_at >= job.created_at
        assert job.queue_position is job.waiting_for is None

    def test_a_job_with_an_expired_lease_is_queued(self, jobs, worker, submit):
        job_id = submit()
        worker.claim(job_id, age_seconds=LEASE_SECONDS + 1)

        job = jobs.get(job_id)

        assert (job.state, job.attempt) == ("queued", 1)
        assert job.started_at is job.progress is None
        assert job.queue_position == 1

    def test_a_failed_job_shows_its_error(self, jobs, worker, submit):
        job_id = submit()
        worker.claim(job_id)
        worker.fail(job_id, ERROR)

        job = jobs.get(job_id)

        assert (job.state, job.error) == ("failed", ERROR)
        assert job.ended_at >= job.started_at

    def test_the_stored_result_decides_success(self, jobs, worker, submit):
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

    def test_a_result_outlives_redis(self, jobs, worker, submit, redis):
        job_id = submit()
        worker.succeed(job_id)
        before = jobs.get(job_id)
        redis.flushdb()

        assert jobs.get(job_id) == before

    def test_a_failure_outlives_redis(self, jobs, worker, submit, redis):
        job_id = submit()
        worker.claim(job_id)
        worker.fail(job_id, ERROR)
        before = jobs.get(job_id)
        redis.flushdb()

        assert jobs.get(job_id) == before

    def test_a_job_that_has_ended_is_answered_without_redis(self, store, worker, submit):
        succeeded, canceled = submit(), submit()
        worker.succeed(succeeded)
        worker.end(canceled, JobRecord().ended("canceled", datetime.now(UTC)))
        jobs = Jobs(Redis(unix_socket_path="/nonexistent/socket"), store, artifact_url=artifact_url)

        assert jobs.get(succeeded).state == "succeeded"
        assert jobs.get(canceled).state == "canceled"

    def test_a_job_that_ends_while_it_is_looked_up_has_ended(self, jobs, worker, submit):
        job_id = submit()
        records = jobs._redis_jobs.records
        get_many_raw = records.get_many_raw

        def end_first(job_ids):
            worker.succeed(job_id)
            return get_many_raw(job_ids)

        records.get_many_raw = end_first

        assert jobs.get(job_id).state == "succeeded"

    def test_a_job_lost_by_redis_is_queued(self, jobs, submit, redis):
        job_id = submit()
        redis.flushdb()

        job = jobs.get(job_id)

        assert (job.state, job.queue_position, job.waiting_for) == ("queued", 1, "worker")

    @pytest.mark.parametrize("live", [{"age_seconds": 60}, {"ready": False}])
    def test_a_job_without_a_ready_worker_waits_for_one(self, jobs, submit, announce, live):
        job_id = submit()
        announce(**live)

        assert jobs.get(job_id).waiting_for == "worker"

    def test_a_job_whose_workers_pause_waits_for_the_store(self, jobs, submit, announce):
        job_id = submit()
        announce(ready=False, waiting_for="store")

        assert jobs.get(job_id).waiting_for == "store"
        announce(worker="w2", ready=True)
        assert jobs.get(job_id).waiting_for == "turn"

    def test_an_unknown_id_is_not_found(self, jobs):
        with pytest.raises(JobNotFound):
            jobs.get("0" * 32)


class TestPage:
    def test_pages_list_the_newest_jobs_first(self, jobs, submit):
        ids = [submit() for _ in range(5)][::-1]

        first = jobs.page(limit=2)
        second = jobs.page(limit=2, cursor=first.next_cursor)
        third = jobs.page(limit=2, cursor=second.next_cursor)

        assert [job.id for page in (first, second, third) for job in page.jobs] == ids
        assert third.next_cursor is None

    def test_a_full_last_page_has_no_next(self, jobs, submit):
        for _ in range(2):
            submit()

        assert jobs.page(limit=2).next_cursor is None

    def test_a_filter_lists_only_jobs_in_that_state(self, jobs, worker, submit):
        ids = [submit() for _ in range(4)]
        worker.claim(ids[0])
        worker.fail(ids[0], ERROR)
        worker.claim(ids[2])
        worker.succeed(ids[3])

        found = {
            state: [job.id for job in jobs.page(state=state).jobs]
            for state in ("failed", "running", "succeeded", "queued", "canceled")
        }

        assert found == {
            "failed": [ids[0]],
            "running": [ids[2]],
            "succeeded": [ids[3]],
            "queued": [ids[1]],
            "canceled": [],
        }

    def test_without_lists_of_states_a_page_reads_a_limited_number_of_jobs(
        self, jobs, worker, submit, monkeypatch, redis
    ):
        """An older version has listed the jobs, and the reconciler has not corrected it yet."""
        monkeypatch.setattr(jobs_module, "SCAN_LIMIT", 2)
        ids = [submit() for _ in range(3)]
        worker.claim(ids[0])
        redis.delete(list_key(None, "open"))

        first = jobs.page(state="running")
        second = jobs.page(state="running", cursor=first.next_cursor)

        assert first.jobs == ()
        assert [job.id for job in second.jobs] == [ids[0]]
        assert second.next_cursor is None

    @pytest.mark.parametrize("is_reconciled", [False, True])
    def test_a_page_by_state_looks_at_few_jobs(
        self, jobs, worker, store, redis, submit, monkeypatch, is_reconciled
    ):
        ids = [submit() for _ in range(40)]
        ended = submit()
        worker.claim(ids[3])
        worker.claim(ended)
        worker.fail(ended, ERROR)
        if is_reconciled:
            Reconciler(store, Inventory(store), redis).reconcile()
        looked_at = []
        ticket = store.ticket
        monkeypatch.setattr(store, "ticket", lambda one: looked_at.append(one) or ticket(one))

        found = {state: jobs.page(state=state).jobs for state in ("failed", "running", "canceled")}

        assert {state: [job.id for job in page] for state, page in found.items()} == {
            "failed": [ended],
            "running": [ids[3]],
            "canceled": [],
        }
        assert set(looked_at) == {ended, ids[3]}
        assert len(looked_at) <= 6

    def test_a_job_that_moves_while_the_page_is_read_is_listed(
        self, jobs, worker, store, redis, submit
    ):
        """It has left the list of open jobs before the list of ended ones is read."""
        job_id = submit()
        reconciler = Reconciler(store, Inventory(store), redis)
        reconciler.reconcile()
        get_many_raw = jobs._redis_jobs.records.get_many_raw

        def end_and_move(job_ids):
            found = get_many_raw(list(job_ids))
            if not store.has_ended(job_id):
                worker.succeed(job_id)
                reconciler.reconcile()
            return found

        jobs._redis_jobs.records.get_many_raw = end_and_move

        assert [job.id for job in jobs.page(state="succeeded").jobs] == [job_id]

    def test_a_job_that_has_just_ended_is_listed_once(self, jobs, worker, redis, submit):
        job_id = submit()
        place = redis.zscore(JOBS_KEY, job_id)
        worker.succeed(job_id)
        redis.zadd(list_key(None, "succeeded"), {job_id: place})
        redis.zadd(JOBS_KEY, {"f" * 32: 1.0})  # so that the lists agree in number

        assert [job.id for job in jobs.page(state="succeeded").jobs] == [job_id]

    def test_a_job_with_a_file_that_cannot_be_read_hides_no_other(
        self, jobs, submit, store, caplog
    ):
        bad, good = submit(), submit()
        path = store.root / "jobs" / bad / "job.json"
        path.unlink()
        path.symlink_to("job.json")

        for _ in range(2):
            assert [job.id for job in jobs.page().jobs] == [good]

        assert len(caplog.records) == 1

    def test_a_deleted_job_is_skipped(self, jobs, store, submit):
        gone, kept = submit(), submit()
        store.delete(gone)

        assert [job.id for job in jobs.page().jobs] == [kept]

    def test_a_job_that_ends_while_the_page_is_read_has_ended(self, jobs, worker, submit):
        ids = [submit() for _ in range(2)]
        records = jobs._redis_jobs.records
        get_many_raw = records.get_many_raw

        def end_first(job_ids):
            worker.succeed(ids[1])
            return get_many_raw(job_ids)

        records.get_many_raw = end_first

        assert [job.state for job in jobs.page().jobs] == ["succeeded", "queued"]

    def test_an_unreadable_record_hides_only_its_own_job(self, jobs, redis, submit):
        unreadable, readable = submit(), submit()
        redis.set(job_key(unreadable), '{"of": "another version"}')

        assert [job.id for job in jobs.page().jobs] == [readable]

    def test_a_page_says_the_same_as_each_job(self, jobs, worker, submit):
        ids = [submit() for _ in range(5)]
        for job_id in ids[:2]:
            jobs.cancel(job_id)
        record = worker.record(ids[2])
        worker.write(ids[2], record.claim(datetime.now(UTC), max_attempts=9))

        page = jobs.page().jobs

        assert [job.state for job in page] == ["queued", "queued", "running", *["canceled"] * 2]
        assert list(page) == [jobs.get(job_id) for job_id in ids[::-1]]

    def test_only_queued_jobs_of_the_same_model_are_counted_in_a_position(
        self, jobs, submit, announce
    ):
        announce("other", worker="w2")
        ids = [submit(model=model) for model in ("fake", "other", "fake")]

        positions = {job.id: job.queue_position for job in jobs.page().jobs}

        assert [positions[job_id] for job_id in ids] == [1, 1, 2]

    @pytest.mark.parametrize("state", [None, "failed"])
    def test_a_page_costs_the_same_commands_for_many_jobs(self, jobs, redis, submit, state):
        def cost() -> int:
            before = redis.info("stats")["total_commands_processed"]
            jobs.page(state=state)
            return redis.info("stats")["total_commands_processed"] - before - 1

        for _ in range(2):
            submit()
        few = cost()
        for _ in range(40):
            submit()

        assert cost() == few <= 10

    def test_ended_jobs_are_listed_without_their_records(self, jobs, submit, redis):
        ids = [submit() for _ in range(3)]
        for job_id in ids:
            jobs.cancel(job_id)
        before = redis.info("stats")["total_commands_processed"]

        assert len(jobs.page().jobs) == 3

        assert redis.info("stats")["total_commands_processed"] - before - 1 == 1

    def test_a_full_page_of_several_batches_goes_on_where_it_stopped(
        self, jobs, worker, submit, monkeypatch
    ):
        monkeypatch.setattr(jobs_module, "CHUNK", 3)
        ids = [submit() for _ in range(8)][::-1]
        for job_id in ids[1::2]:
            jobs.cancel(job_id)

        first = jobs.page(state="canceled", limit=2)
        second = jobs.page(state="canceled", limit=2, cursor=first.next_cursor)

        assert [job.id for job in first.jobs] == [ids[1], ids[3]]
        assert [job.id for job in second.jobs] == [ids[5], ids[7]]
        assert second.next_cursor is None

    def test_a_page_shows_the_jobs_with_a_tag_a_model_and_a_state(self, jobs, submit, announce):
        announce("other", worker="w2")
        first = submit(model="fake", tag="night")
        submit(model="fake", tag="day")
        other = submit(model="other", tag="night")
        jobs.cancel(first)

        def found(**wanted):
            return [job.id for job in jobs.page(**wanted).jobs]

        assert found(tag="night") == [other, first]
        assert found(tag="night", state="canceled") == [first]
        assert found(model="other") == [other]
        assert found(model="other", tag="day") == []

    def test_a_rare_tag_is_looked_for_in_several_short_pages(self, jobs, submit, monkeypatch):
        monkeypatch.setattr(jobs_module, "SCAN_LIMIT", 2)
        wanted = submit(tag="rare")
        for _ in range(3):
            submit()

        first = jobs.page(tag="rare")
        second = jobs.page(tag="rare", cursor=first.next_cursor)

        assert first.jobs == ()
        assert [job.id for job in second.jobs] == [wanted]
        assert second.next_cursor is None

    def test_an_empty_list_has_one_empty_page(self, jobs):
        page = jobs.page()

        assert (page.jobs, page.next_cursor) == ((), None)

    def test_an_invalid_cursor_is_refused(self, jobs):
        with pytest.raises(InvalidRequest):
            jobs.page(cursor="strange")


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

        Jobs(
            Redis(unix_socket_path="/nonexistent/socket"), store, artifact_url=artifact_url
        ).delete(job_id)

        assert leftovers() == []


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
