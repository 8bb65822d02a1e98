"""During a rolling upgrade, services of two versions share a store and a Redis.

The older service meets tickets, records, announcements and ends of the next release; the newer one
meets those of the first release, which have neither a version nor the later fields.
"""

import json
import os
from datetime import UTC, datetime

import pytest

from rollout_core.jobs.records import FORMAT_VERSION, JobRecord
from rollout_core.jobs.redis_records import WORKERS_KEY, job_key
from service.maintenance import clean_up

ENDED = JobRecord().ended("canceled", datetime.now(UTC))
QUEUE_KEY = "rq:queue:rollout-fake"

READABLE = {"absent": {}, "equal": {"version": FORMAT_VERSION}}
UNREADABLE = {
    "newer": {"version": FORMAT_VERSION + 1},
    "unknown field": {"priority": 3},
    "newer, unknown field": {"version": FORMAT_VERSION + 1, "priority": 3},
}


def cases(table):
    return pytest.mark.parametrize("fields", table.values(), ids=table)


@pytest.fixture
def ticket_path(store):
    return lambda job_id: store.root / "jobs" / job_id / "job.json"


def add(path, fields):
    """Add fields to a JSON file, or replace them."""
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


def set_record(redis, job_id, fields):
    text = json.loads(redis.get(job_key(job_id)) or b"{}") | fields
    redis.set(job_key(job_id), json.dumps(text))


def lose_from_queue(redis):
    redis.delete(QUEUE_KEY)


def queue(redis):
    return sorted(job_id.decode() for job_id in redis.lrange(QUEUE_KEY, 0, -1))


@cases(READABLE)
def test_a_readable_ticket_record_and_end_are_used(
    reconciler, submit, jobs, store, redis, ticket_path, fields
):
    waiting, ended = submit(), submit()
    store.end(ended, ENDED)
    for job_id in (waiting, ended):
        add(ticket_path(job_id), fields)
    add(ticket_path(ended).parent / "result" / "ended.json", fields)
    set_record(redis, waiting, fields)

    reconciler.reconcile()

    assert jobs.get(waiting).state == "queued"
    assert jobs.get(ended).state == "canceled"
    assert [job.id for job in jobs.page(state="canceled").jobs] == [ended]


def test_jobs_of_the_first_release_are_used(reconciler, submit, jobs, redis, ticket_path):
    """It wrote every field, and neither a version nor lists by state."""
    job_id = submit()
    ticket = ticket_path(job_id)
    full = json.loads(ticket.read_bytes()) | {"owner": None}
    ticket.write_text(json.dumps(full))
    nothing = {"attempt": 0, "started_at": None, "lease_until": None, "progress": None}
    redis.set(job_key(job_id), json.dumps(nothing | {"cancel_requested": False, "over": False}))
    redis.delete("rollout:state:open", "rollout:lists")

    reconciler.reconcile()

    for state in (None, "queued"):
        assert [job.id for job in jobs.page(state=state).jobs] == [job_id]


@cases(UNREADABLE)
def test_an_unreadable_ticket_hurts_only_its_job(
    reconciler, submit, jobs, redis, ticket_path, caplog, client, fields
):
    newer, lost = submit(), submit()
    add(ticket_path(newer), fields)
    lose_from_queue(redis)

    for _ in range(3):
        reconciler.reconcile()

    assert queue(redis) == [lost]
    assert [job.id for job in jobs.page().jobs] == [lost]
    assert [job.id for job in jobs.page(state="queued").jobs] == [lost]
    assert redis.exists(job_key(newer)), "it is left to a process that knows the format"
    assert len([record for record in caplog.records if newer in record.getMessage()]) == 1
    response = client.get(f"/v1/jobs/{newer}")
    assert (response.status_code, response.json()["code"]) == (503, "unknown_format")
    assert "retry-after" in response.headers


@cases(UNREADABLE)
def test_an_unreadable_record_hurts_only_its_job(
    reconciler, submit, jobs, redis, caplog, client, fields
):
    newer, lost = submit(), submit()
    set_record(redis, newer, fields)
    before = redis.get(job_key(newer))
    lose_from_queue(redis)

    for _ in range(4):
        reconciler.reconcile()

    assert queue(redis) == [lost]
    assert redis.get(job_key(newer)) == before
    for state in (None, "queued", "running", "failed"):
        assert newer not in [job.id for job in jobs.page(state=state).jobs]
    assert [job.id for job in jobs.page(state="queued").jobs] == [lost]
    logged = [record for record in caplog.records if newer in record.getMessage()]
    assert 1 <= len(logged) <= 2  # once here, and once by the reconciler of the client's app
    assert client.get(f"/v1/jobs/{newer}").json()["code"] == "unknown_format"


@cases(UNREADABLE)
def test_an_unreadable_end_hurts_only_its_job(
    reconciler, submit, jobs, store, redis, ticket_path, client, fields
):
    newer, known = submit(), submit()
    for job_id in (newer, known):
        store.end(job_id, ENDED)
    add(ticket_path(newer).parent / "result" / "ended.json", fields)
    lose_from_queue(redis)

    for _ in range(3):
        reconciler.reconcile()

    assert queue(redis) == []
    assert not redis.exists(job_key(newer)), "it has ended, in whatever way"
    assert [job.id for job in jobs.page(state="canceled").jobs] == [known]
    assert client.get(f"/v1/jobs/{newer}").json()["code"] == "unknown_format"


@cases(READABLE | {"unknown field": {"priority": 3}, "newer": {"version": FORMAT_VERSION + 1}})
def test_a_result_with_other_fields_is_read(reconciler, submit, jobs, worker, ticket_path, fields):
    job_id = submit()
    worker.succeed(job_id)
    add(ticket_path(job_id).parent / "result" / "result.json", fields)

    reconciler.reconcile()

    assert jobs.get(job_id).state == "succeeded"
    assert [job.id for job in jobs.page(state="succeeded").jobs] == [job_id]


@cases(READABLE | UNREADABLE)
def test_an_announcement_with_other_fields_is_read(announce, jobs, redis, fields):
    announce()
    text = json.loads(redis.hget(WORKERS_KEY, "w1")) | fields
    redis.hset(WORKERS_KEY, "w1", json.dumps(text))

    assert jobs.ready_workers() == {"fake": 1}


def test_an_announcement_that_cannot_be_read_hides_no_other(announce, jobs, redis):
    announce()
    redis.hset(WORKERS_KEY, "w2", '{"version": 9, "models": []}')

    assert jobs.ready_workers() == {"fake": 1}


@pytest.mark.parametrize("state", ["queued", "canceled"])
def test_old_unreadable_jobs_do_not_stop_the_clean_up(client, submit, store, ticket_path, state):
    newer, known = submit(), submit()
    for job_id in (newer, known):
        if state == "canceled":
            store.end(job_id, ENDED)
    add(ticket_path(newer), {"version": FORMAT_VERSION + 1})
    (store.root / "jobs" / "stray").touch()
    for job_id in (newer, known):
        add(ticket_path(job_id), {"created_at": "2000-01-01T00:00:00Z"})
        os.utime(ticket_path(job_id), (0, 0))
    services = client.app_state["services"]

    clean_up(store, services.jobs, services.settings.result_ttl)

    assert store.exists(newer)
    assert store.exists(known) == (state == "queued")
