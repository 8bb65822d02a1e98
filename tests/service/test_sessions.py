"""Sessions of browsers over HTTP: a cookie that stands for an API key."""

import asyncio
import base64
import json
import logging
import re
from dataclasses import dataclass

import httpx
import pytest

from rollout_core.jobs.folder_store import FolderStore
from service.auth import ApiKeys, digest_of
from service.dependencies import Services
from service.sessions import COOKIE, Sessions, SessionSecretError, read_secret
from tests.service.event_stream import EventStream
from tests.service.owners import headers
from tests.service.test_main import running
from tests.service.test_uploads import END, call, part

KEY = "key-of-ann"
OWN = {"Origin": "http://localhost"}
DAYS = 24 * 3600


@dataclass(frozen=True)
class Browser:
    """A browser: sends its cookie with every call, and `Origin` as the service's own page does."""

    client: httpx.Client
    cookie: str

    def __call__(self, method, path, *, own_page=True, **options):
        own = OWN if own_page and method not in ("GET", "HEAD") else {}
        given = {**own, "Cookie": self.cookie, **options.pop("headers", {})}
        return self.client.request(method, path, headers=given, **options)


def parts_of(set_cookie):
    """Return the cookie, and the other parts of a `Set-Cookie`."""
    cookie, *others = set_cookie.split("; ")
    return cookie, set(others)


def log_in(client, name="ann", path="/v1/session"):
    response = client.post(path, headers={**headers(name), **OWN})
    assert response.status_code == 201, response.text
    client.cookies.clear()  # only the browser has it, not every call of the client
    return Browser(client, parts_of(response.headers["set-cookie"])[0])


def check(response, status, code):
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


def check_ended(response):
    """Check that a call was refused because of its session, and that the cookie is removed."""
    check(response, 401, "session_ended")
    assert response.headers["www-authenticate"] == "Bearer"
    cookie, others = parts_of(response.headers["set-cookie"])
    assert cookie == f"{COOKIE}="
    assert {"Max-Age=0", "Path=/"} <= others


@pytest.fixture
def browser(keyed):
    return log_in(keyed)


@pytest.fixture
def job(keyed, browser, mp4, worker):
    """Return the id of a job of ann that has succeeded."""
    made = browser("POST", "/v1/jobs", files={"video": ("v.mp4", mp4)})
    assert made.status_code == 202, made.text
    worker.succeed(made.json()["id"])
    return made.json()["id"]


def services_of(client) -> Services:
    return client.app_state["services"]


def change_keys(client, path, text):
    path.write_text(text)
    services_of(client).keys.refresh()


class TestBegin:
    def test_a_key_begins_it(self, keyed):
        response = keyed.post("/v1/session", headers=headers("ann"))

        assert response.status_code == 201
        assert response.json()["owner"] == "ann"
        assert response.json()["keys_required"] is True
        assert response.headers["cache-control"] == "no-store"
        cookie, others = parts_of(response.headers["set-cookie"])
        assert re.fullmatch(rf"{COOKIE}=[A-Za-z0-9._-]+", cookie)
        assert others == {"Path=/", f"Max-Age={7 * DAYS}", "HttpOnly", "SameSite=Strict"}

    @pytest.mark.parametrize(
        "given", [{}, {"Authorization": "Bearer x"}, {"Authorization": "Basic YTph"}]
    )
    def test_nothing_else_does(self, keyed, given):
        response = keyed.post("/v1/session", headers=given)

        check(response, 401, "unauthorized")
        assert "set-cookie" not in response.headers

    def test_a_session_does_not_prolong_itself(self, browser):
        check(browser("POST", "/v1/session"), 401, "unauthorized")

    def test_a_page_of_another_origin_begins_none(self, keyed):
        given = {**headers("ann"), "Origin": "https://evil.test"}

        response = keyed.post("/v1/session", headers=given)
        check(response, 403, "session_origin_refused")
        assert "set-cookie" not in response.headers

    def test_the_time_to_live_is_a_setting(self, open_client, keys_file):
        client = open_client(api_keys_file=keys_file, session_ttl=60)

        response = client.post("/v1/session", headers=headers("ann"))
        assert "Max-Age=60" in response.headers["set-cookie"]

    def test_without_keys_there_is_none(self, client):
        for method, status in (("POST", 201), ("GET", 200)):
            response = client.request(method, "/v1/session")

            nobody = {"owner": None, "expires_at": None, "keys_required": False}
            assert (response.status_code, response.json()) == (status, nobody)
            assert "set-cookie" not in response.headers

    def test_without_keys_a_cookie_is_ignored(self, client):
        assert client.get("/v1/jobs", headers={"Cookie": f"{COOKIE}=x"}).status_code == 200


