from datetime import UTC, datetime

import pytest

from rollout_core.errors import InvalidRequest
from rollout_core.jobs.records import JobError
from rollout_core.jobs.redis_records import job_key
from service import job_pages
from service.inventory import Inventory
from service.job_lists import JOBS_KEY, list_key
from service.maintenance import Reconciler

ERROR = JobError(code="video_undecodable", title="The video cannot be decoded", detail="frame 3")


def test_pages_list_the_newest_jobs_first(jobs, submit):
    ids = [submit() for _ in range(5)][::-1]

    first = jobs.page(limit=2)
    second = jobs.page(limit=2, cursor=first.next_cursor)
    third = jobs.page(limit=2, cursor=second.next_cursor)

    assert [job.id for page in (first, second, third) for job in page.jobs] == ids
    assert third.next_cursor is None


def test_a_full_last_page_has_no_next(jobs, submit):
    for _ in range(2):
        submit()

    assert jobs.page(limit=2).next_cursor is None


def test_a_filter_lists_only_jobs_in_that_state(jobs, worker, submit):
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
    jobs, worker, submit, monkeypatch, redis
):
    """An older version has listed the jobs, and the reconciler has not corrected it yet."""
    monkeypatch.setattr(job_pages, "SCAN_LIMIT", 2)
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
    jobs, worker, store, redis, submit, monkeypatch, is_reconciled
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


def test_a_job_that_moves_while_the_page_is_read_is_listed(jobs, worker, store, redis, submit):
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


def test_a_job_that_has_just_ended_is_listed_once(jobs, worker, redis, submit):
    job_id = submit()
    place = redis.zscore(JOBS_KEY, job_id)
    worker.succeed(job_id)
    redis.zadd(list_key(None, "succeeded"), {job_id: place})
    redis.zadd(JOBS_KEY, {"f" * 32: 1.0})  # so that the lists agree in number

    assert [job.id for job in jobs.page(state="succeeded").jobs] == [job_id]


def test_a_job_with_a_file_that_cannot_be_read_hides_no_other(jobs, submit, store, caplog):
    bad, good = submit(), submit()
    path = store.root / "jobs" / bad / "job.json"
    path.unlink()
    path.symlink_to("job.json")

    for _ in range(2):
        assert [job.id for job in jobs.page().jobs] == [good]

    assert len([record for record in caplog.records if record.levelname != "INFO"]) == 1


def test_a_deleted_job_is_skipped(jobs, store, submit):
    gone, kept = submit(), submit()
    store.delete(gone)

    assert [job.id for job in jobs.page().jobs] == [kept]


def test_a_job_that_ends_while_the_page_is_read_has_ended(jobs, worker, submit):
    ids = [submit() for _ in range(2)]
    records = jobs._redis_jobs.records
    get_many_raw = records.get_many_raw

    def end_first(job_ids):
        worker.succeed(ids[1])
        return get_many_raw(job_ids)

    records.get_many_raw = end_first

    assert [job.state for job in jobs.page().jobs] == ["succeeded", "queued"]


def test_an_unreadable_record_hides_only_its_own_job(jobs, redis, submit):
    unreadable, readable = submit(), submit()
    redis.set(job_key(unreadable), '{"of": "another version"}')

    assert [job.id for job in jobs.page().jobs] == [readable]


def test_a_page_says_the_same_as_each_job(jobs, worker, submit):
    ids = [submit() for _ in range(5)]
    for job_id in ids[:2]:
        jobs.cancel(job_id)
    record = worker.record(ids[2])
    worker.write(ids[2], record.claim(datetime.now(UTC), max_attempts=9))

    page = jobs.page().jobs

    assert [job.state for job in page] == ["queued", "queued", "running", *["canceled"] * 2]
    assert list(page) == [jobs.get(job_id) for job_id in ids[::-1]]


def test_only_queued_jobs_of_the_same_model_are_counted_in_a_position(jobs, submit, announce):
    announce("other", worker="w2")
    ids = [submit(model=model) for model in ("fake", "other", "fake")]

    positions = {job.id: job.queue_position for job in jobs.page().jobs}

    assert [positions[job_id] for job_id in ids] == [1, 1, 2]


@pytest.mark.parametrize("state", [None, "failed"])
def test_a_page_costs_the_same_commands_for_many_jobs(jobs, redis, submit, state):
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


def test_ended_jobs_are_listed_without_their_records(jobs, submit, redis):
    ids = [submit() for _ in range(3)]
    for job_id in ids:
        jobs.cancel(job_id)
    before = redis.info("stats")["total_commands_processed"]

    assert len(jobs.page().jobs) == 3

    assert redis.info("stats")["total_commands_processed"] - before - 1 == 1


def test_a_full_page_of_several_batches_goes_on_where_it_stopped(jobs, worker, submit, monkeypatch):
    monkeypatch.setattr(job_pages, "CHUNK", 3)
    ids = [submit() for _ in range(8)][::-1]
    for job_id in ids[1::2]:
        jobs.cancel(job_id)

    first = jobs.page(state="canceled", limit=2)
    second = jobs.page(state="canceled", limit=2, cursor=first.next_cursor)

    assert [job.id for job in first.jobs] == [ids[1], ids[3]]
    assert [job.id for job in second.jobs] == [ids[5], ids[7]]
    assert second.next_cursor is None


def test_a_page_shows_the_jobs_with_a_tag_a_model_and_a_state(jobs, submit, announce):
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


def test_a_rare_tag_is_looked_for_in_several_short_pages(jobs, submit, monkeypatch):
    monkeypatch.setattr(job_pages, "SCAN_LIMIT", 2)
    wanted = submit(tag="rare")
    for _ in range(3):
        submit()

    first = jobs.page(tag="rare")
    second = jobs.page(tag="rare", cursor=first.next_cursor)

    assert first.jobs == ()
    assert [job.id for job in second.jobs] == [wanted]
    assert second.next_cursor is None


def test_an_empty_list_has_one_empty_page(jobs):
    page = jobs.page()

    assert (page.jobs, page.next_cursor) == ((), None)


def test_an_invalid_cursor_is_refused(jobs):
    with pytest.raises(InvalidRequest):
        jobs.page(cursor="strange")
