import json

from rollout_core.testing.contract.caller import Caller, Json, require_problem


def test_an_upload_is_answered_at_once_with_the_job_and_its_place(caller: Caller) -> None:
    answer = caller.submit()
    assert answer.status == 202
    job = answer.json()
    assert answer.headers["Location"].endswith(f"/v1/jobs/{job['id']}")
    assert int(answer.headers["Retry-After"]) >= 1
    assert job["state"] in ("queued", "running", "succeeded")
    assert job["model"] == caller.model
    assert job["request"]["model"] == caller.model


def test_a_form_may_have_no_request(caller: Caller) -> None:
    answer = caller.noting(caller.api.post_form("/v1/jobs", {"video": caller.video}))
    if answer.status != 200 and answer.status != 202:
        require_problem(answer, 422, "unknown_model")  # several models, and no default


def test_a_job_succeeds_with_predictions_and_artifacts(done: Json) -> None:
    assert done["state"] == "succeeded"
    assert done["error"] is None
    assert done["attempt"] >= 1
    assert done["created_at"] <= done["started_at"] <= done["ended_at"]
    result = done["result"]
    probabilities = [item["probability"] for item in result["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 1 <= len(probabilities) <= 5
    assert 0 < sum(probabilities) < 1.001
    names = {item["name"] for item in result["artifacts"]}
    drawn = {"overlay.mp4", "sheet.png", "preview.mp4", "thumbnails.jpg"}
    assert names == {"result.json", "rollout.npz", *drawn}


def test_a_job_without_an_overlay_has_no_overlay_video(caller: Caller) -> None:
    job = caller.finish(overlay=None)
    names = {item["name"] for item in job["result"]["artifacts"]}
    assert names == {"result.json", "rollout.npz", "sheet.png"}


def test_states_only_go_forward(caller: Caller) -> None:
    order = ["queued", "running", "succeeded"]
    job = caller.create(clips="tile")
    seen = [job["state"]]
    while job["state"] != "succeeded":
        job = caller.job(job["id"])
        assert job["state"] in order, job
        seen.append(job["state"])
        assert (job["ended_at"] is not None) == (job["state"] == "succeeded")
        assert (job["result"] is not None) == (job["state"] == "succeeded")
    assert [order.index(state) for state in seen] == sorted(order.index(state) for state in seen)


def test_a_job_can_be_listed_and_filtered(caller: Caller, done: Json) -> None:
    page = caller.api.get("/v1/jobs?state=succeeded&limit=200").json()
    assert done["id"] in {job["id"] for job in page["jobs"]}
    assert {job["state"] for job in page["jobs"]} == {"succeeded"}


def test_pages_follow_each_other_newest_first(caller: Caller) -> None:
    ids = [caller.create()["id"] for _ in range(3)]
    found: list[Json] = []
    cursor = ""
    while len(found) < 3:
        page = caller.api.get(f"/v1/jobs?limit=1{cursor}").json()
        found += page["jobs"]
        cursor = f"&cursor={page['next_cursor']}"
    assert {job["id"] for job in found} == {*ids}
    created = [job["created_at"] for job in found]
    assert created == sorted(created, reverse=True)


def test_a_job_can_be_canceled_once(caller: Caller) -> None:
    job = caller.create(clips="tile", overlay={})
    answer = caller.api.post(f"/v1/jobs/{job['id']}/cancel")
    if answer.status == 409:  # it was faster
        require_problem(answer, 409, "job_ended")
        return
    assert answer.status == 202
    ended = caller.wait(job["id"])
    assert ended["state"] in ("canceled", "succeeded")
    again = caller.api.post(f"/v1/jobs/{job['id']}/cancel")
    require_problem(again, 409, "job_ended")


def test_a_deleted_job_is_gone(caller: Caller) -> None:
    job = caller.finish()
    answer = caller.api.delete(f"/v1/jobs/{job['id']}")
    assert (answer.status, answer.body) == (204, b"")
    require_problem(caller.api.get(f"/v1/jobs/{job['id']}"), 404, "job_not_found")
    require_problem(caller.fetch(job, "sheet.png"), 404, "job_not_found")
    require_problem(caller.api.delete(f"/v1/jobs/{job['id']}"), 404, "job_not_found")


def test_a_job_names_the_upload_that_it_made(done: Json) -> None:
    assert len(done["upload"]) == 32


def test_the_same_request_gives_the_same_answer(caller: Caller) -> None:
    first, second = caller.finish(), caller.finish()
    assert first["result"]["predictions"] == second["result"]["predictions"]
    assert first["id"] != second["id"]


def test_the_request_comes_back_with_its_fields(caller: Caller) -> None:
    asked = {"method": "attention", "layer": 1, "head_fusion": "max"}
    job = caller.finish(**asked)
    assert {name: job["request"][name] for name in asked} == asked
    stored = json.loads(caller.fetch(job, "result.json").body)
    assert {name: stored["request"][name] for name in asked} == asked
