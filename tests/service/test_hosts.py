"""Host names, pages of other sites, and root paths: what a browser can be made to do."""

import asyncio
import re
from hashlib import sha256

import pytest

from service.errors import CrossSite, HostNotAllowed
from tests.service.test_uploads import END, TYPE, call, part

CALLS = [
    ("GET", "/v1/jobs"),
    ("HEAD", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    ("GET", f"/v1/jobs/{'0' * 32}"),
    ("DELETE", f"/v1/jobs/{'0' * 32}"),
    ("POST", f"/v1/jobs/{'0' * 32}/cancel"),
    ("GET", f"/v1/jobs/{'0' * 32}/artifacts/sheet.png"),
    ("GET", "/v1/models"),
    ("OPTIONS", "/v1/jobs"),
]

ORIGINS = ["http://evil.test", "null", "http://localhost:1", "https://localhost.evil.test", "", "x"]


@pytest.fixture
def keyed(open_client, tmp_path):
    """Open a client of a service with keys, which sends one."""
    path = tmp_path / "keys.toml"
    path.write_text(f'[alice]\nsha256 = "{sha256(b"a").hexdigest()}"\n')

    def open_one(**changes):
        client = open_client(api_keys_file=path, **changes)
        client.headers["Authorization"] = "Bearer a"
        return client

    return open_one


def code(response):
    return response.json()["code"]


class TestHost:
    @pytest.mark.parametrize(("method", "path"), CALLS)
    def test_without_keys_another_name_is_refused(self, client, method, path):
        response = client.request(method, path, headers={"Host": "evil.test"})

        assert response.status_code == 421
        if method != "HEAD":
            assert code(response) == HostNotAllowed.code
            assert "evil.test" in response.json()["detail"]

    @pytest.mark.parametrize(
        "host",
        [
            "localhost",
            "LOCALHOST:8000",
            "localhost.",
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]:8000",
            "192.168.1.5:8000",
            "[fe80::1]",
        ],
    )
    def test_this_machine_and_addresses_are_allowed(self, client, host):
        assert client.get("/v1/jobs", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host",
        [
            "evil.test",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "evil.test:127",
            "a@localhost",
            "localhost:80@evil.test",
            "127.1",
            "[::1",
            "localhost/",
            "localhost evil.test",
            "x" * 5000,
            "",
        ],
    )
    def test_what_only_looks_like_it_is_refused(self, client, host):
        assert client.get("/v1/jobs", headers={"Host": host}).status_code == 421

    def test_names_can_be_allowed(self, open_client):
        client = open_client(allowed_hosts="a.test, B.test", host="c.test")

        for host, status in {
            "a.test": 200,
            "b.test:81": 200,
            "c.test": 200,
            "localhost": 200,
            "d.test": 421,
            "x.a.test": 421,
        }.items():
            assert client.get("/v1/jobs", headers={"Host": host}).status_code == status

    def test_all_names_can_be_allowed(self, open_client):
        client = open_client(allowed_hosts="*")

        assert client.get("/v1/jobs", headers={"Host": "a.test"}).status_code == 200

    def test_with_keys_every_name_is_allowed(self, keyed):
        assert keyed().get("/v1/jobs", headers={"Host": "any.test"}).status_code == 200

    def test_with_keys_and_a_list_only_its_names_are(self, keyed):
        client = keyed(allowed_hosts="a.test")

        assert client.get("/v1/jobs", headers={"Host": "a.test"}).status_code == 200
        assert client.get("/v1/jobs", headers={"Host": "b.test"}).status_code == 421

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/docs", "/openapi.json"])
    def test_paths_that_show_no_jobs_answer_to_any_name(self, client, path):
        assert client.get(path, headers={"Host": "evil.test"}).status_code == 200

    @pytest.mark.parametrize("path", ["/", "/page/icon.svg", "/page/none.js", "/favicon.ico"])
    def test_the_page_answers_to_its_own_names_only(self, client, path):
        assert client.get(path, headers={"Host": "evil.test"}).status_code == 421

    def test_a_link_of_another_site_leads_to_the_page(self, client):
        headers = {"Sec-Fetch-Site": "cross-site", "Origin": "http://other.test"}

        assert client.get("/", headers=headers).status_code == 200

    def test_a_request_without_a_host_comes_from_no_browser(self, client, mp4, announce):
        announce()

        assert asyncio.run(call(client, [part("video", mp4) + END]))[0]["status"] == 202


