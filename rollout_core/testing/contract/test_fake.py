"""What a request can tell the fake engine, and what a real one says to that."""

import time

import pytest

from rollout_core.testing.contract.caller import Caller, Json, require_problem


@pytest.mark.usefixtures("is_fake")
@pytest.mark.parametrize("code", ["video_encrypted", "out_of_memory", "deadline_exceeded"])
def test_a_job_fails_with_the_code_that_was_asked_for(caller: Caller, code: str) -> None:
    job = caller.finish(fake={"fail": code})
    assert (job["state"], job["error"]["code"]) == ("failed", code)


@pytest.mark.usefixtures("is_fake")
def test_a_job_takes_the_time_that_was_asked_for(caller: Caller) -> None:
    job = caller.create(fake={"seconds": 1})
    began = time.monotonic()
    assert caller.wait(job["id"])["state"] == "succeeded"
    assert time.monotonic() - began > 0.9


@pytest.mark.usefixtures("is_fake")
def test_a_running_job_is_canceled(caller: Caller) -> None:
    job = caller.create(fake={"seconds": 600})
    caller.wait(job["id"], "running")
    assert caller.api.post(f"/v1/jobs/{job['id']}/cancel").status == 202
    assert caller.wait(job["id"])["state"] == "canceled"


@pytest.mark.usefixtures("is_fake")
def test_artifacts_of_a_running_job_are_not_there_yet(caller: Caller) -> None:
    job = caller.create(fake={"seconds": 600})
    require_problem(caller.fetch(job, "sheet.png"), 409, "job_not_finished")
    assert caller.api.delete(f"/v1/jobs/{job['id']}").status == 204


@pytest.mark.usefixtures("is_fake")
def test_a_crashed_attempt_is_repeated(caller: Caller) -> None:
    job = caller.finish(fake={"crash_attempts": 1})
    assert (job["state"], job["attempt"]) == ("succeeded", 2)


def test_a_real_engine_refuses_a_script(caller: Caller, served: Json) -> None:
    if served["engines"] == ["fake"]:
        pytest.skip("the engine is fake")
    require_problem(caller.submit(fake={"seconds": 1}), 422, "invalid_request")
