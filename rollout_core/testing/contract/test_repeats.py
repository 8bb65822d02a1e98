"""Asking twice: idempotency keys, answers that are known already, and finding one's jobs."""

import json
import secrets

import pytest

from rollout_core.testing.contract.caller import Caller, require_problem
from rollout_core.testing.http import Answer


def submit(caller: Caller, key: str, **fields: object) -> Answer:
    asked = json.dumps(caller.request(**fields)).encode()
    parts = {"video": caller.video, "request": asked}
    return caller.noting(caller.api.post_form("/v1/jobs", parts, Idempotency_Key=key))


class TestIdempotency:
    def test_the_same_key_and_body_give_the_same_job(self, caller: Caller) -> None:
        key = secrets.token_hex(8)
        first, second = submit(caller, key), submit(caller, key)
        assert first.status == 202
        assert second.status in (200, 202)
        assert first.json()["id"] == second.json()["id"]

    def test_the_same_key_with_another_body_is_refused(self, caller: Caller) -> None:
        key = secrets.token_hex(8)
        assert submit(caller, key).status == 202
        answer = submit(caller, key, method="attention")
        require_problem(answer, 422, "idempotency_key_reused")


class TestReuse:
    def test_a_known_answer_comes_at_once(self, caller: Caller) -> None:
        options = {"start_layer": 1, "discard_ratio": 0.25}
        first = caller.finish(**options)
        answer = caller.submit(**options, reuse=True)
        assert answer.status == 200
        job = answer.json()
        assert (job["state"], job["reused_from"]) == ("succeeded", first["id"])
        assert job["id"] != first["id"]
        assert job["result"]["predictions"] == first["result"]["predictions"]
        sheets = [caller.fetch(item, "sheet.png").body for item in (first, job)]
        assert sheets[0] == sheets[1]

    def test_another_request_is_computed(self, caller: Caller) -> None:
        caller.finish(discard_ratio=0.125)
        assert caller.submit(discard_ratio=0.375, reuse=True).status == 202

    @pytest.mark.usefixtures("is_fake")
    def test_a_script_is_followed_every_time(self, caller: Caller) -> None:
        assert caller.finish(fake={"seconds": 0.5})["state"] == "succeeded"
        assert caller.submit(fake={"seconds": 0.5}, reuse=True).status == 202


class TestFilters:
    def test_a_job_is_found_by_its_tag(self, caller: Caller) -> None:
        tag = f"contract-{secrets.token_hex(4)}"
        job = caller.create(tag=tag)
        page = caller.api.get(f"/v1/jobs?tag={tag}").json()
        assert [(item["id"], item["tag"]) for item in page["jobs"]] == [(job["id"], tag)]

    def test_jobs_are_found_by_their_model(self, caller: Caller) -> None:
        job = caller.create()
        page = caller.api.get(f"/v1/jobs?model={caller.model}&limit=200").json()
        assert job["id"] in {item["id"] for item in page["jobs"]}
        assert {item["model"] for item in page["jobs"]} == {caller.model}

    def test_a_job_says_when_its_files_will_be_removed(self, caller: Caller) -> None:
        job = caller.finish()
        assert job["expires_at"] > job["ended_at"]

    @pytest.mark.usefixtures("is_fake")
    def test_a_job_that_waits_has_a_position(self, caller: Caller) -> None:
        first = caller.create(fake={"seconds": 600})
        second = caller.create()
        assert second["state"] == "queued"
        assert second["queue_position"] >= 1
        caller.api.delete(f"/v1/jobs/{first['id']}")
