"""The web page: where its files are answered, with what headers, and below which paths."""

import re

import pytest

from service.page.files import SAMPLE, STATIC, find_files
from service.security_headers import NO_SCRIPTS, OWN_PAGE, OWN_SCRIPTS

FILES = find_files()


def test_the_root_path_is_the_page(client):
    response = client.get("/")

    assert response.status_code == 200
    assert response.content == (STATIC / "index.html").read_bytes()
    assert response.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("path", FILES)
def test_every_file_is_answered(client, path):
    response = client.get(path)

    assert response.status_code == 200
    assert response.content == FILES[path].read_bytes()
    assert response.headers["content-security-policy"] == OWN_PAGE
    assert response.headers["referrer-policy"] == "no-referrer"


def test_every_file_of_the_folder_is_one_of_them():
    assert set(FILES.values()) == {file for file in STATIC.rglob("*") if file.is_file()}


def test_every_file_that_the_page_names_is_there_behind_a_root_path_too(open_client):
    client = open_client(root_path="/rollout")
    names = re.findall(r'(?:src|href)="([^"]+)"', client.get("/rollout/").text)

    assert len(names) > 2
    assert not [name for name in names if name.startswith("/") or ":" in name]
    for name in names:
        assert client.get(f"/rollout/{name}").status_code == 200, name


@pytest.mark.parametrize("path", ["/page/none.js", "/page/", "/page", "/page/style"])
def test_no_other_path_is_answered(client, path):
    response = client.get(path)

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path",
    [
        "/page/../files.py",
        "/page/%2e%2e/files.py",
        "/page/..%2ffiles.py",
        "/page/style/../../files.py",
        "/page//etc/passwd",
        "/page/%00",
    ],
)
def test_no_path_leads_out_of_the_folder(client, path):
    assert client.get(path).status_code == 404


def test_scripts_of_the_page_only_and_of_no_call(client):
    policies = {path: client.get(path).headers["content-security-policy"] for path in POLICIES}

    assert policies == POLICIES
    assert "script-src 'self';" in OWN_PAGE
    assert "unsafe" not in OWN_PAGE


POLICIES = {
    "/": OWN_PAGE,
    "/page/main.js": OWN_PAGE,
    "/page/none.js": OWN_PAGE,
    "/docs": OWN_SCRIPTS,
    "/v1/jobs": NO_SCRIPTS,
}


class TestSample:
    def test_it_is_the_video_of_the_package(self, client):
        response = client.get("/page/sample.mp4")

        assert response.content == SAMPLE.read_bytes()
        assert response.headers["content-type"] == "video/mp4"
        assert response.headers["cache-control"] == "no-cache"

    def test_a_player_can_seek(self, client):
        response = client.get("/page/sample.mp4", headers={"Range": "bytes=100-199"})

        assert response.status_code == 206
        assert response.content == SAMPLE.read_bytes()[100:200]

    def test_a_range_outside_is_a_problem_document(self, client):
        response = client.get("/page/sample.mp4", headers={"Range": "bytes=99999999-"})

        assert (response.status_code, response.json()["code"]) == (416, "range_not_satisfiable")

    def test_a_current_copy_is_not_sent_again(self, client):
        etag = client.get("/page/sample.mp4").headers["etag"]

        assert client.get("/page/sample.mp4", headers={"If-None-Match": etag}).status_code == 304


class TestRootPath:
    def test_without_its_slash_it_leads_to_the_one_with_it(self, open_client):
        client = open_client(root_path="/a/b")

        for method in ("GET", "HEAD"):
            response = client.request(method, "/a/b?job=1", follow_redirects=False)
            assert (response.status_code, response.headers["location"]) == (307, "/a/b/?job=1")
        assert client.get("/a/b").content == (STATIC / "index.html").read_bytes()

    def test_a_prefix_of_a_trusted_proxy_counts(self, open_client):
        client = open_client(trusted_proxies="unix")
        headers = {"X-Forwarded-Prefix": "/rollout"}

        response = client.get("/rollout", headers=headers, follow_redirects=False)
        assert response.headers["location"] == "/rollout/"
        assert client.get("/rollout/page/main.js", headers=headers).status_code == 200

    def test_it_takes_no_other_method(self, open_client):
        client = open_client(root_path="/a")

        assert client.post("/a").status_code == client.post("/a/").status_code == 405


class TestWithoutPage:
    @pytest.fixture
    def bare(self, open_client):
        return open_client(page=False, root_path="/a")

    def test_the_root_path_names_the_documentation(self, bare):
        places = bare.get("/a/").json()

        assert places == {"documentation": "/a/docs", "openapi": "/a/openapi.json"}
        assert all(bare.get(place).status_code == 200 for place in places.values())

    @pytest.mark.parametrize("path", ["/page/main.js", "/page/sample.mp4", "/favicon.ico"])
    def test_no_file_is_answered(self, bare, path):
        assert bare.get(path).status_code == 404