class TestCookie:
    def test_it_stands_for_the_key(self, keyed, browser, job):
        for path in ("/v1/jobs", f"/v1/jobs/{job}", "/v1/models"):
            assert browser("GET", path).status_code == 200
            assert keyed.get(path).status_code == 401
        assert log_in(keyed, "ben")("GET", f"/v1/jobs/{job}").status_code == 404

    def test_it_says_who_calls_and_until_when(self, keyed):
        begun = keyed.post("/v1/session", headers=headers("ann"))
        browser = Browser(keyed, parts_of(begun.headers["set-cookie"])[0])
        keyed.cookies.clear()

        assert browser("GET", "/v1/session").json() == begun.json()
        assert browser("HEAD", "/v1/session").status_code == 200
        check(keyed.get("/v1/session"), 401, "unauthorized")

    def test_of_key_and_cookie_the_key_counts(self, browser):
        session = browser("GET", "/v1/session", headers=headers("ben")).json()
        assert session == {"owner": "ben", "expires_at": None, "keys_required": True}

        wrong = browser("GET", "/v1/session", headers={"Authorization": "Bearer wrong"})
        check(wrong, 401, "unauthorized")
        assert "set-cookie" not in wrong.headers

    def test_with_a_key_a_bad_cookie_is_ignored(self, keyed):
        given = {**headers("ann"), "Cookie": f"{COOKIE}=x"}

        assert keyed.delete(f"/v1/jobs/{'0' * 32}", headers=given).status_code == 404

    def test_a_player_seeks_in_a_video(self, browser, job):
        path = f"/v1/jobs/{job}/artifacts/overlay.mp4"

        response = browser("GET", path, headers={"Range": "bytes=256-511"})
        assert (response.status_code, response.content) == (206, bytes(range(256)))

    def test_an_event_source_follows_a_job(self, browser, job):
        response = browser("GET", f"/v1/jobs/{job}/events")

        assert [event.type for event in EventStream().events(response.text.splitlines())] == ["end"]

    def test_an_upload_can_be_resumed(self, keyed, browser, mp4):
        speaks = {"Tus-Resumable": "1.0.0"}
        length = {**speaks, "Upload-Length": str(len(mp4))}
        check(browser("POST", "/v1/uploads", headers=length, own_page=False), 403, REFUSED)
        url = browser("POST", "/v1/uploads", headers=length).headers["location"]
        kind = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
        given = {**speaks, **kind}

        check(browser("PATCH", url, content=mp4, headers=given, own_page=False), 403, REFUSED)
        assert browser("PATCH", url, content=mp4, headers=given).status_code == 204
        assert browser("GET", url).json()["state"] == "complete"
        overridden = {**speaks, "X-HTTP-Method-Override": "DELETE"}
        check(browser("POST", url, headers=overridden, own_page=False), 403, REFUSED)
        assert browser("POST", url, headers=overridden).status_code == 204

    def test_other_cookies_are_ignored(self, keyed, browser):
        for cookie in (f"a=b; {browser.cookie}; c", f"{COOKIE}=old; {browser.cookie}"):
            assert keyed.get("/v1/jobs", headers={"Cookie": cookie}).status_code == 200
        for cookie in ("a=b", f"x{browser.cookie}", ""):
            check(keyed.get("/v1/jobs", headers={"Cookie": cookie}), 401, "unauthorized")

    def test_it_shows_neither_the_key_nor_its_digest(self, browser):
        payload = browser.cookie.partition("=")[2].partition(".")[0]
        said = json.loads(base64.urlsafe_b64decode(payload + "=="))

        assert said.keys() == {"owner", "key", "ends_at"}
        digest = digest_of(KEY)
        forms = {KEY, digest, base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")}
        assert said["key"] not in forms
        assert not any(form in said["key"] for form in forms)

    def test_neither_key_nor_cookie_is_logged(self, browser, caplog):
        with caplog.at_level(logging.DEBUG):
            browser("POST", "/v1/session", headers=headers("ann"))
            Browser(browser.client, browser.cookie + "x")("GET", "/v1/jobs")

        ours = [line.getMessage() for line in caplog.records if not line.name.startswith("http")]
        assert not [line for line in ours if KEY in line or browser.cookie[:40] in line]


REFUSED = "session_origin_refused"

UNSAFE = [
    ("POST", "/v1/jobs"),
    ("POST", f"/v1/jobs/{'0' * 32}/cancel"),
    ("DELETE", f"/v1/jobs/{'0' * 32}"),
    ("POST", "/v1/uploads"),
    ("PATCH", f"/v1/uploads/{'0' * 32}"),
    ("PUT", "/v1/none"),
]


class TestOtherPages:
    @pytest.mark.parametrize(("method", "path"), UNSAFE)
    @pytest.mark.parametrize(
        "given",
        [
            {},
            {"Origin": "https://evil.test"},
            {"Origin": "null"},
            {"Origin": "http://localhost:1"},
            {"Origin": "https://localhost"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
            {"Sec-Fetch-Site": "none"},
        ],
    )
    def test_a_call_that_changes_something_needs_the_own_page(self, browser, method, path, given):
        response = browser(method, path, headers=given, own_page=False)

        check(response, 403, REFUSED)
        assert "set-cookie" not in response.headers

    @pytest.mark.parametrize("given", [OWN, {"Sec-Fetch-Site": "same-origin"}])
    def test_the_own_page_may_change_something(self, browser, job, given):
        path = f"/v1/jobs/{job}"

        assert browser("DELETE", path, headers=given, own_page=False).status_code == 204

    @pytest.mark.parametrize(
        ("given", "status"),
        [
            ({}, 200),
            ({"Sec-Fetch-Site": "none"}, 200),
            ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "video"}, 200),
            ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "image"}, 403),
            ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 403),
            ({"Origin": "https://evil.test"}, 403),
        ],
    )
    def test_another_page_reads_nothing(self, browser, given, status):
        assert browser("GET", "/v1/jobs", headers=given).status_code == status

    @pytest.mark.parametrize("origins", ["https://a.example", "*"])
    def test_an_allowed_origin_still_needs_a_key(self, open_client, keys_file, origins):
        client = open_client(api_keys_file=keys_file, cors_origins=origins)
        browser = log_in(client)
        other = {"Origin": "https://a.example", "Sec-Fetch-Site": "cross-site"}

        for method in ("GET", "DELETE"):
            path = f"/v1/jobs/{'0' * 32}"
            response = browser(method, path, headers=other, own_page=False)
            check(response, 403, REFUSED)
            assert "access-control-allow-credentials" not in response.headers
            by_key = browser(method, path, headers={**other, **headers("ann")})
            assert by_key.status_code == 404

    def test_the_body_of_a_refused_upload_is_not_read(self, keyed, browser, leftovers):
        asked = []

        def body():
            asked.append(1)
            yield b"x"

        messages = asyncio.run(call(keyed, body(), (b"cookie", browser.cookie.encode())))
        assert (messages[0]["status"], asked, leftovers()) == (403, [], [])


