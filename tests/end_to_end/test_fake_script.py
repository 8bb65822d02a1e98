"""What a request tells the fake engine to do happens to its job."""

import time

import pytest

from rollout_core.errors import DeadlineExceeded, VideoUndecodable


@pytest.mark.parametrize("kind", [VideoUndecodable, DeadlineExceeded])
def test_a_job_fails_with_the_code_that_was_asked_for(system, video, kind):
    job = system.wait(system.accepted(video, fake={"fail": kind.code}))
    assert (job["state"], job["attempt"], job["result"]) == ("failed", 1, None)
    assert (job["error"]["code"], job["error"]["title"]) == (kind.code, kind.title)
    assert job["request"]["fake"]["fail"] == kind.code


def test_a_job_takes_the_time_that_was_asked_for(system, video):
    job_id = system.accepted(video, overlay=None, fake={"seconds": 1.5})
    shown = system.wait(job_id, "running", until=lambda job: (job["progress"] or {}).get("done"))
    assert shown["progress"]["total"] == 100
    job = system.wait(job_id)
    assert job["state"] == "succeeded"
    assert job["result"]["timings_seconds"]["total"] >= 1.5


def test_a_job_that_takes_long_is_canceled_at_once(system, video):
    job_id = system.accepted(video, fake={"seconds": 600, "fail": "too_much_work"})
    system.wait(job_id, "running")
    began = time.monotonic()
    assert system.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    assert system.wait(job_id)["state"] == "canceled"
    assert time.monotonic() - began < 5


def test_a_job_succeeds_after_the_attempts_that_were_told_to_crash_and_hang(system, video):
    asked = {"crash_attempts": 1, "hang_attempts": 1}
    job = system.wait(system.accepted(video, overlay=None, fake=asked))
    assert (job["state"], job["attempt"]) == ("succeeded", 3), job


def test_a_job_of_which_every_attempt_crashes_fails(system, video):
    job = system.wait(system.accepted(video, fake={"crash_attempts": 3, "seconds": 600}))
    assert (job["state"], job["attempt"]) == ("failed", 3)
    assert job["error"]["code"] == "worker_crashed"


def test_a_code_that_no_job_has_is_refused(system, video):
    response = system.submit(video, fake={"fail": "unauthorized"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
