import time

import pytest

from rollout_core.client import RolloutApiError, RolloutConnectionError, WaitTimeout
from rollout_core.jobs.schemas import Job
from tests.rollout_core.client.contract_server import Fault, sse

JOB = "0" * 31 + "1"
PROGRESS = {"stage": "explain", "done": 1, "total": 4, "of_later": 1}


@pytest.fixture
def job(server):
    server.jobs[JOB] = server.job(1)
    return server.jobs[JOB]


def streams(server, *parts):
    server.events = [list(part) for part in parts]


def test_events_are_read_from_the_stream(client, server, job):
    running, end = job | {"state": "running"}, server.ended(job)
    streams(
        server,
        [
            sse("state", running, "1"),
            ": ping\n\n",
            sse("progress", PROGRESS, "2"),
            sse("of_later", {"x": 1}, "3"),
            sse("end", end, "4"),
        ],
    )
    events = list(client.events(JOB))
    assert [event.kind for event in events] == ["state", "progress", "end"]
    assert events[0].job.state == "running"
    assert (events[1].progress.done, events[1].progress.total) == (1, 4)
    assert events[2].job.state == "succeeded"
    assert server.count("GET", "/v1/jobs/.*") == 1


def test_a_broken_stream_goes_on_after_the_last_event(client, server, job):
    streams(
        server,
        [sse("state", job, "7")],
        ["id: 8\nevent: progress\nda"],
        [sse("end", server.ended(job), "9")],
    )
    assert [event.kind for event in client.events(JOB)] == ["state", "end"]
    sent = [s.headers.get("last-event-id") for s in server.find("GET", f"/v1/jobs/{JOB}/events")]
    assert sent == [None, "7", "7"]


def test_a_stream_that_is_refused_for_a_while_is_tried_again(client, server, job):
    server.faults.append(Fault("GET", f"/v1/jobs/{JOB}/events", times=2, status=503))
    streams(server, [sse("end", server.ended(job))])
    assert client.wait(JOB).state == "succeeded"


def test_without_streams_it_asks_again_and_again(client, server, job):
    server.steps = [
        {"state": "running", "progress": PROGRESS},
        {"state": "running", "progress": PROGRESS | {"done": 3}},
        {"state": "running", "progress": PROGRESS | {"done": 3}},
        {"state": "succeeded"},
    ]
    kinds = [event.kind for event in client.events(JOB)]
    assert kinds == ["state", "progress", "end"]
    assert server.count("GET", f"/v1/jobs/{JOB}") == 4


def test_without_streams_it_asks_the_service_to_wait(client, server, job):
    server.prefers = True
    assert client.wait(JOB).state == "succeeded"
    (asked,) = server.find("GET", f"/v1/jobs/{JOB}")
    assert asked.headers["prefer"] == "wait=20"


def test_a_stream_that_never_brings_anything_is_given_up(client, server, job):
    streams(server, [], [], [])
    assert client.wait(JOB).state == "succeeded"
    assert server.count("GET", f"/v1/jobs/{JOB}/events") == 1


def test_an_unknown_job_is_an_error_at_once(client, server):
    streams(server, [])
    with pytest.raises(RolloutApiError) as caught:
        list(client.events(JOB))
    assert caught.value.code == "job_not_found"
    assert len(server.seen) == 1


def test_a_service_that_stays_away_is_an_error(client, server, job):
    server.faults.append(Fault("GET", "/v1/.*", times=999))
    with pytest.raises(RolloutConnectionError):
        client.wait(JOB)


def test_waiting_ends_with_the_timeout(client, server, job):
    server.steps = [{"state": "running"}]
    begun = time.monotonic()
    with pytest.raises(WaitTimeout, match=r"still running after 0\.3 s"):
        client.wait(JOB, timeout_seconds=0.3)
    assert 0.3 <= time.monotonic() - begun < 5


def test_a_failed_job_is_returned(client, server, job):
    error = {"code": "video_undecodable", "title": "The video cannot be decoded", "detail": ""}
    server.steps = [{"state": "failed", "error": error}]
    found = client.wait(JOB)
    assert (found.state, found.error.code) == ("failed", "video_undecodable")


def test_a_job_that_has_ended_is_not_asked_about(client, server, job):
    ended = Job.model_validate(server.ended(job), extra="ignore")
    assert client.wait(ended) is ended
    assert server.seen == []


def test_leaving_the_events_early_closes_the_stream(server, job, tmp_path):
    from rollout_core.client import RolloutClient

    streams(server, [sse("state", job, "1"), sse("end", server.ended(job))])
    with RolloutClient(server.url) as client:
        for _ in client.events(JOB):
            break
        assert client.get(JOB).id == JOB