class TestEnd:
    def test_logging_out_removes_the_cookie(self, browser):
        response = browser("DELETE", "/v1/session")

        assert response.status_code == 204
        cookie, others = parts_of(response.headers["set-cookie"])
        assert cookie == f"{COOKIE}="
        assert others == {"Path=/", "Max-Age=0", "HttpOnly", "SameSite=Strict"}

    @pytest.mark.parametrize("cookie", ["", f"{COOKIE}=", f"{COOKIE}=x", f"{COOKIE}=a.b"])
    def test_a_session_that_has_ended_can_be_left(self, keyed, cookie):
        response = keyed.delete("/v1/session", headers={"Cookie": cookie, **OWN})

        assert (response.status_code, "Max-Age=0" in response.headers["set-cookie"]) == (204, True)

    def test_another_page_ends_none(self, browser):
        response = browser("DELETE", "/v1/session", headers={"Origin": "https://evil.test"})

        check(response, 403, REFUSED)
        assert "set-cookie" not in response.headers

    def test_it_ends_by_its_age(self, keyed, keys_file, store):
        old = Sessions(ApiKeys(keys_file), read_secret(store), ttl_seconds=-1)
        scope = {"root_path": "", "scheme": "http"}
        owner = ApiKeys(keys_file).owner(KEY)
        cookie = parts_of(old.begin(digest_of(KEY), owner, scope)[1])[0]

        check_ended(Browser(keyed, cookie)("GET", "/v1/jobs"))

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda token: token[:-1] + ("A" if token[-1] != "A" else "E"),
            lambda token: token + "A",
            lambda token: token[1:],
            lambda token: token.partition(".")[0],
            lambda token: "." + token.partition(".")[2],
            lambda token: base64.urlsafe_b64encode(b'{"owner":"ben"}').decode() + "." + token,
            lambda token: "",
            lambda token: "\xe9",
            lambda token: "." * 1000,
        ],
    )
    @pytest.mark.parametrize("path", ["/v1/jobs", "/v1/session"])
    def test_a_changed_cookie_does_not_count(self, browser, spoil, path):
        token = spoil(browser.cookie.partition("=")[2])
        changed = Browser(browser.client, f"{COOKIE}={token}".encode("latin-1"))

        check_ended(changed("GET", path))

    def test_a_cookie_of_another_service_does_not_count(self, browser, keys_file, tmp_path):
        other = read_secret(FolderStore(tmp_path / "other"))
        keys = ApiKeys(keys_file)
        scope = {"root_path": "", "scheme": "http"}
        made = Sessions(keys, other, ttl_seconds=60).begin(digest_of(KEY), keys.owner(KEY), scope)

        check_ended(Browser(browser.client, parts_of(made[1])[0])("GET", "/v1/jobs"))

    def test_it_ends_with_its_key(self, keyed, browser, keys_file):
        bens = log_in(keyed, "ben")
        change_keys(keyed, keys_file, f'[ben]\nsha256 = "{digest_of("key-of-ben")}"\n')

        check_ended(browser("GET", "/v1/jobs"))
        assert bens("GET", "/v1/jobs").status_code == 200

    def test_it_ends_with_its_key_though_the_owner_has_another(self, keyed, browser, keys_file):
        both = f'[ann]\nsha256 = ["{digest_of(KEY)}", "{digest_of("new")}"]\n'
        change_keys(keyed, keys_file, both)
        assert browser("GET", "/v1/jobs").status_code == 200

        change_keys(keyed, keys_file, f'[ann]\nsha256 = "{digest_of("new")}"\n')
        check_ended(browser("GET", "/v1/jobs"))

    def test_a_key_that_moves_to_another_owner_ends_it(self, keyed, browser, keys_file):
        change_keys(keyed, keys_file, f'[ben]\nsha256 = "{digest_of(KEY)}"\n')

        check_ended(browser("GET", "/v1/jobs"))

    @pytest.mark.parametrize("path", [b"/v1/jobs", b"/v1/uploads"])
    def test_an_upload_is_refused_whose_session_ends_meanwhile(
        self, keyed, browser, keys_file, mp4, leftovers, path
    ):
        def body():
            yield part("video", mp4)
            keys_file.write_text("")
            yield END

        given = [(b"cookie", browser.cookie.encode()), (b"origin", b"http://localhost")]
        given.append((b"host", b"localhost"))
        messages = asyncio.run(call(keyed, body(), *given, path=path))

        assert messages[0]["status"] == 401
        assert b"session_ended" in messages[1]["body"]
        assert leftovers() == []

    def test_the_limits_of_the_owner_are_those_of_the_file(self, keyed, browser, keys_file, mp4):
        change_keys(keyed, keys_file, keys_file.read_text().replace("jobs = 2", "jobs = 0"))

        made = browser("POST", "/v1/jobs", files={"video": ("v.mp4", mp4)})
        check(made, 429, "quota_exceeded")


