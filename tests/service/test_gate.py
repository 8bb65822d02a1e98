"""Who passes, seen over HTTP."""

import asyncio
from hashlib import sha256

import pytest

from service.app import create_app
from service.settings import Settings
from tests.service.test_uploads import call

OPEN = {"/livez", "/readyz", "/openapi.json", "/docs", "/docs/oauth2-redirect"}
"""What anybody may ask for."""

CALLS = [
    (method.upper(), path.replace("{job_id}", "0" * 32).replace("{name}", "sheet.png"))
    for path, operations in create_app(Settings()).openapi()["paths"].items()
    if path.startswith("/v1")
    for method in operations
]


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keyed(open_client, tmp_path):
    """A client of a service that knows one key, `a`."""
    path = tmp_path / "keys.toml"
    path.write_text(f'[alice]\nsha256 = "{sha256(b"a").hexdigest()}"\n')
    return open_client(api_keys_file=path)


@pytest.mark.parametrize(("method", "path"), [*CALLS, ("GET", "/v1"), ("PUT", "/v1/none")])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("b"),
        bearer(""),
        {"Authorization": "Basic YTph"},
        {"Authorization": "a"},
        {"Authorization": "Bearer"},
        {"X-API-Key": "a"},
    ],
)
def test_nobody_passes_without_a_key(keyed, method, path, headers):
    response = keyed.request(method, path, headers=headers)

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "unauthorized"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
def test_whoever_has_one_passes(keyed, scheme):
    assert keyed.get("/v1/jobs", headers={"Authorization": f"{scheme} a"}).status_code == 200


def test_of_two_keys_none_counts(keyed):
    headers = [("Authorization", "Bearer a"), ("Authorization", "Bearer a")]

    assert keyed.get("/v1/jobs", headers=headers).status_code == 401


def test_a_key_in_the_address_does_not_count(keyed):
    assert keyed.get("/v1/jobs?key=a&access_token=a").status_code == 401


@pytest.mark.parametrize("path", sorted(OPEN))
def test_health_and_documentation_stay_open(keyed, path):
    assert keyed.get(path).status_code == 200


def test_every_route_is_either_guarded_or_open_on_purpose(keyed):
    own = {route.path for route in keyed.app.routes if hasattr(route, "path")}
    paths = own | keyed.app.openapi()["paths"].keys()

    assert {path for path in paths if not path.startswith("/v1/")} == OPEN


@pytest.mark.parametrize(
    "path", ["//v1/jobs", "/./v1/jobs", "/V1/jobs", "/v1%2Fjobs", "/%761/jobs", "/v1/../v1/jobs"]
)
def test_no_other_spelling_leads_past_the_gate(keyed, path):
    assert keyed.get(path).status_code in (401, 404)


def test_without_a_key_no_byte_of_the_body_is_asked_for(keyed, leftovers):
    asked = []

    def body():
        asked.append(1)
        yield b"x"

    status = asyncio.run(call(keyed, body()))[0]["status"]

    assert (status, asked, leftovers()) == (401, [], [])


def test_a_service_without_keys_asks_for_none(client):
    assert client.get("/v1/jobs").status_code == 200
    assert client.get("/v1/jobs", headers=bearer("any")).status_code == 200