class TestPage:
    @pytest.mark.parametrize("origin", ORIGINS)
    @pytest.mark.parametrize(("method", "path"), CALLS)
    def test_another_origin_is_refused(self, client, method, path, origin):
        response = client.request(method, path, headers={"Origin": origin})

        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers
        if method != "HEAD":
            assert code(response) == CrossSite.code

    @pytest.mark.parametrize("kind", [TYPE, "text/plain", "application/x-www-form-urlencoded"])
    def test_a_form_of_another_site_uploads_nothing(self, client, mp4, announce, leftovers, kind):
        """A page can send these three without asking first; without `Origin` it cannot."""
        announce()
        headers = {"Origin": "http://evil.test", "Content-Type": kind}
        body = part("video", mp4) + END

        assert client.post("/v1/jobs", content=body, headers=headers).status_code == 403
        assert leftovers() == []

    @pytest.mark.parametrize(
        ("host", "origin"),
        [
            ("localhost", "http://localhost"),
            ("localhost:8000", "http://localhost:8000"),
            ("LocalHost:80", "http://localhost"),
            ("[::1]:8000", "http://[::1]:8000"),
            ("10.0.0.1", "https://10.0.0.1"),
        ],
    )
    def test_its_own_origin_is_allowed(self, client, host, origin):
        headers = {"Host": host, "Origin": origin, "Sec-Fetch-Site": "same-origin"}

        assert client.get("/v1/jobs", headers=headers).status_code == 200

    def test_two_origins_must_both_be_allowed(self, client):
        headers = [("Origin", "http://localhost"), ("Origin", "http://evil.test")]

        assert client.get("/v1/jobs", headers=headers).status_code == 403

    def test_a_page_of_a_listed_host_is_allowed(self, open_client):
        client = open_client(allowed_hosts="a.test")
        headers = {"Origin": "https://a.test:444", "Sec-Fetch-Site": "cross-site"}

        assert client.get("/v1/jobs", headers=headers).status_code == 200

    def test_a_picture_in_a_page_of_another_site_is_refused(self, client):
        headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}

        assert client.get("/v1/jobs", headers=headers).status_code == 403

    @pytest.mark.parametrize(
        ("method", "mode", "dest", "status"),
        [
            ("GET", "navigate", "document", 200),
            ("GET", "navigate", "iframe", 403),
            ("POST", "navigate", "document", 403),
            ("DELETE", "navigate", "document", 403),
        ],
    )
    def test_a_link_may_be_followed(self, client, method, mode, dest, status):
        headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}

        assert client.request(method, "/v1/jobs", headers=headers).status_code == status

    @pytest.mark.parametrize("site", ["none", "same-origin", "same-site"])
    def test_a_person_may_open_an_address(self, client, site):
        assert client.get("/v1/jobs", headers={"Sec-Fetch-Site": site}).status_code == 200

    def test_with_keys_no_page_can_call(self, keyed):
        client = keyed()
        headers = {"Origin": "http://evil.test", "Sec-Fetch-Site": "cross-site"}

        assert client.get("/v1/jobs", headers=headers).status_code == 200
        del client.headers["Authorization"]
        assert client.get("/v1/jobs", headers=headers).status_code == 401

    def test_a_preflight_grants_nothing(self, keyed):
        headers = {
            "Origin": "http://evil.test",
            "Access-Control-Request-Method": "DELETE",
            "Access-Control-Request-Headers": "authorization",
        }

        response = keyed().options("/v1/jobs", headers=headers)

        assert response.status_code == 405
        assert response.headers["allow"] == "GET, HEAD, POST"
        assert not any(name.startswith("access-control") for name in response.headers)


