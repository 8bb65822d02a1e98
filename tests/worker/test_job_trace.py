import json
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rollout_core import logs, tracing
from rollout_core.contract import ExplainRequest
from rollout_core.jobs.records import JobRecord, Origin, Ticket
from rollout_core.logs import JsonFormatter
from rollout_core.timings import Timings
from worker import job_trace

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = "0123456789abcdef" * 2
TICKET = Ticket(
    id=JOB, request=ExplainRequest(model="m"), created_at=NOW, upload_bytes=1, owner="ann"
)
ORIGIN = Origin(request_id="abc.1", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")


@pytest.fixture
def spans():
    """Return a call that gives the finished spans by name."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield lambda: {span.name: span for span in exporter.get_finished_spans()}
    tracing.shut_down()


def record(attempt, waited_seconds=2.5):
    return JobRecord(attempt=attempt, started_at=NOW + timedelta(seconds=waited_seconds))


@dataclass
class Work:
    clips: int = 3
    timings: Timings = field(default_factory=Timings)


def seconds(span):
    return (span.end_time - span.start_time) / 1e9


def test_lines_are_about_the_job_inside_only():
    with job_trace.of_job(TICKET, ORIGIN), job_trace.of_attempt(TICKET, record(2), ORIGIN):
        about = logs.present()
    assert about == logs.About(
        request_id="abc.1", attempt=2, owner="ann", trace_id="a" * 32, job_id=None
    )
    assert logs.present() == logs.About()


def test_time_in_the_queue_precedes_the_first_attempt_only(spans):
    for attempt, names in ((1, {"queue", "attempt"}), (2, {"queue", "attempt"})):
        with job_trace.of_attempt(TICKET, record(attempt), ORIGIN):
            pass
        assert spans().keys() == names
    assert seconds(spans()["queue"]) == pytest.approx(2.5, abs=0.01)
    assert spans()["attempt"].attributes["rollout.attempt"] == 2
    assert spans()["queue"].parent.span_id == int("b" * 16, 16)


def test_clock_that_was_set_back_gives_no_negative_time(spans):
    with job_trace.of_attempt(TICKET, record(1, waited_seconds=-5), ORIGIN):
        pass
    assert seconds(spans()["queue"]) == 0


def test_job_without_a_trace_begins_one(spans):
    with job_trace.of_attempt(TICKET, record(1), Origin()):
        pass
    assert spans()["attempt"].parent is None


def test_each_stage_has_one_span_however_often_it_came(spans):
    with job_trace.of_stages(Work()) as work, work.timings.stage("wait"):
        for _ in range(3):
            with work.timings.stage("decode"):
                time.sleep(0.01)
            with work.timings.stage("explain"):
                time.sleep(0.02)
    found = spans()
    assert found.keys() == {"wait", "decode", "explain"}
    decode = found["decode"]
    assert decode.attributes["rollout.clips"] == 3
    assert decode.attributes["rollout.seconds"] == pytest.approx(work.timings.seconds["decode"])
    assert seconds(decode) >= decode.attributes["rollout.seconds"] + 0.04
    assert seconds(found["explain"]) >= found["explain"].attributes["rollout.seconds"]
    assert decode.start_time < found["explain"].start_time < decode.end_time


def test_stages_of_an_attempt_that_fails_are_there_until_then(spans):
    with (
        pytest.raises(ValueError, match="x"),
        job_trace.of_stages(Work(clips=0)) as work,
        work.timings.stage("open"),
    ):
        raise ValueError("x")
    assert spans().keys() == {"open"}


@pytest.mark.parametrize("why", [None, "it is broken"])
def test_the_end_is_one_line_with_state_and_seconds(caplog, spans, why):
    with caplog.at_level(logging.INFO), tracing.span("attempt"):
        job_trace.log_end("failed", 1.2345, why)
    (made,) = caplog.records
    assert made.getMessage() == "failed after 1.2 s" + (f": {why}" if why else "")
    found = json.loads(JsonFormatter().format(made))
    assert (found["state"], found["seconds"]) == ("failed", 1.234)
    assert spans()["attempt"].attributes == {"rollout.state": "failed"}
