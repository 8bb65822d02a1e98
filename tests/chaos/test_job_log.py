import time

import pytest

from tests.chaos.job_log import JobLog


def job(state: str, **changes):
    ended_at = None if state in ("queued", "running") else "2026-11-01T12:00:00Z"
    return {
        "id": "a",
        "state": state,
        "attempt": 1,
        "ended_at": ended_at,
        "result": None,
        "error": None,
    } | changes


@pytest.fixture
def job_log() -> JobLog:
    job_log = JobLog()
    job_log.accept("a", "fake")
    return job_log


def see(job_log: JobLog, state: str, **changes) -> None:
    job_log.record(job(state, **changes), asked_at=time.monotonic())


def counts(job_log: JobLog) -> dict[str, int]:
    pairs = (item.split("=") for item in str(job_log).split())
    return {name: int(count) for name, count in pairs if count != "0"}


def test_every_count_is_in_one_line(job_log):
    line = "accepted=1 succeeded=0 failed=0 canceled=0 lost=0 double=0 stuck=1"
    assert str(job_log) == line


@pytest.mark.parametrize("state", ["succeeded", "failed", "canceled"])
def test_a_job_that_ends_once_balances(job_log, state):
    for seen in ("queued", "running", "queued", "running", state, state):
        see(job_log, seen)
    assert counts(job_log) == {"accepted": 1, state: 1}
    assert job_log.all_ended_once
    assert job_log.open == []


def test_a_job_that_has_not_ended_is_stuck(job_log):
    see(job_log, "running")
    assert counts(job_log) == {"accepted": 1, "stuck": 1}
    assert not job_log.all_ended_once


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        ("running", {}),
        ("failed", {}),
        ("succeeded", {"attempt": 2}),
        ("succeeded", {"ended_at": "2026-11-01T12:00:01Z"}),
        ("succeeded", {"result": {"artifacts": [{"sha256": "0"}]}}),
    ],
)
def test_an_end_that_changes_is_double(job_log, state, changes):
    see(job_log, "succeeded")
    see(job_log, state, **changes)
    assert counts(job_log)["double"] == 1
    assert not job_log.all_ended_once
    assert job_log.remarks


def test_an_id_of_two_jobs_is_double(job_log):
    job_log.accept("a", "fake")
    assert counts(job_log)["double"] == 1


def test_a_job_that_is_not_found_is_lost(job_log):
    see(job_log, "succeeded")
    job_log.record_missing("a")
    assert counts(job_log) == {"accepted": 1, "succeeded": 1, "lost": 1}
    assert not job_log.all_ended_once


def test_a_job_deleted_before_its_end_counts_as_canceled(job_log):
    see(job_log, "running")
    job_log.ask_deletion("a")
    job_log.record_missing("a")
    job_log.confirm_deletion("a")
    assert counts(job_log) == {"accepted": 1, "canceled": 1}
    assert job_log.all_ended_once
    assert job_log.deleted == ["a"]


def test_a_job_that_comes_back_after_its_deletion_is_double(job_log):
    asked_before = time.monotonic()
    job_log.ask_deletion("a")
    job_log.confirm_deletion("a")
    job_log.record(job("running"), asked_at=asked_before)
    assert job_log.all_ended_once
    see(job_log, "running")
    assert counts(job_log)["double"] == 1


def test_failures_are_counted_by_their_code(job_log):
    see(job_log, "failed", error={"code": "worker_crashed"})
    assert job_log.codes == {"worker_crashed": 1}


def test_open_jobs_are_counted_by_their_model(job_log):
    job_log.accept("b", "fake-slow")
    job_log.accept("c", "fake-slow")
    assert (job_log.count_open("fake"), job_log.count_open("fake-slow")) == (1, 2)
    see(job_log, "succeeded")
    assert job_log.count_open("fake") == 0


def test_the_slowest_end_is_measured_from_the_acceptance(job_log):
    assert job_log.slowest_seconds == 0
    job_log._entries["a"].accepted_at -= 10
    see(job_log, "succeeded")
    see(job_log, "succeeded")
    assert 10 <= job_log.slowest_seconds < 15
