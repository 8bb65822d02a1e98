import asyncio
import logging
import os
import subprocess
import sys
import tomllib
import traceback
from hashlib import sha256

import pytest

from service import auth as auth_module
from service.app import create_app
from service.auth import OPEN_CALLS, ApiKeys, KeysFileError
from service.docs import DOCUMENT_PATH, FILES, PAGE_PATH
from service.keys import main
from service.page.files import SAMPLE_PATH, find_files
from service.settings import Settings
from service.usage import Owner
from service.webhook_secrets import check_secret, make_secret
from tests.service.test_uploads import call
from tests.system.waiting import wait_until


def digest(key):
    return sha256(key.encode()).hexdigest()


def table(name, *keys, **limits):
    """Return the table of an owner in the file of keys."""
    lines = [f"[{name}]", f"sha256 = {[digest(key) for key in keys]}"]
    return "\n".join([*lines, *(f"{limit} = {value}" for limit, value in limits.items()), ""])


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(table("alice", "a") + table("bob", "b", max_queued_jobs=2, max_stored_bytes=9))
    return path


@pytest.fixture
def api_keys(path):
    return ApiKeys(path)


class TestOwner:
    def test_a_key_gives_its_owner_and_limits(self, api_keys):
        assert api_keys.owner("a") == Owner(name="alice")
        assert api_keys.owner("b") == Owner(name="bob", max_queued_jobs=2, max_stored_bytes=9)

    @pytest.mark.parametrize("key", ["", "A", "a ", "aa", "c", "\xff", "a\0", digest("a"), "alice"])
    def test_an_unknown_key_has_no_owner(self, api_keys, key):
        assert api_keys.owner(key) is None

    def test_an_owner_may_have_two_keys(self, path):
        path.write_text(table("alice", "old", "new"))
        api_keys = ApiKeys(path)

        assert api_keys.owner("old") == api_keys.owner("new") == Owner(name="alice")

    def test_a_single_digest_needs_no_list(self, path):
        path.write_text(f'[alice]\nsha256 = "{digest("a")}"\n')

        assert ApiKeys(path).owner("a") == Owner(name="alice")

    def test_a_file_may_have_no_owners(self, path):
        path.write_text("")

        assert ApiKeys(path).owner("a") is None

    @pytest.mark.parametrize("key", ["a", "b", "c"])
    def test_every_digest_is_compared_in_constant_time(self, api_keys, key, monkeypatch):
        compared = []
        compare = auth_module.hmac.compare_digest

        def watch(known, given):
            compared.append((known, given))
            return compare(known, given)

        monkeypatch.setattr(auth_module.hmac, "compare_digest", watch)
        api_keys.owner(key)

        assert compared == [(digest("a"), digest(key)), (digest("b"), digest(key))]


class TestFile:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[alice", "cannot be read"),
            ("\0", "cannot be read"),
            ("alice = 1", "alice"),
            ("[alice]", "alice.sha256"),
            ("[alice]\nsha256 = []", "alice.sha256"),
            ('[alice]\nsha256 = "short"', "alice.sha256"),
            (f'[alice]\nsha256 = "{"A" * 64}"', "alice.sha256"),
            (f"['../alice']\nsha256 = '{'a' * 64}'", "../alice"),
            (table("alice", "a", max_queued_jobs=-1), "alice.max_queued_jobs"),
            (table("alice", "a", max_queued_jobs="true"), "alice.max_queued_jobs"),
            (table("alice", "a", max_stored_bytes="'1'"), "alice.max_stored_bytes"),
            (table("alice", "a", max_jobs=1), "alice.max_jobs"),
            (table("alice", "a") + table("alice", "b"), "cannot be read"),
            (table("alice", "a") + table("bob", "a"), "same key twice"),
        ],
    )
    def test_an_invalid_file_is_refused(self, path, text, words):
        path.write_text(text)

        with pytest.raises(KeysFileError, match=r"keys\.toml") as caught:
            ApiKeys(path)

        assert words in str(caught.value)

    def test_a_missing_file_is_refused(self, tmp_path):
        with pytest.raises(KeysFileError):
            ApiKeys(tmp_path / "none.toml")


class TestReload:
    def test_a_changed_file_is_read_again(self, api_keys, path):
        path.write_text(table("carol", "c"))

        assert api_keys.owner("c") is None
        api_keys.refresh()
        assert api_keys.owner("c") == Owner(name="carol")
        assert api_keys.owner("a") is None

    def test_a_replaced_file_of_the_same_time_and_size_is_read(self, api_keys, path):
        status = path.stat()
        other = path.with_name("other")
        other.write_text(path.read_text().replace(digest("a"), digest("c")))
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.replace(path)

        api_keys.refresh()

        assert path.stat().st_size == status.st_size
        assert api_keys.owner("c") == Owner(name="alice")

    @pytest.mark.parametrize(
        "spoil", [lambda path: path.write_text("["), lambda path: path.unlink()]
    )
    def test_an_invalid_file_keeps_the_keys_and_is_logged_once(self, api_keys, path, caplog, spoil):
        spoil(path)

        with caplog.at_level(logging.ERROR):
            for _ in range(4):
                api_keys.refresh()

        assert api_keys.owner("a") == Owner(name="alice")
        assert len(caplog.records) == 1
        assert "the present ones stay valid" in caplog.text

    def test_a_corrected_file_is_read_again(self, api_keys, path):
        for text in ("[", table("carol", "c")):
            path.write_text(text)
            api_keys.refresh()

        assert api_keys.owner("c") == Owner(name="carol")

    def test_an_unchanged_file_is_not_read_again(self, api_keys, monkeypatch):
        monkeypatch.setattr(auth_module, "_read", None)

        api_keys.refresh()

        assert api_keys.owner("a") == Owner(name="alice")

    def test_a_call_does_not_touch_the_file(self, api_keys, path):
        """The check of a key runs on the event loop, which must not wait for a disk."""
        path.unlink()

        assert api_keys.owner("a") == Owner(name="alice")

    def test_the_app_reads_a_changed_file_within_seconds(self, keyed, tmp_path):
        (tmp_path / "keys.toml").write_text(table("carol", "c"))

        wait_until(lambda: keyed.get("/v1/jobs", headers=bearer("c")).status_code == 200)

        assert keyed.get("/v1/jobs", headers=bearer("a")).status_code == 401