class TestRootPath:
    @pytest.fixture
    def mounted(self, open_client, announce):
        announce()
        return open_client(root_path="/a/b")

    @pytest.mark.parametrize("prefix", ["", "/a/b"])
    def test_the_prefix_may_be_kept_or_stripped(self, mounted, mp4, prefix, worker):
        made = mounted.post(f"{prefix}/v1/jobs", files={"video": ("v.mp4", mp4)})
        worker.succeed(made.json()["id"])
        job = mounted.get(made.headers["location"]).json()

        assert made.headers["location"] == f"/a/b/v1/jobs/{job['id']}"
        for artifact in job["result"]["artifacts"]:
            assert artifact["url"].startswith(f"/a/b/v1/jobs/{job['id']}/artifacts/")
            assert mounted.get(artifact["url"]).status_code == 200
        for path in ("/livez", "/readyz", "/docs", "/openapi.json"):
            assert mounted.get(prefix + path).status_code == 200

    def test_the_documentation_knows_the_prefix(self, mounted):
        (server,) = mounted.get("/openapi.json").json()["servers"]
        assert server["url"] == "/a/b"
        for name in re.findall(r'(?:src|href)="(docs/[^"]+)"', mounted.get("/a/b/docs").text):
            assert mounted.get(f"/a/b/{name}").status_code == 200

    @pytest.mark.parametrize("path", ["/a/v1/jobs", "/a/b/a/b/v1/jobs", "/a/bv1/jobs", "/a/bc"])
    def test_other_prefixes_are_unknown(self, mounted, path):
        assert mounted.get(path).status_code == 404

    @pytest.mark.parametrize("prefix", ["", "/a/b"])
    def test_no_prefix_avoids_the_key(self, keyed, prefix):
        client = keyed(root_path="/a/b")
        del client.headers["Authorization"]

        assert client.get(f"{prefix}/v1/jobs").status_code == 401


def absolute(client, target, **headers):
    """Send a GET whose target is a URL, as uvicorn passes it on; return the status."""
    messages = []

    async def send(message):
        messages.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": target.decode(),
        "raw_path": target,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "state": dict(client.app_state),
    }
    asyncio.run(client.app(scope, receive, send))
    return messages[0]["status"]


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://localhost:8000/v1/jobs", "localhost", 200),
        (b"HTTP://127.0.0.1/v1/jobs", "evil.test", 200),
        (b"http://evil.test/v1/jobs", "localhost", 421),
        (b"http://localhost/v1/jobs/", "localhost", 404),
        (b"http://localhost", "localhost", 200),
        (b"http://evil.test", "localhost", 421),
        (b"ftp://localhost/v1/jobs", "localhost", 404),
    ],
)
def test_the_host_of_an_absolute_target_counts(client, target, host, status):
    assert absolute(client, target, host=host) == status


class TestForwardedPrefix:
    """The address of the test client is none, so it counts as a proxy at a unix socket."""

    @pytest.mark.parametrize(
        ("proxies", "prefix", "url"),
        [
            ("unix", "/rollout", "/rollout"),
            ("unix", "/a/b/", "/a/b"),
            (None, "/rollout", "/"),
            ("10.0.0.1", "/rollout", "/"),
            ("unix", "//evil.test", "/"),
            ("unix", "https://evil.test", "/"),
            ("unix", "/v1", "/"),
            ("unix", "/a/../b", "/"),
            ("unix", "", "/"),
        ],
    )
    def test_only_a_path_of_a_trusted_proxy_counts(self, open_client, proxies, prefix, url):
        client = open_client(trusted_proxies=proxies)

        response = client.get("/openapi.json", headers={"X-Forwarded-Prefix": prefix})
        assert [server["url"] for server in response.json()["servers"]] == [url]

    def test_it_wins_over_the_setting_for_one_request(self, open_client):
        client = open_client(trusted_proxies="unix", root_path="/set")

        named = client.get("/openapi.json", headers={"X-Forwarded-Prefix": "/named"}).json()
        plain = client.get("/openapi.json").json()
        urls = [document["servers"][0]["url"] for document in (named, plain)]
        assert urls == ["/named", "/set"]

    def test_no_prefix_avoids_the_key(self, keyed):
        client = keyed(trusted_proxies="unix")

        for prefix, path in (("/x", "/x/v1/jobs"), ("/x", "/v1/jobs"), ("/v1", "/v1/jobs")):
            headers = {"X-Forwarded-Prefix": prefix, "Authorization": ""}
            assert client.get(path, headers=headers).status_code == 401
