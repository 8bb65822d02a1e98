"""What a caller does with the API: creates jobs, waits for them, and removes them."""

import json
import time
from collections.abc import Callable
from typing import Any

from rollout_core.testing.http import Answer, Api

WAIT_SECONDS = 120.0
POLL_SECONDS = 0.1
VIDEO_TYPE = "video/mp4"
ENDED = ("succeeded", "failed", "canceled")

Json = dict[str, Any]


class Caller:
    """Creates jobs for one model, and remembers them so that they can be deleted."""

    def __init__(self, api: Api, model: str, video: bytes) -> None:
        self.api = api
        self.model = model
        self.video = video
        self._created: list[str] = []

    def request(self, **fields: Any) -> Json:
        """Return a request for the model that is computed even if its answer is known."""
        return {"model": self.model, "reuse": False, "overlay": None, **fields}

    def submit(self, **fields: Any) -> Answer:
        """Upload the video in a form."""
        asked = json.dumps(self.request(**fields)).encode()
        return self.noting(self.api.post_form("/v1/jobs", {"video": self.video, "request": asked}))

    def upload(self) -> Json:
        """Send the video as an upload of its own; return the Upload."""
        answer = self.api.post("/v1/uploads?filename=clip.mp4", self.video, Content_Type=VIDEO_TYPE)
        assert answer.status == 201, answer
        return as_json(answer)

    def submit_json(self, upload_id: str, *, headers: Json | None = None, **fields: Any) -> Answer:
        """Create a job for an upload."""
        asked = {"upload": upload_id} | self.request(**fields)
        return self.noting(self.api.post_json("/v1/jobs", asked, **(headers or {})))

    def noting(self, answer: Answer) -> Answer:
        """Remember the job of an answer, if it has one."""
        if answer.status in (200, 202):
            self._created.append(answer.json()["id"])
        return answer

    def create(self, **fields: Any) -> Json:
        """Upload the video in a form; return the new job."""
        answer = self.submit(**fields)
        assert answer.status == 202, answer
        return as_json(answer)

    def job(self, job_id: str) -> Json:
        """Return a job."""
        answer = self.api.get(f"/v1/jobs/{job_id}")
        assert answer.status == 200, answer
        return as_json(answer)

    def wait(self, job_id: str, *states: str) -> Json:
        """Return a job once it is in one of `states`, or has ended."""
        wanted = {*states, *ENDED}
        return wait_until(lambda: job if (job := self.job(job_id))["state"] in wanted else None)

    def finish(self, **fields: Any) -> Json:
        """Create a job and return it once it has ended."""
        return self.wait(self.create(**fields)["id"])

    def fetch(self, job: Json, name: str, **headers: str) -> Answer:
        """Return an artifact of a job."""
        return self.api.get(f"/v1/jobs/{job['id']}/artifacts/{name}", **headers)

    def clean(self) -> None:
        """Delete every job that was created."""
        for job_id in self._created:
            self.api.delete(f"/v1/jobs/{job_id}")


def wait_until(look: Callable[[], Json | None]) -> Json:
    """Return what `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"nothing after {WAIT_SECONDS:g} s"
        time.sleep(POLL_SECONDS)
    return found


def as_json(answer: Answer) -> Json:
    """Return the JSON object of an answer."""
    found = answer.json()
    assert isinstance(found, dict), answer
    return found


def require_problem(answer: Answer, status: int, *codes: str) -> Json:
    """Check that an answer is a problem document with one of `codes`; return it."""
    assert answer.status == status, answer
    assert answer.headers.get_content_type() == "application/problem+json"
    problem = as_json(answer)
    assert {"type", "title", "status", "detail", "code"} <= problem.keys()
    assert problem["status"] == status
    assert problem["code"] in codes, problem
    assert problem["title"]
    return problem
