"""One trace from the HTTP request to the worker's stages, sent by real processes to a collector."""

import json
import re

import pytest

from tests.system.otlp_receiver import collecting
from tests.system.system import open_system, upload
from tests.system.waiting import wait_until

STAGES = ["open", "decode", "explain", "render", "save"]


@pytest.fixture(scope="module")
def collector():
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def system(collector):
    """An API and a worker that send their spans at once, and write their log as JSON."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        patch.setenv("ROLLOUT_LOG_FORMAT", "json")
        with open_system(forked=True) as system:
            system.api()
            system.worker(model="fake")
            system.worker(model="fake-crash")
            system.await_models("fake", "fake-crash")
            yield system


@pytest.fixture(scope="module")
def job(system, video):
    """A job that has ended, which a caller with a trace of its own has submitted."""
    sent = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "X-Request-ID": "request-1"}
    response = system.client.post("/v1/jobs", files=upload(video, "fake"), headers=sent)
    return system.wait(response.json()["id"])


def span(collector, name):
    return wait_until(lambda: collector.named(name))[0]


def test_all_spans_of_a_job_are_one_trace_in_order(collector, job):
    request, queue, attempt = (
        span(collector, name) for name in ("POST /v1/jobs", "queue", "attempt")
    )
    stages = [span(collector, name) for name in (*STAGES, "publish")]

    assert {item.trace_id for item in (request, queue, attempt, *stages)} == {"a" * 32}
    assert request.parent == "b" * 16
    assert {queue.parent, attempt.parent} == {request.span_id}
    assert {item.parent for item in stages} == {attempt.span_id}
    assert (request.service, attempt.service) == ("rollout-service", "rollout-worker")
    assert queue.start_ns < queue.end_ns <= attempt.start_ns < attempt.end_ns
    assert all(
        attempt.start_ns <= item.start_ns <= item.end_ns <= attempt.end_ns for item in stages
    )
    starts = [item.start_ns for item in stages]
    assert starts == sorted(starts)


def test_spans_say_what_they_are_about(collector, job):
    assert span(collector, "POST /v1/jobs").attributes["rollout.request_id"] == "request-1"
    attempt = span(collector, "attempt").attributes
    known = {name: value for name, value in attempt.items() if name.startswith("rollout.")}
    assert known == {
        "rollout.job_id": job["id"],
        "rollout.model": "fake",
        "rollout.attempt": 1,
        "rollout.clips": job["result"]["clips"],
        "rollout.state": "succeeded",
    }
    timings = job["result"]["timings_seconds"]
    for name in ("open", "decode", "explain", "render"):
        seconds = span(collector, name).attributes["rollout.seconds"]
        assert seconds == pytest.approx(timings[name], abs=0.002)


def test_a_failed_job_has_its_stages_until_then(collector, system, tmp_path):
    broken = b"\0\0\0\x18ftypisom" + bytes(1000)
    job = system.wait(system.accepted(broken))
    assert job["state"] == "failed"

    def found():
        return [
            s for s in collector.named("attempt") if s.attributes["rollout.job_id"] == job["id"]
        ]

    (attempt,) = wait_until(found)
    assert attempt.attributes["rollout.state"] == "failed"
    within = wait_until(lambda: [s.name for s in collector.spans if s.parent == attempt.span_id])
    assert "open" in within
    assert "explain" not in within


def test_each_attempt_of_a_job_is_a_span_of_its_trace(collector, system, video):
    job_id = system.accepted(video, "fake-crash")
    assert system.wait(job_id)["error"]["code"] == "worker_crashed"

    def attempts():
        found = collector.named("attempt")
        found = [item.attributes for item in found if item.attributes["rollout.job_id"] == job_id]
        return found if len(found) == 3 else None

    found = wait_until(attempts)
    assert [item["rollout.attempt"] for item in found] == [1, 2, 3]
    assert {item["rollout.state"] for item in found} == {"lost"}
    queues = [item.attributes["rollout.job_id"] for item in collector.named("queue")]
    assert queues.count(job_id) == 1


def test_health_checks_have_no_spans(collector, system, job):
    for _ in range(3):
        system.client.get("/livez")
    span(collector, "GET /v1/models")
    assert not [item for item in collector.spans if "livez" in item.name]


def test_no_span_is_made_for_each_message(collector, job):
    assert not [item for item in collector.spans if item.name.endswith((" send", " receive"))]


def test_log_lines_of_the_worker_have_request_job_attempt_and_trace(system, job):
    worker = next(item for item in system.processes if item.name.startswith("worker"))
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    about = [line for line in lines if line.get("job_id") == job["id"]]
    assert [line["message"].partition(" after")[0] for line in about] == [
        *("the attempt begins", "succeeded")
    ]
    for line in about:
        assert (line["request_id"], line["attempt"], line["trace_id"]) == ("request-1", 1, "a" * 32)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert about[-1]["state"] == "succeeded"
    assert about[-1]["seconds"] > 0


def test_log_lines_of_the_api_have_request_and_trace(system, job):
    (api,) = [process for process in system.processes if process.name.startswith("api")]
    lines = [line for line in api.log.read_text().splitlines() if line.startswith("{")]
    about = [line for line in map(json.loads, lines) if line.get("request_id") == "request-1"]
    assert [line["logger"] for line in about] == ["service.submissions", "service.access_log"]
    assert about[0]["job_id"] == job["id"]
    assert {line["trace_id"] for line in about} == {"a" * 32}
    assert about[1]["status"] == 202