class TestCommand:
    def test_it_prints_a_key_and_its_table(self, path):
        made = [
            subprocess.run(
                [sys.executable, "-m", "service.keys", "carol"],
                capture_output=True,
                text=True,
                check=True,
            )
            for _ in range(2)
        ]

        keys = [process.stderr.split()[-1] for process in made]
        assert len(set(keys)) == 2
        assert all(len(key) >= 43 for key in keys)
        path.write_text(path.read_text() + made[0].stdout)
        assert ApiKeys(path).owner(keys[0]) == Owner(name="carol")
        assert list(tomllib.loads(made[0].stdout)) == ["carol"]
        assert keys[0] not in made[0].stdout

    @pytest.mark.parametrize(
        "names", [[], ["a", "b"], ["a b"], ["../a"], ["]\n[b"], ["x" * 65], ["-h"]]
    )
    def test_an_invalid_name_is_refused(self, names, capsys):
        with pytest.raises(SystemExit, match="usage: "):
            main(names)

        assert capsys.readouterr().out == ""


OPEN = {
    *("/livez", "/readyz", DOCUMENT_PATH, SAMPLE_PATH),
    *(PAGE_PATH + path for path in FILES),
    *find_files(),
}
"""Paths that need no key."""


CALLS = [
    (method.upper(), path.replace("{job_id}", "0" * 32).replace("{name}", "sheet.png"))
    for path, operations in create_app(Settings()).openapi()["paths"].items()
    if path.startswith("/v1")
    for method in operations
    if (method.upper(), path) not in OPEN_CALLS
]


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keyed(open_client, tmp_path):
    """Return a client of a service that knows one key, `a`."""
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
def test_a_call_without_a_valid_key_gets_401(keyed, method, path, headers):
    response = keyed.request(method, path, headers=headers)

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "unauthorized"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
def test_a_call_with_a_valid_key_is_answered(keyed, scheme):
    assert keyed.get("/v1/jobs", headers={"Authorization": f"{scheme} a"}).status_code == 200


def test_two_authorization_headers_get_401(keyed):
    headers = [("Authorization", "Bearer a"), ("Authorization", "Bearer a")]

    assert keyed.get("/v1/jobs", headers=headers).status_code == 401


def test_a_key_in_the_url_is_ignored(keyed):
    assert keyed.get("/v1/jobs?key=a&access_token=a").status_code == 401


@pytest.mark.parametrize("path", sorted(OPEN))
def test_health_documentation_and_page_need_no_key(keyed, path):
    assert keyed.get(path).status_code == 200


def test_every_route_needs_a_key_or_is_listed_as_open(keyed):
    own = {route.path for route in keyed.app.routes if hasattr(route, "path")}
    paths = own | keyed.app.openapi()["paths"].keys()

    assert {path for path in paths if not path.startswith("/v1/")} == OPEN


@pytest.mark.parametrize(
    "path", ["//v1/jobs", "/./v1/jobs", "/V1/jobs", "/v1%2Fjobs", "/%761/jobs", "/v1/../v1/jobs"]
)
def test_no_other_spelling_of_a_path_avoids_the_key(keyed, path):
    assert keyed.get(path).status_code in (401, 404)


def test_without_a_key_the_body_is_not_read(keyed, leftovers):
    asked = []

    def body():
        asked.append(1)
        yield b"x"

    status = asyncio.run(call(keyed, body()))[0]["status"]

    assert (status, asked, leftovers()) == (401, [], [])


def test_a_service_without_keys_needs_none(client):
    assert client.get("/v1/jobs").status_code == 200
    assert client.get("/v1/jobs", headers=bearer("any")).status_code == 200


class TestWebhookSecrets:
    def test_each_owner_has_their_own_in_the_order_of_the_file(self, path):
        made = [make_secret() for _ in range(2)]
        path.write_text(table("alice", "a", webhook_secrets=made) + table("bob", "b"))
        keys = ApiKeys(path)

        assert keys.webhook_secrets("alice") == tuple(made)
        assert keys.webhook_secrets("bob") == keys.webhook_secrets("carol") == ()
        assert keys.owner("a") == Owner(name="alice")

    def test_a_changed_file_changes_them(self, api_keys, path):
        secret = make_secret()
        path.write_text(table("alice", "a", webhook_secrets=[secret]))
        api_keys.refresh()

        assert api_keys.webhook_secrets("alice") == (secret,)

    def test_an_invalid_one_is_refused_but_not_repeated(self, path):
        path.write_text(table("alice", "a", webhook_secrets=["whsec_hush"]))

        with pytest.raises(KeysFileError, match=r"alice\.webhook_secrets\.0") as caught:
            ApiKeys(path)

        assert "hush" not in "".join(traceback.format_exception(caught.value))

    def test_the_command_makes_one(self, capsys):
        main(["--webhook-secret"])

        check_secret(capsys.readouterr().out.strip())
