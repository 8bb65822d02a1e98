"""Hostile HTTP requests: every answer matches the schema and reveals nothing about the server.

They go to the real service in standalone mode: API, Valkey and a worker with the fake engine.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.system.system import ENDED
from tests.system.waiting import wait_until
from tests.worker.clips import make_video

ROOT = Path(__file__).parents[2]
NAMES = ("ann", "ben")

STRANGE = {
    "parent": "../../../../etc/passwd",
    "absolute": "/etc/passwd",
    "windows": "..\\..\\boot.ini",
    "nul": "a\0b",
    "control": "a\r\nSet-Cookie: b=c",
    "quotes": "\"';<script>",
    "unicode": "видео\u202efdp.\U0001f3a5",
    "overlong": "..%c0%af..%c0%af",
    "format": "%s%n{0}${jndi:ldap://x}",
    "option": "-rf",
    "protocol": "concat:file:///etc/passwd",
    "long": "x" * 4096,
    "empty": "",
}


@dataclass(frozen=True)
class Service:
    """A running service, and what only its operator can see."""

    url: str
    folder: Path

    def has_logged_a_bug(self) -> bool:
        log = (self.folder / "log").read_text()
        return "Exception in ASGI application" in log or "A chore failed" in log

    def client(self, name):
        return httpx.Client(base_url=self.url, headers=headers(name), timeout=20)


def headers(name):
    return {"Authorization": f"Bearer key-of-{name}"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secret-place")
    digests = {name: sha256(f"key-of-{name}".encode()).hexdigest() for name in NAMES}
    tables = [f'[{name}]\nsha256 = "{digest}"\n' for name, digest in digests.items()]
    (folder / "keys.toml").write_text("".join(tables))
    flags = ["--standalone", "--engine=fake", "--model=fake", "--port=0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *flags, "--api-keys-file=keys.toml"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            url = process.stdout.readline().split()[-1]
            service = Service(url, folder)
            with service.client("ann") as client:
                wait_until(lambda: has_ready_model(client, process), what="a ready model")
            yield service
        finally:
            process.terminate()
            process.communicate(timeout=30)


def has_ready_model(client, process):
    """Whether a worker can take jobs; one whose engine still loads has only announced its model."""
    assert process.poll() is None
    return any(model["ready"] for model in client.get("/v1/models").json()["models"])


@pytest.fixture(scope="module")
def client(service):
    with service.client("ann") as client:
        yield client


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    return make_video(path, seconds=1, width=32, height=32)


def reveals_nothing(service, text):
    """Whether an answer contains nothing about where and how the service runs."""
    secrets = (
        str(service.folder),
        str(ROOT),
        "Traceback",
        'File "',
        "rollout-data",
        "site-packages",
    )
    return not any(secret in text for secret in secrets)


def test_schemathesis_finds_nothing(service, video, tmp_path):
    """Run all its checks on every route, for two owners who must not see each other's jobs."""
    users = [
        {"name": name, "fixedHeaders": [{"name": key, "value": value}]}
        for name in NAMES
        for key, value in headers(name).items()
    ]
    (tmp_path / "users.json").write_text(json.dumps({"auth": users}))
    (tmp_path / "schemathesis.toml").write_text(
        f"[auth.wfc]\npath = 'users.json'\npeers = {list(NAMES)}\n"
    )
    program = Path(sys.executable).with_name("schemathesis")
    flags = ["--checks=all", "--generation-deterministic", "--max-examples=25", "--no-color"]
    # Most generated requests name uploads that do not exist; that is a warning.
    flags.append("--warnings=off")
    accepted = tmp_path / "accepted"
    hooks = {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.hostile.schema_hooks"}
    files = {"ROLLOUT_TEST_VIDEO": str(video), "ROLLOUT_TEST_ACCEPTED": str(accepted)}

    done = subprocess.run(
        [program, "run", f"{service.url}/openapi.json", *flags, "--continue-on-failure"],
        cwd=tmp_path,
        env={**os.environ, **hooks, **files},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout[-20_000:]
    assert "No issues found" in done.stdout
    assert not service.has_logged_a_bug()
    # Some uploads were accepted. Their jobs may be gone: schemathesis deletes jobs, too.
    assert accepted.read_text().split()


@pytest.mark.parametrize("name", STRANGE.values(), ids=STRANGE)
class TestStrangeNames:
    def test_as_a_file_name(self, service, client, video, name):
        before = sorted(path.name for path in service.folder.iterdir())
        body = form(name, video.read_bytes())
        kind = {"Content-Type": "multipart/form-data; boundary=cut"}
        response = client.post("/v1/jobs", content=body, headers=kind)

        assert response.status_code in (200, 202, 400, 422), response.text
        assert reveals_nothing(service, response.text)
        assert "/" not in (response.json().get("filename") or "")
        assert sorted(path.name for path in service.folder.iterdir()) == before
        uploads = service.folder.glob("rollout-data/jobs/*/upload/*")
        assert {path.name for path in uploads} <= {"video"}

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/jobs/{}",
            "/v1/jobs/{}/cancel",
            "/v1/jobs/{}/artifacts/result.json",
            f"/v1/jobs/{'0' * 32}/artifacts/{{}}",
            "/v1/{}",
            "/{}",
            "/v1/jobs?state={}",
            "/v1/jobs?limit={}",
            "/v1/jobs?cursor={}",
            "/v1/models?name={}",
        ],
    )
    def test_in_a_url(self, service, client, path, name):
        encoded = path.format(quote(name, safe=""))
        for method in ("GET", "POST", "DELETE", "HEAD"):
            response = client.request(method, encoded)

            assert response.status_code < 500
            assert reveals_nothing(service, response.text)
            assert "root:" not in response.text
            if response.status_code >= 400:
                assert response.headers["content-type"] == "application/problem+json"

    @pytest.mark.parametrize(
        "line", ["GET /v1/jobs/{} HTTP/1.1", "GET /v1/jobs?cursor={} HTTP/1.1"]
    )
    def test_in_an_unencoded_url(self, service, line, name):
        address = service.url.removeprefix("http://").split(":")
        with closing(socket.create_connection(address, timeout=20)) as client:
            request = f"{line.format(name)}\r\nHost: x\r\nConnection: close\r\n\r\n"
            client.sendall(request.encode())
            with client.makefile("rb") as file:
                answer = file.read().decode()

        assert 400 <= int(answer.split()[1]) < 500
        assert reveals_nothing(service, answer)
        assert "\r\nset-cookie" not in answer.lower()


def test_a_valid_job_still_succeeds_afterwards(service, client, video):
    files = {"video": ("v.mp4", video.read_bytes()), "request": (None, '{"model": "fake"}')}
    job_id = client.post("/v1/jobs", files=files).json()["id"]

    def ended():
        job = client.get(f"/v1/jobs/{job_id}").json()
        return job["state"] in ENDED and job

    job = wait_until(ended, 60, "the job to end")
    assert job["state"] == "succeeded", job
    assert not service.has_logged_a_bug()


def form(name, content):
    """Return an upload whose file has this name, unescaped."""
    head = b'--cut\r\nContent-Disposition: form-data; name="video"; filename="%s"\r\n\r\n'
    return head % name.encode() + content + b"\r\n--cut--\r\n"
