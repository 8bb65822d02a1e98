"""Following a job without asking again and again: events, and waiting for the answer."""

import json
import time
from collections.abc import Iterator

import pytest

from rollout_core.testing.contract.caller import Caller, Json, require_problem

NO_JOB = "0" * 32


def events(caller: Caller, job_id: str, **headers: str) -> Iterator[tuple[str, str, Json]]:
    """Yield name, id and data of each event, until the service ends the stream."""
    asked = {"Accept": "text/event-stream"} | headers
    with caller.api.opened("GET", f"/v1/jobs/{job_id}/events", None, asked) as response:
        assert response.status == 200
        assert response.headers.get_content_type() == "text/event-stream"
        fields: dict[str, str] = {}
        for line in response:
            name, _, value = line.decode().rstrip("\r\n").partition(":")
            if name:
                fields[name] = fields.get(name, "") + value.removeprefix(" ")
            elif not name and not value and "data" in fields:
                yield (
                    fields.get("event", "message"),
                    fields.get("id", ""),
                    json.loads(fields["data"]),
                )
                fields = {}


class TestEvents:
    def test_they_end_with_the_job(self, caller: Caller) -> None:
        job = caller.create(clips="tile")
        found = list(events(caller, job["id"]))
        names = [name for name, _, _ in found]
        assert names[-1] == "end"
        assert names.count("end") == 1
        assert set(names) <= {"state", "progress", "end"}
        assert found[-1][2] == caller.job(job["id"])
        assert found[-1][2]["state"] == "succeeded"

    @pytest.mark.usefixtures("is_fake")
    def test_progress_is_told(self, caller: Caller) -> None:
        job = caller.create(fake={"seconds": 3})
        told = [data for name, _, data in events(caller, job["id"]) if name == "progress"]
        assert told
        assert all({"stage", "done", "total"} <= data.keys() for data in told)

    def test_a_job_that_has_ended_has_its_end_at_once(self, caller: Caller, done: Json) -> None:
        ((name, last, data),) = [item for item in events(caller, done["id"]) if item[0] == "end"]
        assert (name, data["id"]) == ("end", done["id"])
        assert last

    def test_a_job_that_does_not_exist_has_none(self, caller: Caller) -> None:
        require_problem(caller.api.get(f"/v1/jobs/{NO_JOB}/events"), 404, "job_not_found")


class TestWaiting:
    def test_the_answer_to_an_upload_can_wait_for_the_end(self, caller: Caller) -> None:
        asked = json.dumps(caller.request()).encode()
        parts = {"video": caller.video, "request": asked}
        answer = caller.noting(caller.api.post_form("/v1/jobs", parts, Prefer="wait=60"))
        assert answer.status == 200
        assert answer.headers["Preference-Applied"] == "wait=60"
        assert answer.json()["state"] == "succeeded"

    @pytest.mark.usefixtures("is_fake")
    def test_it_waits_no_longer_than_asked(self, caller: Caller) -> None:
        job = caller.create(fake={"seconds": 600})
        began = time.monotonic()
        answer = caller.api.get(f"/v1/jobs/{job['id']}?wait=1")
        assert 0.9 < time.monotonic() - began < 10
        assert answer.status == 200
        assert answer.json()["state"] in ("queued", "running")
        caller.api.delete(f"/v1/jobs/{job['id']}")

    def test_a_job_that_has_ended_is_not_waited_for(self, caller: Caller, done: Json) -> None:
        began = time.monotonic()
        answer = caller.api.get(f"/v1/jobs/{done['id']}", Prefer="wait=60")
        assert answer.json()["state"] == "succeeded"
        assert time.monotonic() - began < 10

    def test_too_long_a_wait_is_refused(self, caller: Caller, done: Json) -> None:
        answer = caller.api.get(f"/v1/jobs/{done['id']}?wait=61")
        require_problem(answer, 422, "invalid_request")
