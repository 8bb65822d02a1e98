"""What the two commands say at their start about a bucket that they cannot use: one line."""

import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rollout_core.errors import StoreUnavailable
from rollout_core.jobs import bucket as bucket_module
from rollout_core.jobs.bucket import Bucket

COMMANDS = {
    "rollout-service": ["-m", "service", "--port", "0"],
    "rollout-worker": ["-m", "worker", "--engine", "fake", "--model", "fake"],
}


class Heedless(BaseHTTPRequestHandler):
    """A store that ignores If-None-Match."""

    def _done(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b"".join(re.findall(rb"<Key>.*?</Key>", sent))
        deleted = b"<DeleteResult><Deleted>%b</Deleted></DeleteResult>" % found
        body = deleted if self.command == "POST" else b""
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = _done  # noqa: N815

    def log_message(self, *_):
        pass


class Refusing(Heedless):
    """A store that does not know the secret."""

    def _done(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<Error><Code>SignatureDoesNotMatch</Code><Message>wrong</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = _done  # noqa: N815


@pytest.fixture
def serve():
    """Start servers with a handler; return their URLs."""
    servers = []

    def start(handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def last_line(command, url, folder, redis_url, **environment):
    """Start a command that cannot start; return the last line that it writes."""
    done = subprocess.run(
        [sys.executable, *COMMANDS[command], "--store", url, "--redis-url", redis_url],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bucket_that_does_not_exist(command, bucket_url, tmp_path, redis, redis_url):
    line = last_line(command, "s3://nowhere/x", tmp_path, redis_url)
    assert line.startswith(f"{command}: ")
    assert line.endswith("s3://nowhere/x cannot be used: there is no such bucket")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_that_ignores_the_condition(command, bucket_url, serve, tmp_path, redis, redis_url):
    endpoint = serve(Heedless)
    line = last_line(command, bucket_url, tmp_path, redis_url, AWS_ENDPOINT_URL=endpoint)
    assert line.startswith(f"{command}: ")
    assert "ignores If-None-Match" in line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_secret(command, bucket_url, serve, tmp_path, redis, redis_url):
    endpoint = serve(Refusing)
    line = last_line(command, bucket_url, tmp_path, redis_url, AWS_ENDPOINT_URL=endpoint)
    assert line.startswith(f"{command}: ")
    assert "cannot be used: " in line
    assert "403" in line or "SignatureDoesNotMatch" in line


def no_service():
    """Return the URL of a port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    "environment",
    [
        {"AWS_ENDPOINT_URL": no_service()},
        {"AWS_ACCESS_KEY_ID": "", "AWS_METADATA_ENDPOINT": no_service()},
    ],
    ids=["nothing listens", "no credentials"],
)
def test_no_answer_is_one_line_without_secrets(bucket_url, monkeypatch, environment):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)
            monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr(bucket_module, "TRY_AGAIN_SECONDS", 1)
    with pytest.raises(StoreUnavailable) as caught:
        Bucket.at(bucket_url).check_create()
    assert str(caught.value).startswith(f"{bucket_url} cannot be used: ")
    assert "\n" not in str(caught.value)
    assert "a-secret" not in str(caught.value)
