import logging
import subprocess
import sys
import time

import pytest

from rollout_core import tracing

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


def test_without_an_endpoint_nothing_is_imported_and_calls_do_nothing():
    program = (
        "import sys; from rollout_core import tracing; tracing.configure('x', {}); "
        f"before = set(sys.modules)\n"
        f"with tracing.span('a', parent={PARENT!r}): tracing.annotate({{'b': 1}})\n"
        "tracing.add_span('c', 0.0, 1.0); tracing.shut_down()\n"
        "assert tracing.traceparent() is None and tracing.provider() is None\n"
        "assert set(sys.modules) == before\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_SERVICE_NAME": "x"},
    ],
)
def test_nothing_is_sent_unless_an_endpoint_is_set(environment, caplog):
    tracing.configure("x", environment)
    assert tracing.provider() is None
    assert not caplog.records


def test_protocol_that_is_not_supported_is_told(caplog):
    tracing.configure("x", {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert tracing.provider() is None
    assert "the protocol grpc is not supported, use http/protobuf" in caplog.text


def test_missing_extra_is_told_and_hurts_nothing(caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with caplog.at_level(logging.WARNING):
        tracing.configure("x", ENDPOINT)
    assert tracing.provider() is None
    assert "pip install 'timesformer-rollout[telemetry]'" in caplog.text


@pytest.mark.parametrize(("named", "expected"), [({}, "mine"), ({"OTEL_SERVICE_NAME": "y"}, "y")])
def test_service_has_the_name_of_the_environment_or_its_own(monkeypatch, named, expected):
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    tracing.configure("mine", {**ENDPOINT, **named})
    try:
        assert tracing.provider().resource.attributes["service.name"] == expected
        assert tracing.provider().resource.attributes["service.version"]
    finally:
        tracing.shut_down()
    assert tracing.provider() is None


def test_span_continues_the_trace_of_another_process(exporter):
    with tracing.span("a", parent=PARENT, attributes={"x": 1}):
        carried = tracing.traceparent()
        with tracing.span("b"):
            pass
    inner, outer = exporter.get_finished_spans()
    assert (outer.name, outer.attributes) == ("a", {"x": 1})
    assert outer.parent.span_id == int("b" * 16, 16)
    assert inner.parent.span_id == outer.context.span_id
    assert carried == f"00-{'a' * 32}-{outer.context.span_id:016x}-01"
    assert tracing.trace_id_of(carried) == "a" * 32


def test_parent_that_is_not_sampled_is_not_sampled_here(exporter):
    with tracing.span("a", parent=PARENT[:-2] + "00"):
        pass
    assert exporter.get_finished_spans() == ()


def test_span_of_an_error_says_so(exporter):
    with pytest.raises(ValueError, match="x"), tracing.span("a"):
        raise ValueError("x")
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert span.events[0].name == "exception"


def test_span_of_a_time_that_has_passed_has_that_time(exporter):
    ended = time.monotonic() - 10
    now = time.time()
    tracing.add_span("a", ended - 3, ended, parent=PARENT)
    (span,) = exporter.get_finished_spans()
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(3, abs=1e-5)
    assert span.end_time / 1e9 == pytest.approx(now - 10, abs=0.5)


def test_annotation_is_of_the_present_span(exporter):
    with tracing.span("a"):
        tracing.annotate({"x": 2.5})
    assert exporter.get_finished_spans()[0].attributes == {"x": 2.5}


def test_outside_of_a_span_there_is_no_traceparent(exporter):
    assert tracing.traceparent() is None
    assert tracing.trace_id_of(None) is None


def test_collector_that_is_away_does_not_delay_the_end(monkeypatch):
    """The end of a process waits for what is left to be sent, but not for long."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT["OTEL_EXPORTER_OTLP_ENDPOINT"])
    tracing.configure("x", ENDPOINT)
    with tracing.span("a"):
        pass
    began = time.monotonic()
    tracing.shut_down()
    assert time.monotonic() - began < tracing.SHUTDOWN_SECONDS + 2
