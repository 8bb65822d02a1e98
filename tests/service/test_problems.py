"""Every error is a problem document, without internal details."""

import logging

import pytest
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core import errors as core_errors
from rollout_core.errors import RolloutError
from service import errors as service_errors
from service.auth import ApiKeys
from service.jobs import Jobs
from service.problems import CORE_STATUS, MEDIA_TYPE, status_of

KEYS = {"type", "title", "status", "detail", "code"}


def problem(response, status, code):
    """Check that an answer is a problem document; return it."""
    assert response.status_code == status
    assert response.headers["content-type"] == MEDIA_TYPE
    document = response.json()
    assert document.keys() - {"errors"} == KEYS
    assert (document["status"], document["code"]) == (status, code)
    assert document["type"].endswith(code)
    return document


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/zzzzzz", "there is no path /zzzzzz; the paths are listed at /docs"),
        ("/v1/job", "there is no path /v1/job; did you mean /v1/jobs?"),
        ("/v1/modells", "there is no path /v1/modells; did you mean /v1/models?"),
    ],
)
def test_no_such_path(client, path, detail):
    assert problem(client.get(path), 404, "not_found")["detail"] == detail


def test_no_such_method(client):
    response = client.put("/livez")

    found = problem(response, 405, "method_not_allowed")
    assert found["detail"] == "/livez takes GET, HEAD, not PUT"
    assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/jobs", "GET, HEAD, POST"),
        (f"/v1/jobs/{'0' * 32}", "GET, HEAD, DELETE"),
        (f"/v1/jobs/{'0' * 32}/artifacts/sheet.png", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
    ],
)
def test_all_methods_of_a_path_are_named(client, path, allowed):
    assert client.put(path).headers["allow"] == allowed


def test_a_field_that_is_wrong_is_named_but_not_repeated(client):
    document = problem(client.get("/v1/jobs?limit=9" + "9" * 500), 422, "invalid_request")

    assert document["errors"][0]["field"] == "query.limit"
    assert "999" not in str(document)


def test_redis_that_is_down(open_client, tmp_path, mp4, leftovers):
    client = open_client(redis_url=f"unix://{tmp_path / 'nobody.sock'}")

    for response in (
        client.get("/v1/jobs"),
        client.get("/v1/models"),
        client.post("/v1/jobs", files={"video": ("clip.mp4", mp4)}),
    ):
        problem(response, 503, "redis_unavailable")
        assert int(response.headers["retry-after"]) > 0
        assert str(tmp_path) not in response.text
    assert leftovers() == []