class TestBehindProxies:
    @pytest.fixture
    def proxied(self, open_client, keys_file):
        return open_client(api_keys_file=keys_file, trusted_proxies="unix", root_path="/rollout")

    def test_over_https_the_cookie_is_secure(self, proxied):
        https = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "a.test"}
        given = {**headers("ann"), **https, "Origin": "https://a.test"}
        response = proxied.post("/rollout/v1/session", headers=given)

        cookie, others = parts_of(response.headers["set-cookie"])
        assert {"Secure", "Path=/rollout/"} <= others
        browser = Browser(proxied, cookie)
        path = f"/rollout/v1/jobs/{'0' * 32}"
        for origin, status in (("https://a.test", 404), ("http://a.test", 403)):
            response = browser("DELETE", path, headers={**https, "Origin": origin})
            assert response.status_code == status
        ended = Browser(proxied, f"{COOKIE}=x")("GET", "/rollout/v1/jobs", headers=https)
        assert {"Secure", "Path=/rollout/"} <= parts_of(ended.headers["set-cookie"])[1]

    def test_what_an_unknown_proxy_says_does_not_count(self, keyed):
        given = {**headers("ann"), "X-Forwarded-Proto": "https"}

        assert "Secure" not in keyed.post("/v1/session", headers=given).headers["set-cookie"]

    @pytest.mark.parametrize("prefix", ["", "/rollout"])
    def test_its_path_is_the_root_path_whether_the_proxy_strips_it(self, proxied, prefix):
        response = proxied.post(f"{prefix}/v1/session", headers=headers("ann"))

        assert "Path=/rollout/" in parts_of(response.headers["set-cookie"])[1]
        removed = proxied.delete(f"{prefix}/v1/session")
        assert "Path=/rollout/" in parts_of(removed.headers["set-cookie"])[1]


