"""The common mistakes of a caller: each has a problem document that says what is wrong."""

import json
from typing import Any

import pytest

from rollout_core.testing.contract.caller import Caller, require_problem

NO_JOB = "0" * 32


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"metod": "rollout"}, "metod"),
        ({"method": "magic"}, "method"),
        ({"discard_ratio": 1.5}, "discard_ratio"),
        ({"start_layer": 1000}, "start_layer"),
        ({"method": "attention", "discard_ratio": 0.5}, "discard_ratio"),
        ({"start_seconds": 3, "end_seconds": 2}, "end_seconds"),
        ({"query": {"frame": 0, "row": 999, "column": 0}}, "row"),
        ({"method": "gradient_rollout", "target": "no such class"}, "no such class"),
    ],
)
def test_a_wrong_field_is_named(caller: Caller, fields: dict[str, Any], named: str) -> None:
    problem = require_problem(caller.submit(**fields), 422, "invalid_request")
    assert named in json.dumps(problem)


def test_an_unknown_model_is_refused_with_those_that_are_known(caller: Caller) -> None:
    problem = require_problem(caller.submit(model="no-such-model"), 422, "unknown_model")
    assert caller.model in problem["detail"]


def test_a_request_that_is_not_json_is_refused(caller: Caller) -> None:
    parts = {"video": caller.video, "request": b"{'method': 'rollout'}"}
    require_problem(caller.api.post_form("/v1/jobs", parts), 422, "invalid_request")


def test_a_form_without_a_video_is_refused(caller: Caller) -> None:
    problem = require_problem(
        caller.api.post_form("/v1/jobs", {"request": b"{}"}), 422, "form_invalid"
    )
    assert "video" in problem["detail"]


def test_a_form_with_another_part_is_refused(caller: Caller) -> None:
    parts = {"file": caller.video}
    require_problem(caller.api.post_form("/v1/jobs", parts), 422, "form_invalid")


def test_what_is_not_a_video_is_refused(caller: Caller) -> None:
    parts = {"video": b"GIF89a" + bytes(2000)}
    answer = caller.api.post_form("/v1/jobs", parts)
    require_problem(answer, 415, "video_container_unsupported")


def test_a_body_that_is_no_form_is_refused(caller: Caller) -> None:
    answer = caller.api.post("/v1/jobs", caller.video, Content_Type="video/mp4")
    require_problem(answer, 415, "media_type_unsupported")


def test_a_broken_video_fails_its_job(caller: Caller) -> None:
    broken = caller.video[:600]
    asked = json.dumps(caller.request()).encode()
    answer = caller.api.post_form("/v1/jobs", {"video": broken, "request": asked})
    job = caller.wait(caller.noting(answer).json()["id"])
    assert (job["state"], job["result"]) == ("failed", None)
    assert job["error"]["code"].startswith("video_")
    assert job["error"]["title"]
    require_problem(caller.fetch(job, "result.json"), 409, "job_without_result")


@pytest.mark.parametrize("job_id", [NO_JOB, "none", "..%2F..%2Fetc"])
def test_a_job_that_does_not_exist_is_not_found(caller: Caller, job_id: str) -> None:
    require_problem(caller.api.get(f"/v1/jobs/{job_id}"), 404, "job_not_found", "not_found")


def test_a_path_that_does_not_exist_is_not_found(caller: Caller) -> None:
    require_problem(caller.api.get("/v1/videos"), 404, "not_found")


def test_the_id_of_a_request_is_given_back(caller: Caller) -> None:
    assert caller.api.get("/v1/videos", X_Request_ID="abc.1").headers["X-Request-ID"] == "abc.1"
    assert caller.api.get("/v1/videos").headers["X-Request-ID"]


def test_a_wrong_method_names_those_that_work(caller: Caller) -> None:
    answer = caller.api.call("PUT", f"/v1/jobs/{NO_JOB}")
    require_problem(answer, 405, "method_not_allowed")
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("query", ["state=done", "limit=0", "limit=201", "cursor=x", "page=2"])
def test_a_wrong_parameter_is_refused(caller: Caller, query: str) -> None:
    problem = require_problem(caller.api.get(f"/v1/jobs?{query}"), 422, "invalid_request")
    assert query.partition("=")[0] in json.dumps(problem)