def test_a_redis_failure_during_a_call_is_a_503(client, new_job, monkeypatch):
    def fail(*_, **__):
        raise RedisConnectionError("Error 111 connecting to 10.0.0.1:6379")

    monkeypatch.setattr(Jobs, "get", fail)

    document = problem(client.get(f"/v1/jobs/{'0' * 32}"), 503, "redis_unavailable")
    assert "10.0.0.1" not in str(document)


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
        AuthenticationError("invalid username-password pair"),
    ],
)
def test_redis_that_refuses(client, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(Jobs, "models", fail)

    problem(client.get("/v1/models"), 503, "redis_unavailable")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_store_that_is_broken(client, new_job, settings, method):
    job_id = new_job()
    jobs = settings.data_dir / "jobs"
    jobs.rename(settings.data_dir / "away")
    jobs.write_text("not a folder")

    response = client.request(method, f"/v1/jobs/{job_id}")

    problem(response, 503, "store_unavailable")
    assert str(settings.data_dir) not in response.text


def test_a_deletion_that_cannot_be_done_is_not_said_to_be(client, new_job, settings, leftovers):
    job_id = new_job()
    (settings.data_dir / "incoming").rmdir()

    problem(client.delete(f"/v1/jobs/{job_id}"), 503, "store_unavailable")

    (settings.data_dir / "incoming").mkdir()
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert leftovers() == []


def test_a_store_that_cannot_be_written(client, announce, mp4, monkeypatch):
    announce()

    def fail(*_):
        raise PermissionError(13, "Permission denied", "/srv/secret/incoming")

    monkeypatch.setattr("pathlib.Path.mkdir", fail)

    response = client.post("/v1/jobs", files={"video": ("clip.mp4", mp4)})

    document = problem(response, 503, "store_unavailable")
    assert "secret" not in str(document)
    assert int(response.headers["retry-after"]) > 0


def test_a_bug_is_logged_and_not_shown(open_client, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("in /srv/secret/module.py")

    monkeypatch.setattr(Jobs, "models", fail)
    client = open_client(raise_server_exceptions=False)

    document = problem(client.get("/v1/models"), 500, "internal")

    assert "secret" not in str(document)
    assert "Zero" not in str(document)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/jobs"),
        ("GET", "/v1/jobs"),
        ("GET", f"/v1/jobs/{'0' * 32}"),
        ("POST", f"/v1/jobs/{'0' * 32}/cancel"),
        ("DELETE", f"/v1/jobs/{'0' * 32}"),
        ("GET", f"/v1/jobs/{'0' * 32}/artifacts/sheet.png"),
        ("GET", "/v1/models"),
        ("GET", "/readyz"),
    ],
)
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("/srv/secret/module.py, line 1"), 500),
        (RolloutError("/srv/secret/module.py"), 500),
        (OSError(5, "Input/output error", "/srv/secret"), 503),
        (RedisConnectionError("/srv/secret.sock"), 503),
        (RecursionError("/srv/secret"), 500),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_call_shows_where_it_broke(open_client, mp4, monkeypatch, method, path, error, status):
    def fail(*_, **__):
        raise error

    for name in ("submit", "page", "get", "cancel", "delete", "models", "ready_workers"):
        monkeypatch.setattr(Jobs, name, fail)
    client = open_client(raise_server_exceptions=False)
    files = {"video": ("v.mp4", mp4)} if (method, path) == ("POST", "/v1/jobs") else None

    response = client.request(method, path, files=files)

    problem(response, status, response.json()["code"])
    assert "secret" not in response.text + str(response.headers)
    assert "Traceback" not in response.text


def test_a_bug_before_the_call_is_not_shown_either(open_client, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("/srv/secret/module.py")

    (tmp_path / "keys.toml").touch()
    monkeypatch.setattr(ApiKeys, "owner", fail)
    client = open_client(raise_server_exceptions=False, api_keys_file=tmp_path / "keys.toml")

    response = client.get("/v1/jobs", headers={"Authorization": "Bearer a"})

    problem(response, 500, "internal")
    assert "secret" not in response.text


def test_an_unavailable_service_is_logged_with_its_cause(client, monkeypatch, caplog):
    def fail(*_):
        raise RedisConnectionError("refused")

    monkeypatch.setattr(Jobs, "models", fail)
    with caplog.at_level(logging.ERROR):
        client.get("/v1/models")

    assert "refused" in caplog.text


def classes(module):
    found = (item for item in vars(module).values() if isinstance(item, type))
    return [item for item in found if issubclass(item, RolloutError)]


@pytest.mark.parametrize("error", classes(service_errors), ids=lambda error: error.__name__)
def test_every_failure_of_the_service_has_a_status_of_its_own(error):
    assert status_of(error) < 500 or error is RolloutError or status_of(error) in (502, 503, 507)


@pytest.mark.parametrize("error", classes(core_errors), ids=lambda error: error.__name__)
def test_every_failure_has_some_status(error):
    assert 400 <= status_of(error) <= 599


def test_the_nearest_class_counts():
    assert status_of(core_errors.UnknownModel) == CORE_STATUS[core_errors.InvalidRequest]
    assert status_of(core_errors.UnsupportedContainer) == 415
    assert status_of(core_errors.WorkerCrashed) == 500


def test_codes_are_unique():
    everything = {*classes(core_errors), *classes(service_errors)}

    assert len({error.code for error in everything}) == len(everything)
