import json
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from rollout_core.contract import ExplainRequest, Overlay
from rollout_core.errors import AttemptLost, JobHeld, UnknownFormat
from rollout_core.jobs.records import (
    FORMAT_VERSION,
    LEASE_SECONDS,
    Ended,
    JobError,
    JobRecord,
    Progress,
    Ticket,
)
from tests.rollout_core.jobs import release_before

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


@pytest.mark.parametrize(
    "step",
    [
        lambda record, token: record.require(1, token),
        lambda record, token: record.beat(1, SOON, None, token),
        lambda record, token: record.renew(SOON, token),
        lambda record, token: record.release(1, token),
        lambda record, token: record.hand_back(1, token),
    ],
)
def test_every_step_of_another_claim_with_the_same_number_fails(step):
    """A Redis that went back to an older snapshot has given the number twice."""
    mine = QUEUED.claim(NOW, max_attempts=3, token="a")
    assert step(mine, "a").token == "a"
    theirs = QUEUED.claim(LATE, max_attempts=3, token="b")
    assert theirs.attempt == mine.attempt
    for token in ("a", None):
        with pytest.raises(AttemptLost):
            step(theirs, token)


def test_claim_that_ends_the_job_can_be_renewed():
    over = RUNNING.claim(LATE, max_attempts=1, token="b")
    assert over.over
    later = LATE + timedelta(seconds=LEASE_SECONDS * 0.9)
    renewed = over.renew(later, "b")
    assert renewed.is_alive(later + timedelta(seconds=LEASE_SECONDS / 2))
    with pytest.raises(AttemptLost):
        over.renew(later, "a")
    with pytest.raises(AttemptLost):
        RUNNING.release(1).renew(SOON)


# Other versions

TICKET = Ticket(
    id="0" * 32,
    request=ExplainRequest(
        model="fake", clips="tile", overlay=Overlay(colormap="viridis", opacity=0.3)
    ),
    created_at=NOW,
    upload_bytes=5,
    owner="ann",
)
PROGRESS = Progress(stage="explain", done=1, total=2)
STORED = [
    (JobRecord(), release_before.JobRecord),
    (QUEUED.claim(NOW, max_attempts=3, token="a"), release_before.JobRecord),
    (RUNNING.beat(1, SOON, PROGRESS).request_cancel(), release_before.JobRecord),
    (claim(RUNNING, LATE, 1), release_before.JobRecord),
    (TICKET, release_before.Ticket),
    (RUNNING.ended("failed", SOON, ERROR), release_before.Ended),
    (QUEUED.ended("canceled", SOON), release_before.Ended),
]


@pytest.mark.parametrize(("record", "before"), STORED)
def test_release_before_reads_what_is_stored_without_new_features(record, before):
    read = before.model_validate_json(record.to_json())
    again = type(record).from_json(read.model_dump_json(exclude_unset=True).encode())
    assert again.to_json() == record.to_json()


@pytest.mark.parametrize(("record", "before"), STORED)
def test_what_the_release_before_has_stored_is_read(record, before):
    """It wrote every field."""
    text = before.model_validate_json(record.to_json()).model_dump_json()
    assert type(record).from_json(text.encode()).to_json() == record.to_json()


@pytest.mark.parametrize(
    "change", [{"version": FORMAT_VERSION + 1}, {"a_new_field": 1}, {"attempt": "one"}]
)
def test_what_a_newer_version_has_stored_is_told_apart(change):
    with pytest.raises(UnknownFormat, match="JobRecord: "):
        JobRecord.from_json(json.dumps(change).encode())


def test_lease_from_before_the_clock_was_set_back_has_expired():
    record = JobRecord().claim(NOW, max_attempts=3)
    assert record.is_alive(NOW)
    assert record.is_alive(NOW - timedelta(seconds=1))
    assert not record.is_alive(NOW - timedelta(hours=1))