class TestSecret:
    def test_processes_of_one_store_accept_each_others_sessions(self, open_client, keys_file):
        first, second = (open_client(api_keys_file=keys_file) for _ in range(2))

        for client, other in ((first, second), (second, first)):
            browser = Browser(other, log_in(client).cookie)
            assert browser("GET", "/v1/session").json()["owner"] == "ann"

    def test_a_restart_ends_none(self, settings, redis, keys_file, tmp_path):
        flags = ("--redis-url", settings.redis_url, "--data-dir", str(settings.data_dir))
        cookies = []
        for _ in range(2):
            with running(*flags, "--api-keys-file", str(keys_file), cwd=tmp_path) as process:
                url = process.stdout.readline().split()[-1]
                if not cookies:
                    made = httpx.post(f"{url}/v1/session", headers=headers("ann"))
                    cookies.append(parts_of(made.headers["set-cookie"])[0])
                answer = httpx.get(f"{url}/v1/session", headers={"Cookie": cookies[0]})
                assert answer.json()["owner"] == "ann"

        secret = settings.data_dir / "session" / "secret"
        assert secret.stat().st_mode & 0o777 == 0o600

    def test_a_service_without_keys_makes_none(self, client, settings):
        assert not (settings.data_dir / "session").exists()

    @pytest.mark.parametrize("text", ["", "0" * 63, "x" * 64, "0" * 64 + "\n"])
    def test_an_invalid_one_is_refused_at_the_start(self, store, text):
        read_secret(store)
        (store.root / "session" / "secret").write_text(text)

        with pytest.raises(SessionSecretError, match="session/secret has no 32 bytes"):
            read_secret(store)
