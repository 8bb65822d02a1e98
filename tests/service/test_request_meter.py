"""Requests as they are counted, by the whole app."""

import pytest
from starlette.testclient import TestClient

from service.request_meter import MeasureRequests
from tests.service.owners import headers

JOB = "0" * 32


@pytest.fixture
def count(client):
    """Return how often a request was counted."""

    def count(method, route, status, client=client):
        registry = client.app_state["services"].metrics.registry
        labels = {"method": method, "route": route, "status": status}
        return registry.get_sample_value("rollout_http_requests_total", labels) or 0

    return count


def labels_of(client, metric="rollout_http_requests"):
    registry = client.app_state["services"].metrics.registry
    families = [family for family in registry.collect() if family.name == metric]
    return [sample.labels for family in families for sample in family.samples]


def test_requests_are_counted_by_template_method_and_class_of_status(client, count):
    for number in range(3):
        client.get(f"/v1/jobs/{number:032x}")
    client.get("/v1/jobs")
    client.delete(f"/v1/jobs/{JOB}")
    client.put("/livez")

    assert count("GET", "/v1/jobs/{job_id}", "4xx") == 3
    assert count("GET", "/v1/jobs", "2xx") == 1
    assert count("DELETE", "/v1/jobs/{job_id}", "4xx") == 1
    assert count("other", "/livez", "4xx") == 1


def test_what_clients_invent_makes_no_new_labels(client):
    for word in ("/a", "/b/c", "/v1/none", "/page/none.js", "/?x=1"):
        client.get(word)
    client.request("BREW", "/v1/jobs")
    client.request("STEEP", "/v1/jobs")

    labels = labels_of(client)

    assert {each["route"] for each in labels} == {"unmatched", "page", "/v1/jobs"}
    assert {each["method"] for each in labels} == {"GET", "other"}
    assert len(labels) == 4  # the page is there, and one of its files is not


def test_refused_keys_are_counted_where_they_were_refused(keyed, count):
    keyed.get("/v1/jobs")
    keyed.get("/v1/jobs", headers={"Authorization": "Bearer wrong"})

    assert count("GET", "/v1/jobs", "4xx", keyed) == 2


def test_below_a_root_path_the_templates_are_the_same(open_client, count):
    client = open_client(root_path="/explain")
    client.get(f"/explain/v1/jobs/{JOB}")
    client.get("/explain/page/main.js")

    assert count("GET", "/v1/jobs/{job_id}", "4xx", client) == 1
    assert count("GET", "page", "2xx", client) == 1


def test_an_internal_error_counts_as_one(open_client, count, monkeypatch):
    client = open_client(raise_server_exceptions=False)
    services = client.app_state["services"]
    monkeypatch.setattr(services.jobs, "models", lambda: 1 / 0)

    assert client.get("/v1/models").status_code == 500
    assert count("GET", "/v1/models", "5xx", client) == 1


def test_the_duration_ends_with_the_answer(client, count):
    client.get("/livez")
    registry = client.app_state["services"].metrics.registry
    labels = {"method": "GET", "route": "/livez"}

    assert registry.get_sample_value("rollout_http_request_seconds_count", labels) == 1
    total = registry.get_sample_value("rollout_http_request_seconds_sum", labels)
    assert 0 < total < 5
    bucket = labels | {"le": "+Inf"}
    assert registry.get_sample_value("rollout_http_request_seconds_bucket", bucket) == 1


def test_no_label_names_an_owner_or_a_job(keyed):
    keyed.get(f"/v1/jobs/{JOB}")
    assert keyed.get("/v1/jobs", headers=headers("ann")).status_code == 200

    text = repr(labels_of(keyed))

    assert "ann" not in text
    assert JOB not in text


def test_a_lifespan_passes_untouched():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    with TestClient(MeasureRequests(app, routes=())):
        assert seen == ["lifespan"]
