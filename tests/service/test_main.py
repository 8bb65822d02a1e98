"""The command `rollout-service`, run as a process."""

import json
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest

from rollout_core.jobs.redis_records import announce_store
from service.__main__ import main
from tests.system.processes import is_alive
from tests.system.waiting import wait_until
from tests.worker.clips import make_video


@pytest.fixture(autouse=True)
def _no_other_service(redis):
    """An empty server: another service of the same Redis would have another store."""


@contextmanager
def running(*flags, cwd, umask=-1):
    """Run the command; kill it at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "--port", "0", *flags],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        umask=umask,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def children(pid):
    """Return the ids of all descendants of a process, oldest first."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *children(int(child))]
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_ends_in_order(tmp_path, redis_url, number):
    with running("--redis-url", redis_url, cwd=tmp_path) as process:
        line = process.stdout.readline()
        url = line.split()[-1]
        response = httpx2.get(f"{url}/readyz")
        process.send_signal(number)
        out, errors = process.communicate(timeout=15)

    assert url.startswith("http://127.0.0.1:")
    assert response.status_code == 200
    assert "server" not in response.headers
    assert (out, process.returncode) == ("", 0)
    assert [line.partition("Z ")[2] for line in errors.splitlines()] == [
        "WARNING service.server: no API keys are set; only this machine can connect"
    ]


def test_it_warns_where_anybody_may_reach_it(tmp_path, redis_url):
    with running("--redis-url", redis_url, "--host", "0.0.0.0", cwd=tmp_path) as process:
        process.stdout.readline()
        line = process.stderr.readline()

    assert "WARNING service.server: it listens on 0.0.0.0 and NO API KEYS are set" in line


def test_with_keys_it_warns_of_nothing_and_asks_for_one(tmp_path, redis_url):
    (tmp_path / "keys.toml").write_text(f'[alice]\nsha256 = "{sha256(b"key").hexdigest()}"\n')
    flags = ("--redis-url", redis_url, "--host", "0.0.0.0", "--api-keys-file", "keys.toml")
    with running(*flags, cwd=tmp_path) as process:
        url = process.stdout.readline().split()[-1]
        refused = httpx2.get(f"{url}/v1/models")
        allowed = httpx2.get(f"{url}/v1/models", headers={"Authorization": "Bearer key"})
        process.terminate()
        _, errors = process.communicate(timeout=15)

    assert (refused.status_code, allowed.status_code) == (401, 200)
    assert [line.split()[1:3] for line in errors.splitlines()] == [
        ["INFO", "service.access_log"]
    ] * 2


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_invalid_http_is_answered_with_a_problem_document(tmp_path, redis_url, request_bytes):
    with running("--redis-url", redis_url, cwd=tmp_path) as process:
        port = int(process.stdout.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(request_bytes)
            with connection.makefile("rb") as answer:
                head, _, body = answer.read().partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["code"] == "bad_request"


def test_a_bug_is_logged_with_its_traceback(tmp_path, redis_url):
    code = (
        "from service.__main__ import main\n"
        "from service.jobs import Jobs\n"
        "Jobs.models = lambda self: 1 / 0\n"
        f"main(['--port', '0', '--redis-url', {redis_url!r}])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=-1, stderr=-1, text=True
    )
    url = process.stdout.readline().split()[-1]
    response = httpx2.get(f"{url}/v1/models")
    process.terminate()
    _, errors = process.communicate(timeout=15)

    assert response.status_code == 500
    assert response.json()["code"] == "internal"
    assert "ZeroDivisionError" not in response.text
    assert "ZeroDivisionError" in errors


def test_standalone_starts_and_stops_all_it_needs(tmp_path):
    with running("--standalone", "--engine", "fake", "--model", "fake", cwd=tmp_path) as process:
        url = process.stdout.readline().split()[-1]
        assert httpx2.get(f"{url}/readyz").status_code == 200
        wait_until(lambda: httpx2.get(f"{url}/v1/models").json()["models"])
        below = children(process.pid)
        process.terminate()
        process.communicate(timeout=20)

    assert process.returncode == 0
    assert len(below) >= 2  # a server and a worker at least
    assert [pid for pid in below if is_alive(pid)] == []


def test_the_data_directory_is_private_whatever_the_umask(tmp_path):
    video = make_video(tmp_path / "v.mp4", seconds=1, width=32, height=32)
    flags = ("--standalone", "--engine", "fake", "--model", "fake", "--data-dir", "data")
    with running(*flags, cwd=tmp_path, umask=0) as process:
        url = process.stdout.readline().split()[-1]
        with httpx2.Client(base_url=url) as client:
            wait_until(lambda: client.get("/v1/models").json()["models"])
            job = client.post("/v1/jobs", files={"video": ("v.mp4", video.read_bytes())}).json()
            wait_until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["result"])
        paths = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
        modes = {path: stat.filemode(path.stat().st_mode) for path in paths}
        process.terminate()
        process.communicate(timeout=20)

    assert {path.name for path in paths} > {"job.json", "video", "result.json", "overlay.mp4"}
    assert {path: mode for path, mode in modes.items() if mode[4:] != "------"} == {}


