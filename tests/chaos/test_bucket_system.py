"""What a storm over a bucket sees of it: a check that cannot fail would prove nothing."""

import pytest

from tests.chaos.bucket_system import BucketSystem
from tests.rollout_core.jobs.store_cases import FAILED, JOB, OTHER, BucketCase


@pytest.fixture
def case(bucket, tmp_path) -> BucketCase:
    return BucketCase(bucket, tmp_path)


@pytest.fixture
def system(case) -> BucketSystem:
    """A system without processes."""
    system = object.__new__(BucketSystem)
    system._store = case.store
    return system


def test_open_job_has_attempts_and_no_end(case, system):
    case.accept()
    case.store.begin_attempt(JOB, 1, "a")
    assert system.stored_jobs() == [JOB]
    assert system.attempts_of(JOB) == ["1-a"]
    assert system.ends_of(JOB) == []


def test_result_is_not_an_attempt_that_was_left(case, system):
    case.accept()
    case.another().begin_attempt(JOB, 1, "b")
    case.publish(sheet=b"png")
    assert len(system.ends_of(JOB)) == 1
    assert system.attempts_of(JOB) == ["1-b"]
    case.store.end_attempts(JOB)
    assert system.attempts_of(JOB) == []


def test_second_end_is_found(case, system, bucket):
    case.accept()
    case.store.end(JOB, FAILED)
    bucket.put(f"jobs/{JOB}/otherlife/end.json", b"{}")
    assert len(system.ends_of(JOB)) == 2


def test_what_a_deletion_left_is_found_until_it_is_removed(case, system, bucket):
    bucket.put(f"jobs/{OTHER}/life/video", b"x")
    assert system.has_files(OTHER)
    assert system.stored_jobs() == []
    for _ in range(2):
        case.store.remove_stale_uploads(600)
        case.seconds += 601
    assert not system.has_files(OTHER)
