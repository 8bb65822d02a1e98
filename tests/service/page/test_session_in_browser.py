"""A real browser on the page: what sends no API key sends the cookie of its session."""

import pytest

from tests.service.owners import headers
from tests.service.test_main import running
from tests.system.browser import open_page

LOG_IN = """authorization => fetch("v1/session", {
    method: "POST", headers: {Authorization: authorization}
}).then(answer => answer.status)"""

CALL = """([method, path]) => fetch(path, {method}).then(async answer => {
    const text = await answer.text();
    return [answer.status, text ? JSON.parse(text).code ?? "" : ""];
})"""

UPLOAD = """() => {
    const body = new FormData();
    body.append("video", new Blob([new Uint8Array([0, 0, 0, 24]), "ftypisom" + " ".repeat(999)]));
    return fetch("v1/jobs", {method: "POST", body}).then(answer => answer.json());
}"""

FOLLOW = """path => new Promise((resolve, reject) => {
    const events = new EventSource(path);
    events.addEventListener("end", event => { events.close(); resolve(JSON.parse(event.data)); });
    events.onerror = () => reject(new Error("the stream broke"));
})"""

READ_PICTURE = """path => new Promise(resolve => {
    const picture = new Image();
    picture.onload = picture.onerror = event => resolve(event.type);
    picture.src = path;
})"""


@pytest.fixture
def url(settings, redis, announce, keys_file):
    """Return the address of the page of a service with keys, behind a root path."""
    announce()
    flags = ("--redis-url", settings.redis_url, "--data-dir", str(settings.data_dir))
    more = ("--api-keys-file", str(keys_file), "--root-path", "/rollout")
    with running(*flags, *more, cwd=settings.data_dir.parent) as process:
        yield process.stdout.readline().split()[-1].removesuffix("/rollout") + "/rollout/"


def test_events_pictures_and_changes_work_by_cookie(url, worker):
    with open_page() as page:
        page.goto(url)
        assert page.evaluate(CALL, ["GET", "v1/session"]) == [401, "unauthorized"]
        assert page.evaluate(LOG_IN, headers("ann")["Authorization"]) == 201
        assert page.evaluate("document.cookie") == ""
        assert page.evaluate(CALL, ["GET", "v1/session"])[0] == 200

        answers = []
        page.on("response", lambda answer: answers.append((answer.url, answer.status)))
        job = page.evaluate(UPLOAD)
        worker.succeed(job["id"])

        assert page.evaluate(FOLLOW, f"v1/jobs/{job['id']}/events")["state"] == "succeeded"
        page.evaluate(READ_PICTURE, f"v1/jobs/{job['id']}/artifacts/sheet.png")
        assert (f"{url}v1/jobs/{job['id']}/artifacts/sheet.png", 200) in answers
        assert page.evaluate(CALL, ["DELETE", f"v1/jobs/{job['id']}"]) == [204, ""]
        assert page.evaluate(CALL, ["DELETE", "v1/session"]) == [204, ""]
        assert page.evaluate(CALL, ["GET", "v1/session"]) == [401, "unauthorized"]
