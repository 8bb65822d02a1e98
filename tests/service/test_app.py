import subprocess
import sys

import pytest

from service.app import create_app
from service.settings import Settings


@pytest.mark.parametrize("module", ["service.app", "service.__main__"])
def test_the_service_does_not_import_what_its_container_lacks(module):
    code = f"import sys, {module}; print(*sys.modules)"

    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    roots = {name.partition(".")[0] for name in printed.split()}
    assert {"service", "rollout_core", "fastapi"} <= roots
    assert (
        roots & {"torch", "timm", "einops", "av", "PIL", "cmap", "safetensors", "worker"} == set()
    )


def test_create_app_opens_neither_redis_nor_store(tmp_path):
    create_app(Settings(data_dir=tmp_path / "data", redis_url="redis://nowhere.invalid:1"))

    assert list(tmp_path.iterdir()) == []


def test_two_apps_share_the_stored_jobs(open_client, announce, mp4):
    announce()
    first, second = open_client(), open_client()

    job = first.post("/v1/jobs", files={"video": ("clip.mp4", mp4)}).json()

    assert second.get(f"/v1/jobs/{job['id']}").json() == job


GETS = [
    "/livez",
    "/readyz",
    "/v1/jobs",
    "/v1/models",
    "/v1/jobs/{id}/events",
    "/v1/uploads",
    "/v1/uploads/{upload}",
    "/v1/jobs/{id}",
    "/v1/jobs/{id}/deliveries",
    "/v1/jobs/{id}/artifacts/overlay.mp4",
    "/v1/jobs/{id}/artifacts/result.json",
    "/v1/jobs/{none}",
    "/v1/session",
    "/",
    "/page/sample.mp4",
    "/openapi.json",
    "/docs",
]


@pytest.fixture
def ended(new_job, worker):
    """Return the id of a job that has succeeded."""
    job_id = new_job()
    worker.succeed(job_id)
    return job_id


def url_of(path, client, job_id):
    """Return a path of `GETS` for an ended job and its upload."""
    upload = client.get(f"/v1/jobs/{job_id}").json()["upload"]
    return path.format(id=job_id, none="0" * 32, upload=upload)


def test_every_route_of_the_document_is_tested(client):
    described = client.app.openapi()["paths"]
    gets = [path for path, item in described.items() if "get" in item]
    paths = {path.replace("{job_id}", "{id}").replace("upload_id", "upload") for path in gets}

    assert paths - {"/v1/jobs/{id}/artifacts/{name}"} <= set(GETS)
    assert not any("head" in item for item in described.values())


@pytest.mark.parametrize("path", GETS)
def test_head_has_the_headers_of_get(client, ended, path):
    url = url_of(path, client, ended)
    got, head = client.get(url), client.head(url)

    assert head.content == b""
    assert (head.status_code, head.headers) == (got.status_code, got.headers)


@pytest.mark.parametrize("path", GETS)
def test_browsers_take_an_answer_for_what_it_is(client, ended, path):
    headers = client.get(url_of(path, client, ended)).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    is_strict = path.startswith(("/v1", "/page")) or path == "/"
    assert ("default-src 'none'" in headers["content-security-policy"]) == is_strict
    assert headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in headers
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("GET", "/v1/jobs?stat=queued", "query.stat"),
        ("GET", "/v1/jobs?State=queued", "query.State"),
        ("GET", "/v1/jobs?limit=1&limit=2", "query.limit"),
        ("GET", "/v1/jobs?limit=1&=", "query."),
        ("HEAD", "/v1/jobs?x=1", None),
        ("GET", "/v1/models?name=a", "query.name"),
        ("GET", "/v1/jobs/{id}?fields=a", "query.fields"),
        ("GET", "/v1/jobs/{id}/artifacts/sheet.png?download", "query.download"),
        ("POST", "/v1/jobs?model=fake", "query.model"),
        ("POST", "/v1/jobs/{id}/cancel?force=1", "query.force"),
        ("DELETE", "/v1/jobs/{id}?force=1", "query.force"),
    ],
)
def test_parameters_that_would_be_ignored_are_refused(client, ended, method, path, field):
    response = client.request(method, path.format(id=ended))

    assert response.status_code == 422
    if field is not None:
        assert response.json()["code"] == "invalid_request"
        assert response.json()["errors"][0]["field"] == field
    assert client.get(f"/v1/jobs/{ended}").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/jobs/{id}/cancel"), ("DELETE", "/v1/jobs/{id}"), ("GET", "/v1/jobs")],
)
def test_a_body_that_would_be_ignored_is_refused(client, ended, method, path):
    response = client.request(method, path.format(id=ended), json={"reason": "late"})

    assert response.status_code == 422
    assert response.json()["errors"] == [{"field": "body", "message": "this call takes no body"}]
    assert client.get(f"/v1/jobs/{ended}").status_code == 200


@pytest.mark.parametrize("path", ["/livez?x=1", "/readyz?x=1"])
def test_health_checks_may_add_what_they_like(client, path):
    assert client.get(path).status_code == 200


def test_the_method_cannot_be_overridden(client, ended):
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        response = client.post(f"/v1/jobs/{ended}", headers={name: "DELETE"})
        assert response.status_code == 405
        assert client.get(f"/v1/jobs/{ended}", headers={name: "DELETE"}).status_code == 200


def test_cookies_are_ignored(client):
    response = client.get("/v1/jobs", headers={"Cookie": "session=1; Authorization=Bearer a"})

    assert response.status_code == 200


@pytest.mark.parametrize(
    "path",
    ["//v1/jobs", "/v1//jobs", "/v1/jobs/", "/v1/jobs/{id}/", "/v1/jobs/{id}/artifacts/"],
)
def test_a_path_has_one_spelling(client, ended, path):
    assert client.get(f"http://localhost{path.format(id=ended)}").status_code == 404


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("sheet.png", 200),
        ("sheet%2Epng", 200),
        ("%73heet.png", 200),
        ("..%2Fartifacts%2Fsheet.png", 404),
        ("sheet.png%00", 404),
        ("sheet.png%2F", 404),
        ("SHEET.PNG", 404),
    ],
)
def test_names_of_artifacts_may_be_percent_encoded(client, ended, name, status):
    assert client.get(f"/v1/jobs/{ended}/artifacts/{name}").status_code == status


def test_no_path_answers_with_a_redirection(client):
    assert client.get("/v1/jobs/", follow_redirects=False).status_code == 404
