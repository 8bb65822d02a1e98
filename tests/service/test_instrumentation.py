import pytest
from opentelemetry.trace import SpanKind

from service.jobs import Jobs


def test_without_traces_the_app_is_as_it_was(open_client):
    assert not open_client().app._native_telemetry.enabled()


def test_a_request_is_a_span_named_by_its_route(exporter, open_client):
    response = open_client().get(f"/v1/jobs/{'0' * 32}")
    assert response.status_code == 404
    (span,) = exporter.get_finished_spans()
    assert span.name == "GET /v1/jobs/{job_id}"
    assert span.kind is SpanKind.SERVER
    assert 404 in span.attributes.values()


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/docs", "/page/nothing.js"])
def test_what_would_drown_the_others_is_no_span(exporter, open_client, path):
    open_client().get(path)
    assert exporter.get_finished_spans() == ()


def test_a_bug_is_an_error_of_its_span_and_the_answer_stays(exporter, open_client, monkeypatch):
    monkeypatch.setattr(Jobs, "models", lambda self: 1 / 0)
    response = open_client(raise_server_exceptions=False).get("/v1/models")
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok


def test_a_refused_key_does_not_reach_the_span(exporter, open_client, keys_file):
    sent = {"Authorization": "Bearer key-of-nobody"}
    assert (
        open_client(api_keys_file=keys_file)
        .get("/v1/models?key=key-of-ann", headers=sent)
        .status_code
        == 401
    )
    (span,) = exporter.get_finished_spans()
    assert "key-of" not in span.to_json()


def test_the_job_carries_the_span_of_its_request(exporter, open_client, announce, mp4, store):
    announce()
    job = open_client().post("/v1/jobs", files={"video": ("v.mp4", mp4)}).json()
    (span,) = exporter.get_finished_spans()
    context = span.get_span_context()
    expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-"
    assert store.origin(job["id"]).traceparent.startswith(expected)
