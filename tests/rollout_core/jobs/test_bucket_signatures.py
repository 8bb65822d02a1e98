"""Requests and links as a server checks them: rclone's, which verifies signatures as S3 does."""

import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from rollout_core.errors import StoreUnavailable
from rollout_core.jobs.bucket import Bucket
from rollout_core.jobs.stores import open_store
from tests.system.waiting import wait_until

ID, SECRET = "anid", "asecret"


def find_rclone() -> str:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    assert found, "install the extra dev"
    return found


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a server with the bucket `rollout`, which knows one secret."""
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "data" / "rollout").mkdir(parents=True)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    command = [find_rclone(), "serve", "s3", "--auth-key", f"{ID},{SECRET}", "--addr", address]
    command += ["--config", str(folder / "none.conf"), str(folder / "data")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)

    def answers() -> bool:
        assert server.poll() is None, (folder / "log").read_text()
        connection = HTTPConnection(address, timeout=1)
        try:
            connection.request("GET", "/")
            with connection.getresponse():
                return True
        except OSError:
            return False
        finally:
            connection.close()

    try:
        wait_until(answers, 30, "rclone to answer")
        yield f"http://{address}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch):
    """Return a function that gives the bucket of a server, as a client with a secret sees it."""

    def at(server: str, secret: str = SECRET) -> Bucket:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ID)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setattr("rollout_core.jobs.bucket.TRY_AGAIN_SECONDS", 0.5)
        return Bucket.at("s3://rollout/prefix")

    return at


def refusal(link: str) -> int:
    """Return the status with which a link is refused."""
    with pytest.raises(HTTPError) as caught:
        urlopen(link, timeout=10)
    caught.value.close()
    return caught.value.code


def test_right_secret_may_do_everything(rclone, at):
    bucket = at(rclone)
    bucket.put("a/b", b"content")
    bucket.copy("a/b", "a/c")
    assert [found.key for found in bucket.objects("a")] == ["a/b", "a/c"]
    assert bucket.get("a/c") == b"content"
    bucket.delete(["a/b", "a/c"])
    assert bucket.objects("a") == []


def test_wrong_secret_is_refused_in_one_line(rclone, at, tmp_path):
    bucket = at(rclone, "another")
    for step in (lambda: bucket.get("a"), lambda: bucket.put("a", b""), lambda: bucket.head("a")):
        with pytest.raises(OSError, match=r"^\[Errno 121\] [^\n]+$"):
            step()
    with pytest.raises(StoreUnavailable, match=r"^s3://rollout/prefix cannot be used: [^\n]+$"):
        open_store("s3://rollout/prefix", tmp_path)


def test_link_works_without_credentials_until_it_expires(rclone, at):
    bucket = at(rclone)
    bucket.put("a/b", b"content")
    link = bucket.link("a/b", 60)
    with urlopen(link, timeout=10) as answer:
        assert answer.read() == b"content"
    short = bucket.link("a/b", 1)
    time.sleep(2.1)
    forged = link[:-1] + ("0" if link[-1] != "0" else "1")
    of_another = link.replace("a/b", "a/c")
    assert [refusal(bad) for bad in (forged, of_another)] == [403, 403]
    assert refusal(short) == 400  # S3 answers 403


def test_link_of_a_wrong_secret_is_refused(rclone, at):
    at(rclone).put("a/b", b"content")
    assert refusal(at(rclone, "another").link("a/b", 60)) == 403


def test_rclone_is_refused_as_a_store(rclone, at):
    """It overwrites an object in spite of `If-None-Match: *`."""
    bucket = at(rclone)
    with pytest.raises(StoreUnavailable, match="ignores If-None-Match"):
        bucket.check_create()
    assert bucket.objects("probes") == []


class Forgetful(BaseHTTPRequestHandler):
    """Answers each write as S3 does, and ignores its conditions."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"", ETag='"1"')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        keys = re.findall(rb"<Key>(.*?)</Key>", body)
        deleted = b"".join(b"<Deleted><Key>%b</Key></Deleted>" % key for key in keys)
        self._answer(b"<DeleteResult>%b</DeleteResult>" % deleted)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_store_that_ignores_conditions_is_refused(at, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(StoreUnavailable, match=r"^s3://rollout/prefix ignores If-None-Match"):
            open_store("s3://rollout/prefix", tmp_path)
        server.shutdown()
    assert list(tmp_path.iterdir()) == []


def test_store_with_conditions_is_opened(bucket_url, tmp_path):
    store = open_store(bucket_url, tmp_path / "here")
    store.check_writable()
    assert store.identity()


def test_settings_that_cannot_be_used_are_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no url")
    with pytest.raises(StoreUnavailable, match=r"^[^\n]+$"):
        open_store("s3://rollout/prefix", tmp_path)