def test_standalone_stops_what_it_started_when_it_cannot_listen(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ("--standalone", "--engine", "fake", "--model", "fake", "--port", port)
        with running(*flags, cwd=tmp_path) as process:
            out, errors = process.communicate(timeout=30)

    assert process.returncode != 0
    assert out == ""
    assert "address already in use" in errors
    assert not (tmp_path / "data" / "valkey" / "valkey.sock").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "70000"], "port: "),
        (["--max-queued", "0", "--result-ttl", "-1"], "max_queued: "),
        (["--data-dir", "/proc/nowhere", "--standalone"], "cannot start: "),
        (["--data-dir", "/proc/nowhere"], "cannot start: "),
        (["--redis-url", "http://nowhere"], "redis_url: "),
        (["--redis-password-file", "/proc/nowhere"], "redis_password_file: cannot read"),
        (["--api-keys-file", "/proc/nowhere/keys.toml"], "cannot start: /proc/nowhere/keys.toml"),
        (["--store", "http://bucket/prefix"], "store: "),
        (["--store", "s3:/bucket"], "store: "),
        (["--store", "s3://bucket/prefix?x=y"], "store: "),
        (["--downloads", "redirect"], "downloads can be redirected to a bucket only"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_clear_line(flags, words, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    with pytest.raises(SystemExit) as caught:
        main(flags)

    assert str(caught.value).startswith("rollout-service: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_standalone_does_without_the_password_of_another_redis(tmp_path, monkeypatch):
    file = tmp_path / "password"
    file.write_text("secret")
    monkeypatch.setenv("ROLLOUT_REDIS_PASSWORD_FILE", str(file))
    with running("--standalone", "--engine", "fake", "--model", "fake", cwd=tmp_path) as process:
        url = process.stdout.readline().split()[-1]
        wait_until(lambda: httpx2.get(f"{url}/v1/models").json()["models"])


def test_killed_standalone_leaves_no_process(tmp_path):
    with running("--standalone", "--engine", "fake", "--model", "fake", cwd=tmp_path) as process:
        url = process.stdout.readline().split()[-1]
        wait_until(lambda: httpx2.get(f"{url}/v1/models").json()["models"])
        below = children(process.pid)
        process.kill()
        process.wait()

    wait_until(lambda: not any(is_alive(pid) for pid in below))


def test_it_refuses_a_redis_that_a_service_with_another_store_uses(tmp_path, redis, redis_url):
    announce_store(redis, "that of the other service")
    with running("--redis-url", redis_url, cwd=tmp_path) as process:
        _, errors = process.communicate(timeout=15)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith(
        "rollout-service: cannot start: this data directory is not the one of the service"
    )
