from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from rollout_core.contract import JobError, Progress
from rollout_core.errors import AttemptLost, JobEnded, JobHeld
from rollout_core.lifecycle import LEASE_SECONDS, JobRecord

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOON = NOW + timedelta(seconds=LEASE_SECONDS / 2)
LATE = NOW + timedelta(seconds=LEASE_SECONDS * 1.2)
ERROR = JobError(code="video_undecodable", title="t", detail="d")

QUEUED = JobRecord()
RUNNING = QUEUED.claim(NOW)


def test_a_new_job_is_queued():
    assert QUEUED.state_at(NOW, has_result=False) == "queued"
    assert QUEUED.attempt == 0


def test_a_claim_begins_the_first_attempt():
    assert RUNNING.state_at(SOON, has_result=False) == "running"
    assert (RUNNING.attempt, RUNNING.started_at) == (1, NOW)


def test_an_attempt_that_stops_beating_leaves_the_job_queued():
    assert RUNNING.state_at(LATE, has_result=False) == "queued"
    beaten = RUNNING.beat(1, SOON, None)
    assert beaten.state_at(LATE, has_result=False) == "running"


def test_a_second_claim_is_the_next_attempt():
    again = RUNNING.beat(1, NOW, Progress(stage="decode", done=1, total=2)).claim(LATE)
    assert (again.attempt, again.started_at, again.progress) == (2, LATE, None)


def test_a_live_attempt_keeps_the_job_until_it_releases_it():
    with pytest.raises(JobHeld, match="attempt 1"):
        RUNNING.claim(SOON)
    with pytest.raises(JobHeld, match="attempt 1"):
        RUNNING.give_up(SOON, ERROR)
    released = RUNNING.release(1)
    assert released.state_at(SOON, has_result=False) == "queued"
    assert released.claim(SOON).attempt == 2


def test_a_job_that_is_given_up_has_failed():
    given_up = RUNNING.give_up(LATE, ERROR)
    assert (given_up.stage, given_up.error, given_up.attempt) == ("failed", ERROR, 1)
    with pytest.raises(JobEnded):
        given_up.give_up(LATE, ERROR)


def test_a_claim_of_a_job_that_was_to_stop_cancels_it():
    canceled = RUNNING.request_cancel(SOON).claim(LATE)
    assert (canceled.stage, canceled.attempt, canceled.ended_at) == ("canceled", 1, LATE)


@pytest.mark.parametrize(
    "step",
    [
        lambda record: record.beat(1, LATE, None),
        lambda record: record.release(1),
        lambda record: record.fail(1, LATE, ERROR),
        lambda record: record.yield_cancel(1, LATE),
    ],
)
def test_an_attempt_that_lost_the_job_can_do_nothing(step):
    with pytest.raises(AttemptLost, match="attempt 1: the job is running, attempt 2"):
        step(RUNNING.claim(LATE))
    with pytest.raises(AttemptLost, match="the job is canceled"):
        step(RUNNING.yield_cancel(1, SOON))
    with pytest.raises(AttemptLost, match="the job is queued"):
        step(QUEUED)


def test_failure_is_final_and_says_why():
    failed = RUNNING.fail(1, SOON, ERROR)
    assert failed.state_at(LATE, has_result=False) == "failed"
    assert (failed.error, failed.ended_at, failed.ended) == (ERROR, SOON, True)
    with pytest.raises(JobEnded, match="the job has failed"):
        failed.claim(LATE)
    with pytest.raises(JobEnded):
        failed.request_cancel(LATE)


def test_cancel_of_a_queued_job_is_immediate_and_final():
    canceled = QUEUED.request_cancel(NOW)
    assert canceled.state_at(NOW, has_result=False) == "canceled"
    assert canceled.ended_at == NOW
    with pytest.raises(JobEnded, match="has been canceled"):
        canceled.claim(SOON)


def test_cancel_of_a_running_job_asks_its_attempt():
    asked = RUNNING.request_cancel(SOON)
    assert asked.cancel_requested
    assert asked.state_at(SOON, has_result=False) == "running"
    assert asked.yield_cancel(1, SOON).state_at(SOON, has_result=False) == "canceled"


def test_cancel_of_a_job_whose_attempt_died_is_immediate():
    assert RUNNING.request_cancel(LATE).state_at(LATE, has_result=False) == "canceled"


def test_a_request_to_cancel_outlives_a_beat():
    assert RUNNING.request_cancel(SOON).beat(1, SOON, None).cancel_requested


@pytest.mark.parametrize(
    "record", [QUEUED, RUNNING, RUNNING.fail(1, SOON, ERROR), QUEUED.request_cancel(NOW)]
)
def test_a_stored_result_decides_success(record: JobRecord):
    assert record.state_at(LATE, has_result=True) == "succeeded"


@pytest.mark.parametrize("record", [QUEUED, RUNNING, RUNNING.fail(1, SOON, ERROR)])
def test_a_record_survives_the_wire(record: JobRecord):
    assert JobRecord.model_validate_json(record.model_dump_json()) == record


def test_a_record_is_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        RUNNING.attempt = 7
