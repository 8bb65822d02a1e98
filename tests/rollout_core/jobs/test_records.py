from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from rollout_core.errors import AttemptLost, JobHeld
from rollout_core.jobs.records import LEASE_SECONDS, Ended, JobError, JobRecord, Progress

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOON = NOW + timedelta(seconds=LEASE_SECONDS / 2)
LATE = NOW + timedelta(seconds=LEASE_SECONDS * 1.2)
ERROR = JobError(code="video_undecodable", title="t", detail="d")


def claim(record: JobRecord, now: datetime, max_attempts: int = 3) -> JobRecord:
    return record.claim(now, max_attempts=max_attempts)


QUEUED = JobRecord()
RUNNING = claim(QUEUED, NOW)


def test_a_new_job_has_no_attempt():
    assert not QUEUED.is_alive(NOW)
    assert (QUEUED.attempt, QUEUED.over) == (0, False)


def test_a_claim_begins_the_first_attempt():
    assert RUNNING.is_alive(SOON)
    assert (RUNNING.attempt, RUNNING.started_at) == (1, NOW)


def test_an_attempt_lives_as_long_as_it_beats():
    assert not RUNNING.is_alive(LATE)
    assert RUNNING.beat(1, SOON, None).is_alive(LATE)


def test_a_second_claim_is_the_next_attempt():
    again = claim(RUNNING.beat(1, NOW, Progress(stage="decode", done=1, total=2)), LATE)
    assert (again.attempt, again.started_at, again.progress) == (2, LATE, None)


def test_a_live_attempt_keeps_the_job_until_it_releases_it():
    with pytest.raises(JobHeld, match="attempt 1"):
        claim(RUNNING, SOON)
    released = RUNNING.release(1)
    assert not released.is_alive(SOON)
    assert claim(released, SOON).attempt == 2


def test_an_attempt_that_is_handed_back_does_not_count():
    handed_back = RUNNING.hand_back(1)
    assert not handed_back.is_alive(SOON)
    assert claim(handed_back, SOON).attempt == 1


@pytest.mark.parametrize(("record", "max_attempts"), [(RUNNING, 1), (RUNNING.request_cancel(), 3)])
def test_a_job_without_attempts_left_is_claimed_only_to_end_it(record, max_attempts):
    with pytest.raises(JobHeld):
        claim(record, SOON, max_attempts)
    taken = claim(record, LATE, max_attempts)
    assert (taken.over, taken.attempt, taken.started_at) == (True, 1, NOW)
    assert taken.is_alive(LATE)
    with pytest.raises(JobHeld):
        claim(taken, LATE, max_attempts)


@pytest.mark.parametrize(
    "step",
    [
        lambda record: record.require(1),
        lambda record: record.beat(1, LATE, None),
        lambda record: record.release(1),
        lambda record: record.hand_back(1),
    ],
)
def test_every_step_of_an_attempt_that_lost_the_job_fails(step):
    with pytest.raises(AttemptLost, match="attempt 1 no longer has the job; attempts: 2"):
        step(claim(RUNNING, LATE))
    with pytest.raises(AttemptLost):
        step(claim(RUNNING, LATE, max_attempts=1))
    with pytest.raises(AttemptLost):
        step(RUNNING.release(1))
    with pytest.raises(AttemptLost):
        step(QUEUED)


def test_an_attempt_that_has_the_job_may_go_on():
    assert RUNNING.require(1) == RUNNING


def test_a_request_to_cancel_outlives_a_beat():
    assert RUNNING.request_cancel().beat(1, SOON, None).cancel_requested


def test_an_end_has_the_attempt_and_the_error():
    failed = RUNNING.ended("failed", SOON, ERROR)
    assert failed == Ended(state="failed", attempt=1, started_at=NOW, ended_at=SOON, error=ERROR)
    assert QUEUED.ended("canceled", SOON) == Ended(
        state="canceled", attempt=0, started_at=None, ended_at=SOON
    )


@pytest.mark.parametrize("record", [QUEUED, RUNNING, RUNNING.request_cancel()])
def test_a_record_survives_the_wire(record: JobRecord):
    assert JobRecord.model_validate_json(record.model_dump_json()) == record


def test_a_record_is_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        RUNNING.attempt = 7
