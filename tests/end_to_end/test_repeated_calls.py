"""The API is killed while it creates a job: the repeated call gives exactly one job."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.system.constants import SHORT_LEASE
from tests.system.system import open_system, upload
from tests.system.waiting import wait_until

ANSWERED = (
    ("after", "service.answers:Answers.find"),
    ("after", "rollout_core.jobs.folder_store:FolderStore._link_result"),
    ("after", "service.submissions:Submissions._answer"),
)
QUEUED = (
    ("after", "service.folder_uploads:FolderUploads.attach"),
    ("before", "rollout_core.jobs.folder_store:FolderStore.accept"),
    ("after", "rollout_core.jobs.folder_store:FolderStore.accept"),
    ("after", "service.redis_jobs:RedisJobs.add"),
)


@pytest.mark.parametrize(("when", "point"), QUEUED)
def test_a_killed_api_makes_one_job_of_a_repeated_call(video, when, point):
    with open_system(forked=True) as system:
        jobs = _create_killed(system, video, when, point, reuse=False)

        assert len(jobs) == 1
        assert system.wait(jobs[0]["id"])["state"] == "succeeded"


@pytest.mark.parametrize(("when", "point"), ANSWERED)
def test_a_killed_api_answers_a_repeated_call_once(video, when, point):
    with open_system(forked=True) as system:
        system.worker(model="fake")
        first = _start(system, when, point, video)
        jobs = _create_killed(system, video, when, point, reuse=True)

        assert [job["state"] for job in jobs] == ["succeeded", "succeeded"]
        assert jobs[0]["reused_from"] == jobs[1]["id"] == first


def _halting_api(system, when, point):
    """Start an API that halts at a point of the first call that passes it."""
    mark = str(system.mark("reached"))
    return system.api(under=(*SHORT_LEASE, "tests.system.breakpoints", when, point, mark))


def _start(system, when, point, video):
    """Start the API, and compute a first job, which does not pass the point."""
    _halting_api(system, when, point)
    system.await_models("fake")
    first = system.accepted(video)
    system.wait(first)
    return first


def _create_killed(system, video, when, point, *, reuse):
    """Kill the API at a point of a call, repeat it, and return all jobs, newest first."""
    mark = system.mark("reached")
    if reuse:
        api = system.processes[-1]
    else:
        api = _halting_api(system, when, point)
        system.worker(model="fake")
        system.await_models("fake")

    def post():
        files, headers = upload(video, "fake", reuse=reuse), {"Idempotency-Key": "k"}
        return system.client.post("/v1/jobs", files=files, headers=headers)

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(post)
        wait_until(mark.exists, what=point)
        api.kill()
        assert isinstance(call.exception(), httpx.TransportError)

    def repeated():
        try:
            answer = post()
        except httpx.TransportError:  # the API starts again
            return None
        # Its lease outlives a process that was killed; the models are counted again.
        return answer if answer.status_code not in (409, 503) else None

    answer = wait_until(repeated, 60, "an answer to the repeated call")
    assert answer.status_code in (200, 202), answer.text
    jobs = system.client.get("/v1/jobs").json()["jobs"]
    assert answer.json()["id"] == jobs[0]["id"]
    assert post().json()["id"] == jobs[0]["id"]
    return jobs
