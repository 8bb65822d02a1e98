"""Pages of other origins: preflights, errors they can read, and the checks that they pass."""

from hashlib import sha256

import pytest

from service.settings import Settings

ORIGIN = "https://a.example"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, prefer, idempotency-key, tus-resumable, "
    "x-http-method-override",
}


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(f'[alice]\nsha256 = "{sha256(b"a").hexdigest()}"\n')
    return path


@pytest.mark.parametrize("origins", [ORIGIN, f"https://b.example, {ORIGIN}", "*"])
def test_a_page_of_an_allowed_origin_may_call(open_client, origins):
    response = open_client(cors_origins=origins).get(
        "/v1/jobs", headers={"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}
    )

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] in (ORIGIN, "*")
    assert response.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "Retry-After" in response.headers["access-control-expose-headers"]


def test_a_preflight_needs_no_key_and_the_call_does(open_client, keys):
    client = open_client(cors_origins=ORIGIN, api_keys_file=keys)

    assert client.options("/v1/jobs", headers=PREFLIGHT).status_code == 200
    refused = client.get("/v1/jobs", headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    allowed = client.get("/v1/jobs", headers={"Origin": ORIGIN, "Authorization": "Bearer a"})
    assert allowed.status_code == 200


@pytest.mark.parametrize("origin", ["https://b.example", "https://a.example:1", "http://a.example"])
def test_other_origins_are_still_refused(open_client, origin):
    client = open_client(cors_origins=ORIGIN)

    response = client.get("/v1/jobs", headers={"Origin": origin})
    assert (response.status_code, response.json()["code"]) == (403, "cross_site")
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert client.options("/v1/jobs", headers=PREFLIGHT | {"Origin": origin}).status_code == 400


def test_by_default_no_origin_is_allowed(client):
    response = client.options("/v1/jobs", headers=PREFLIGHT)

    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("origins", ["a.example", "https://a.example/", "ftp://a", "https://*.a"])
def test_what_is_no_origin_is_refused_at_the_start(origins):
    with pytest.raises(ValueError, match="is no origin"):
        Settings(cors_origins=origins)
