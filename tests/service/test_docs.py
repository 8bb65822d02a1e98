"""The page /docs in a real browser without a network: it loads, and its examples can be sent."""

import json
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from service.docs import FILES, STATIC
from service.security_headers import OWN_SCRIPTS
from tests.service.conftest import MP4
from tests.service.test_main import running
from tests.system.browser import open_page

NODE_PACKAGE = Path(__file__).parents[1] / "node" / "node_modules" / "swagger-ui-dist"
PINNED = Path(__file__).parents[1] / "node" / "package.json"


class Docs:
    """The page, opened in a browser that records what it asks for and complains of."""

    def __init__(self, page, url):
        self.page, self.url = page, url
        self.requests, self.complaints = [], []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda line: line.type == "error" and self.complaints.append(line.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"{url}/docs")
        page.wait_for_selector("#operations-jobs-create_job")

    def try_out(self, operation, *, file=None, **parameters):
        """Send an operation as prefilled; return the status and the body of the answer."""
        block = self.page.locator(f"#operations-{operation}")
        block.locator(".opblock-summary-control").click()
        block.get_by_role("button", name="Try it out").click()
        if file:
            block.locator('input[type="file"]').set_input_files(file)
        for name, value in parameters.items():
            block.locator(f'tr[data-param-name="{name}"] input').fill(value)
        with self.page.expect_response(lambda answer: "/v1/" in answer.url) as answer:
            block.get_by_role("button", name="Execute").click()
        block.locator(".live-responses-table").wait_for()
        return answer.value.status, answer.value.text()


@pytest.fixture
def open_docs(settings, redis, announce):
    announce("moving-things", labels=("a thing moves left", "a thing moves right", "a thing rises"))

    @contextmanager
    def opened(root_path=""):
        flags = ("--redis-url", settings.redis_url, "--data-dir", str(settings.data_dir))
        more = ("--root-path", root_path) if root_path else ()
        with running(*flags, *more, cwd=settings.data_dir.parent) as process, open_page() as page:
            yield Docs(
                page, process.stdout.readline().split()[-1].removesuffix(root_path) + root_path
            )

    return opened


@pytest.mark.parametrize("root_path", ["", "/rollout"])
def test_it_works_without_a_network_and_its_examples_can_be_sent(open_docs, tmp_path, root_path):
    (tmp_path / "clip.mp4").write_bytes(MP4)

    with open_docs(root_path) as docs:
        status, text = docs.try_out("jobs-create_job", file=tmp_path / "clip.mp4")
        assert status == 202, text
        job = json.loads(text)
        assert job["request"]["method"] == "contribution_rollout"
        assert docs.try_out("jobs-list_jobs")[0] == 200
        assert docs.try_out("models-list_models")[0] == 200
        status, text = docs.try_out("jobs-get_job", job_id=job["id"])
        assert (status, json.loads(text)["id"]) == (200, job["id"])
        assert docs.try_out("jobs-cancel_job", job_id=job["id"])[0] == 202
        assert docs.try_out("jobs-delete_job", job_id=job["id"])[0] == 204
        docs.page.screenshot(path=tmp_path / "docs.png", full_page=True)

    origins = {
        urlsplit(url).netloc for url in docs.requests if not url.startswith(("data:", "blob:"))
    }
    assert origins == {urlsplit(docs.url).netloc}
    assert docs.complaints == []


def test_the_page_runs_no_script_of_others(client):
    response = client.get("/docs")

    assert response.headers["content-security-policy"] == OWN_SCRIPTS
    assert "default-src 'self'" in OWN_SCRIPTS
    assert "script-src" not in OWN_SCRIPTS  # so the default counts, without 'unsafe-inline'
    assert "://" not in response.text
    assert "<script>" not in response.text


@pytest.mark.parametrize("path", FILES)
def test_every_file_of_the_page_is_served(client, path):
    response = client.get(f"/docs{path}")

    assert response.status_code == 200
    assert response.content == FILES[path].read_bytes()
    assert client.head(f"/docs{path}").status_code == 200
    kinds = {"": "text/html", ".js": "text/javascript", ".css": "text/css"}
    assert response.headers["content-type"].startswith(kinds[Path(path).suffix])


def test_the_document_names_the_root_path(open_client):
    document = open_client(root_path="/rollout").get("/rollout/openapi.json").json()

    assert [server["url"] for server in document["servers"]] == ["/rollout"]


def test_the_licence_of_the_files_is_beside_them():
    folder = STATIC / "swagger-ui"

    assert "Apache License" in (folder / "LICENSE").read_text()
    assert "SmartBear" in (folder / "NOTICE").read_text()


def test_the_files_are_of_the_pinned_version():
    version = (STATIC / "swagger-ui" / "VERSION").read_text().strip()

    assert json.loads(PINNED.read_text())["dependencies"]["swagger-ui-dist"] == version


def test_the_files_are_those_of_the_package():
    if not NODE_PACKAGE.is_dir():
        pytest.skip("swagger-ui-dist is not installed; see scripts/node-packages")
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        ours = (STATIC / "swagger-ui" / name).read_text(encoding="utf-8")
        theirs = (NODE_PACKAGE / name).read_text(encoding="utf-8")
        assert ours.strip() == theirs.partition("/*# sourceMappingURL")[0].strip(), name
