"""Whatever is sent over HTTP gets an answer that its schema describes, and that says nothing else.

The real service, with its own Valkey and a fake worker, each a process of its own.
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
    """A service that runs, and what only its operator may see."""

    url: str
    folder: Path

    def has_met_a_bug(self) -> bool:
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
            with httpx.Client(base_url=url, headers=headers("ann")) as client:
                while not client.get("/v1/models").json()["models"]:
                    assert process.poll() is None
            yield Service(url, folder)
        finally:
            process.terminate()
            process.communicate(timeout=30)


@pytest.fixture(scope="module")
def client(service):
    with service.client("ann") as client:
        yield client


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    return make_video(path, seconds=1, width=32, height=32)


def says_nothing(service, text):
    """Whether an answer is silent about where and how the service runs."""
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
    """All its checks, on every call, with two owners who must not see each other's jobs."""
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
    hooks = {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.hostile.schema_hooks"}

    done = subprocess.run(
        [program, "run", f"{service.url}/openapi.json", *flags, "--continue-on-failure"],
        cwd=tmp_path,
        env={**os.environ, **hooks, "ROLLOUT_TEST_VIDEO": str(video)},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stdout[-20_000:]
    assert "No issues found" in done.stdout
    assert not service.has_met_a_bug()
    assert list(service.folder.glob("rollout-data/jobs/*"))  # it came past the door


@pytest.mark.parametrize("name", STRANGE.values(), ids=STRANGE)
class TestNames:
    def test_of_a_file(self, service, client, video, name):
        before = sorted(path.name for path in service.folder.iterdir())
        body = form(name, video.read_bytes())
        kind = {"Content-Type": "multipart/form-data; boundary=cut"}
        response = client.post("/v1/jobs", content=body, headers=kind)

        assert response.status_code in (202, 400, 422), response.text
        assert says_nothing(service, response.text)
        assert "passwd" not in response.text
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
    def test_in_an_address(self, service, client, path, name):
        encoded = path.format(quote(name, safe=""))
        for method in ("GET", "POST", "DELETE", "HEAD"):
            response = client.request(method, encoded)

            assert response.status_code < 500
            assert says_nothing(service, response.text)
            assert "root:" not in response.text
            if response.status_code >= 400:
                assert response.headers["content-type"] == "application/problem+json"

    @pytest.mark.parametrize(
        "line", ["GET /v1/jobs/{} HTTP/1.1", "GET /v1/jobs?cursor={} HTTP/1.1"]
    )
    def test_in_an_address_as_it_is(self, service, line, name):
        address = service.url.removeprefix("http://").split(":")
        with closing(socket.create_connection(address, timeout=20)) as client:
            request = f"{line.format(name)}\r\nHost: x\r\nConnection: close\r\n\r\n"
            client.sendall(request.encode())
            with client.makefile("rb") as file:
                answer = file.read().decode()

        assert 400 <= int(answer.split()[1]) < 500
        assert says_nothing(service, answer)
        assert "\r\nset-cookie" not in answer.lower()


def test_a_job_finds_its_way_past_all_this(service, client, video):
    files = {"video": ("v.mp4", video.read_bytes()), "request": (None, '{"model": "fake"}')}
    job = client.post("/v1/jobs", files=files).json()
    while job["state"] not in ("succeeded", "failed", "canceled"):
        job = client.get(f"/v1/jobs/{job['id']}").json()

    assert job["state"] == "succeeded"
    assert not service.has_met_a_bug()


def form(name, content):
    """An upload whose file has this name, as it is."""
    head = b'--cut\r\nContent-Disposition: form-data; name="video"; filename="%s"\r\n\r\n'
    return head % name.encode() + content + b"\r\n--cut--\r\n"
