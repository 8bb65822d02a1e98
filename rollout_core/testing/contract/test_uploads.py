"""One upload, many questions."""

from hashlib import sha256

import pytest

from rollout_core.testing.contract.caller import VIDEO_TYPE, Caller, require_problem
from rollout_core.testing.http import Api

NO_UPLOAD = "0" * 32


def test_an_upload_says_what_arrived(caller: Caller) -> None:
    path = "/v1/uploads?filename=clip.mp4"
    answer = caller.api.post(path, caller.video, Content_Type=VIDEO_TYPE)
    assert answer.status == 201
    upload = answer.json()
    assert answer.headers["Location"].endswith(f"/v1/uploads/{upload['id']}")
    assert (upload["state"], upload["filename"]) == ("complete", "clip.mp4")
    assert upload["bytes"] == upload["received_bytes"] == len(caller.video)
    assert upload["sha256"] == sha256(caller.video).hexdigest()
    assert upload["created_at"] < upload["expires_at"]
    assert caller.api.get(f"/v1/uploads/{upload['id']}").json() == upload


def test_one_upload_serves_several_jobs(caller: Caller) -> None:
    upload = caller.upload()
    for method in ("rollout", "attention"):
        answer = caller.submit_json(upload["id"], method=method)
        assert answer.status == 202, answer
        job = caller.wait(answer.json()["id"])
        assert (job["state"], job["upload"]) == ("succeeded", upload["id"])
        assert job["filename"] == "clip.mp4"


def test_the_upload_of_a_form_can_be_used_again(caller: Caller) -> None:
    first = caller.finish()
    answer = caller.submit_json(first["upload"], method="attention")
    assert answer.status == 202
    assert caller.wait(answer.json()["id"])["state"] == "succeeded"


def test_uploads_are_listed_and_deleted(caller: Caller) -> None:
    upload = caller.upload()
    page = caller.api.get("/v1/uploads").json()
    assert upload["id"] in {item["id"] for item in page["uploads"]}
    assert "next_cursor" in page
    path = f"/v1/uploads/{upload['id']}"
    assert caller.api.delete(path).status == 204
    require_problem(caller.api.get(path), 404, "upload_not_found")
    require_problem(caller.api.delete(path), 404, "upload_not_found")
    require_problem(caller.submit_json(upload["id"]), 404, "upload_not_found")


@pytest.mark.usefixtures("is_fake")
def test_an_upload_in_use_is_not_deleted(caller: Caller) -> None:
    upload = caller.upload()
    answer = caller.submit_json(upload["id"], fake={"seconds": 600})
    assert answer.status == 202, answer
    path = f"/v1/uploads/{upload['id']}"
    require_problem(caller.api.delete(path), 409, "upload_in_use")
    assert caller.api.delete(f"/v1/jobs/{answer.json()['id']}").status == 204
    assert caller.api.delete(path).status == 204


def test_a_job_needs_an_upload_that_exists(caller: Caller) -> None:
    require_problem(caller.submit_json(NO_UPLOAD), 404, "upload_not_found")
    require_problem(caller.api.post_json("/v1/jobs", caller.request()), 422, "invalid_request")


def test_what_is_not_a_video_is_refused(caller: Caller) -> None:
    answer = caller.api.post("/v1/uploads", b"GIF89a" + bytes(2000), Content_Type=VIDEO_TYPE)
    require_problem(answer, 415, "video_container_unsupported")


def test_another_owner_does_not_see_the_upload(caller: Caller, other_api: Api) -> None:
    upload = caller.upload()
    path = f"/v1/uploads/{upload['id']}"
    require_problem(other_api.get(path), 404, "upload_not_found")
    require_problem(other_api.delete(path), 404, "upload_not_found")
    asked = {"upload": upload["id"]} | caller.request()
    require_problem(other_api.post_json("/v1/jobs", asked), 404, "upload_not_found")
