"""How the service stops, as a process of its own."""

import asyncio
import json
import logging
import os
import resource
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path

import pytest

from service import server as server_module
from service import uploads
from service.server import allow_connections, make_server
from tests.service.test_main import running
from tests.service.test_uploads import END, TYPE, part
from tests.system.processes import open_files


@pytest.fixture
def start(settings, redis, announce):
    announce()
    flags = ("--redis-url", settings.redis_url, "--data-dir", str(settings.data_dir))
    return lambda *more: running(*flags, *more, cwd=settings.data_dir.parent)


def connect(process):
    port = int(process.stdout.readline().rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def await_upload(settings):
    """Wait until an upload has begun to arrive."""
    give_up = time.monotonic() + 10
    while not list((settings.data_dir / "incoming").rglob("video")):
        assert time.monotonic() < give_up
        time.sleep(0.02)


def is_listening(address):
    try:
        socket.create_connection(address, timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_upload_under_way_may_end_and_no_other_begins(start, settings, store, mp4, number):
    body = part("video", mp4) + END
    with start() as process, connect(process) as client:
        client.sendall(post(f"Content-Length: {len(body)}") + body[:1500])
        await_upload(settings)
        process.send_signal(number)
        give_up = time.monotonic() + 5
        while is_listening(client.getpeername()):
            assert time.monotonic() < give_up
            time.sleep(0.02)
        client.sendall(body[1500:])
        status, _, job = answer(client)
        assert is_closed(client)
        process.communicate(timeout=10)

    assert (status, process.returncode) == (202, 0)
    assert store.upload_path(json.loads(job)["id"]).read_bytes() == mp4


def test_a_connection_that_waits_does_not_hold_it_up(start):
    with start() as process, connect(process) as client, client.dup() as silent:
        client.sendall(get("/livez"))
        assert answer(silent)[0] == 200
        started = time.monotonic()
        process.terminate()
        process.communicate(timeout=10)

    assert time.monotonic() - started < 3
    assert process.returncode == 0


def test_a_transfer_that_does_not_end_in_time_is_told_and_leaves_nothing(
    start, settings, mp4, leftovers
):
    with start("--drain-seconds", "1") as process, connect(process) as client:
        client.sendall(post("Content-Length: 9999") + part("video", mp4))
        await_upload(settings)
        started = time.monotonic()
        process.terminate()
        status, headers, body = answer(client)
        _, errors = process.communicate(timeout=10)

    assert 1 <= time.monotonic() - started < 5
    assert (status, json.loads(body)["code"]) == (503, "shutting_down")
    assert headers["content-type"] == "application/problem+json"
    assert int(headers["retry-after"]) > 0
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert leftovers() == []


LIMIT_SECONDS = 0.6
"""Stands for each of the limits, to have tests that are short."""


MAX_BYTES = 300_000


OPEN_STATES = ("01", "08")
"""Of a TCP socket: established; closed by the client alone."""


class Door:
    """A service that listens, and what it holds."""

    def __init__(self, server, store):
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self._server = server
        self._store = store
        self._loop = server.servers[0].get_loop()
        self._before = self._held()

    def _held(self):
        """Connections, tasks, sockets, open files and what lies where uploads arrive."""
        state = self._server.server_state
        tasks = len(asyncio.all_tasks(self._loop))
        left = list(os.walk(self._store / "incoming"))  # a glob may not lose a folder meanwhile
        open_ = self._sockets(), self._files()
        return len(state.connections), len(state.tasks), tasks, open_, left

    def _sockets(self):
        """Count the service's ends of connections that are not closed yet."""
        lines = (line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:])
        ours = f":{self.port:04X}"
        return sum(
            local.endswith(ours) and state in OPEN_STATES for _, local, _, state, *_ in lines
        )

    def _files(self):
        """Count the open files of the store."""
        names = open_files(os.getpid()).values()
        return sum(name.startswith(str(self._store)) for name in names)

    @contextmanager
    def connection(self, *sent):
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            for data in sent:
                client.sendall(data)
            yield client

    def is_as_before(self):
        """Wait until nothing is left of what was done; say whether that came true."""
        give_up = time.monotonic() + 5
        while self._held() != self._before:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.02)
        return True


@pytest.fixture
def open_door(settings, redis, announce, store, monkeypatch):
    """Open a service with limits that tests can wait for."""
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr(server_module, "SEND_SECONDS", LIMIT_SECONDS)
    announce()
    redis.ping()
    running = []

    def open_one(**changes):
        fixed = {"port": 0, "max_upload_bytes": MAX_BYTES, "upload_idle_seconds": LIMIT_SECONDS}
        server = make_server(settings.model_copy(update=fixed | changes))
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        return Door(server, settings.data_dir)

    yield open_one
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture
def door(open_door):
    return open_door()


def get(path, *headers):
    return b"\r\n".join((f"GET {path} HTTP/1.1".encode(), b"Host: x", *headers, b"", b""))


def post(*headers, path="/v1/jobs", content_type=TYPE):
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {content_type}", *headers, "", "")
    return "\r\n".join(lines).encode()


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def answer(client):
    """Return the status, the headers and the body of the next answer."""
    received = bytearray()
    while b"\r\n\r\n" not in received:
        more = client.recv(1)
        if not more:
            assert not received, received
            return None
        received += more
    status, *lines = bytes(received).decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)}
    body = bytearray()
    while len(body) < int(headers.get("content-length", 0)):
        body += client.recv(int(headers["content-length"]) - len(body))
    return int(status.split()[1]), headers, bytes(body)


def check(client, status, code):
    """Check that the next answer is this problem; return its headers."""
    got = answer(client)
    assert got is not None, "closed without an answer"
    assert (got[0], json.loads(got[2])["code"]) == (status, code)
    assert got[1]["content-type"] == "application/problem+json"
    return got[1]


def is_closed(client):
    """Whether the service closes the connection, within the time of the socket."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@contextmanager
def dripping(client, data=None):
    """Meanwhile, send byte by byte; `x` without an end, if nothing is given."""
    leaving = threading.Event()

    def drip():
        with suppress(BrokenPipeError, ConnectionResetError):
            for byte in data or repeat(ord("x")):
                if leaving.wait(0.02):
                    return
                client.sendall(bytes([byte]))

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        leaving.set()
        thread.join()


class TestHead:
    def test_a_connection_that_says_nothing_is_closed(self, door):
        with door.connection() as client:
            assert answer(client) is None
        assert door.is_as_before()

    def test_a_head_that_crawls(self, door):
        started = time.monotonic()
        with door.connection() as client, dripping(client, get("/livez", b"X: " + b"x" * 4000)):
            check(client, 408, "request_timeout")
            assert is_closed(client)
        assert LIMIT_SECONDS <= time.monotonic() - started < 5 * LIMIT_SECONDS
        assert door.is_as_before()

    def test_the_head_of_a_second_request_that_crawls(self, door):
        with door.connection(get("/livez")) as client:
            assert answer(client)[0] == 200
            with dripping(client, get("/livez", b"X: " + b"x" * 4000)):
                check(client, 408, "request_timeout")
                assert is_closed(client)
        assert door.is_as_before()

    def test_a_head_without_an_end(self, door):
        with door.connection(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000) as client:
            check(client, 400, "bad_request")
        assert door.is_as_before()

    def test_requests_may_follow_each_other_for_longer_than_one_may_take(self, door):
        with door.connection() as client:
            give_up = time.monotonic() + 2 * LIMIT_SECONDS
            while time.monotonic() < give_up:
                client.sendall(get("/livez"))
                assert answer(client)[0] == 200
                time.sleep(LIMIT_SECONDS / 5)
        assert door.is_as_before()

    def test_requests_may_come_all_at_once(self, door):
        with door.connection(get("/livez") * 20) as client:
            assert [answer(client)[0] for _ in range(20)] == [200] * 20
        assert door.is_as_before()


class TestUpload:
    def test_one_that_falls_silent(self, door, mp4):
        with door.connection(post("Content-Length: 9999"), part("video", mp4)) as client:
            headers = check(client, 408, "upload_too_slow")
            assert headers["connection"] == "close"
            assert is_closed(client)
        assert door.is_as_before()

    def test_one_that_crawls(self, door, mp4):
        head = post("Content-Length: 99999")
        with door.connection(head, part("video", mp4)[:-2]) as client, dripping(client):
            check(client, 408, "upload_too_slow")
            assert is_closed(client)
        assert door.is_as_before()

    def test_one_that_is_slow_but_comes_on(self, door, mp4, monkeypatch):
        monkeypatch.setattr(uploads, "STEP_BYTES", 200)
        body = part("video", mp4) + END
        started = time.monotonic()
        with door.connection(post(f"Content-Length: {len(body)}")) as client:
            for start in range(0, len(body), 100):
                client.sendall(body[start : start + 100])
                time.sleep(LIMIT_SECONDS / 10)
            assert answer(client)[0] == 202
        assert time.monotonic() - started > 2 * LIMIT_SECONDS

    def test_a_length_that_is_too_long(self, door, mp4):
        body = part("video", mp4) + END
        with door.connection(post(f"Content-Length: {len(body) + 1}"), body) as client:
            check(client, 408, "upload_too_slow")
        assert door.is_as_before()

    def test_a_length_that_is_too_short(self, door, mp4):
        body = part("video", mp4) + END
        head = post(f"Content-Length: {len(body) - 100}")
        with door.connection(head, body, b"\r\n\r\n") as client:
            check(client, 400, "upload_malformed")
            check(client, 400, "bad_request")  # the rest is no request
            assert is_closed(client)
        assert door.is_as_before()

    @pytest.mark.parametrize(
        "headers",
        [
            ("Content-Length: 5", "Content-Length: 6"),
            ("Content-Length: 1e3",),
            ("Content-Length: +5",),
            ("Content-Length: 99999999999999999999999",),
            ("Transfer-Encoding: gzip",),
            ("Transfer-Encoding: chunked, gzip",),
        ],
    )
    def test_a_length_that_is_none(self, door, headers):
        with door.connection(post(*headers)) as client:
            check(client, 400, "bad_request")
            assert is_closed(client)
        assert door.is_as_before()

    def test_two_lengths_are_refused_and_nothing_after_them_is_read(self, door):
        with door.connection() as client:
            head = post("Content-Length: 5", "Transfer-Encoding: chunked")
            client.sendall(head + b"0\r\n\r\n" + get("/livez"))
            check(client, 400, "bad_request")
            assert is_closed(client)

    def test_a_length_beyond_the_limit_is_refused_before_the_body(self, door):
        head = post(f"Content-Length: {MAX_BYTES + 1}", "Expect: 100-continue")
        with door.connection(head) as client:
            check(client, 413, "upload_too_large")
        assert door.is_as_before()

    def test_chunks_past_the_limit(self, door, mp4):
        with door.connection(post("Transfer-Encoding: chunked")) as client:
            client.sendall(chunk(part("video", mp4)[:-2]))
            for _ in range(MAX_BYTES // 10_000):
                client.sendall(chunk(bytes(10_000)))
            check(client, 413, "upload_too_large")
        assert door.is_as_before()

    def test_a_client_that_goes_on_sending_what_nobody_wants_is_cut_off(self, door, mp4):
        with (
            door.connection(
                post("Transfer-Encoding: chunked", content_type="text/plain")
            ) as client,
            dripping(client, chunk(b"x") * 1000),
        ):
            check(client, 415, "media_type_unsupported")
            assert is_closed(client)
        assert door.is_as_before()

    def test_a_body_that_nobody_wants_may_end_and_a_request_follow(self, door):
        head = post("Content-Length: 10", content_type="text/plain")
        with door.connection(head) as client:
            check(client, 415, "media_type_unsupported")
            client.sendall(b"0123456789" + get("/livez"))
            assert answer(client)[0] == 200
            assert is_closed(client)
        assert door.is_as_before()

    @pytest.mark.parametrize(
        "broken", [b"zz\r\n", b"-1\r\n", b"5\r\nabcdefgh", b"f" * 40 + b"\r\n"]
    )
    def test_chunks_that_are_none(self, door, mp4, broken):
        head = post("Transfer-Encoding: chunked")
        with door.connection(head, chunk(part("video", mp4)[:-2]), broken) as client:
            check(client, 400, "bad_request")
            assert is_closed(client)
        assert door.is_as_before()

    def test_chunks_that_are_none_after_the_answer(self, door, caplog):
        with door.connection(
            post("Transfer-Encoding: chunked", content_type="text/plain")
        ) as client:
            check(client, 415, "media_type_unsupported")
            client.sendall(b"zz\r\n")
            assert is_closed(client)
        assert door.is_as_before()
        assert max(record.levelno for record in caplog.records) < logging.ERROR

    @pytest.mark.parametrize("how", ["in order", "at once"])
    @pytest.mark.parametrize("size", [0, 10, 200_000])
    def test_a_client_that_goes_away(self, door, mp4, how, size):
        head = post("Transfer-Encoding: chunked")
        with door.connection(head, chunk(part("video", mp4)[:-2]), bytes(0)) as client:
            if size:
                client.sendall(chunk(bytes(size)))
            if how == "at once":
                linger = (1).to_bytes(4, "little") + bytes(4)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        assert door.is_as_before()

    @pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZIP", "identity, gzip", "x"])
    def test_a_body_that_is_encoded(self, door, mp4, coding):
        body = part("video", mp4) + END
        head = post(f"Content-Encoding: {coding}", f"Content-Length: {len(body)}")
        with door.connection(head, body) as client:
            headers = check(client, 415, "content_encoding_unsupported")
            assert headers["accept-encoding"] == "identity"
        assert door.is_as_before()

    def test_who_is_refused_is_not_asked_to_send(self, door):
        head = post("Expect: 100-continue", "Content-Length: 10", content_type="text/plain")
        with door.connection(head) as client:
            check(client, 415, "media_type_unsupported")


class TestAnswer:
    @pytest.fixture
    def artifact(self, store, worker, client, new_job):
        """The path of a file that is too large for any socket's buffer."""
        job_id = new_job()
        worker.succeed(job_id)
        os.truncate(store.artifact_path(job_id, "overlay.mp4"), 64 * 1024**2)
        return f"/v1/jobs/{job_id}/artifacts/overlay.mp4"

    def test_a_client_that_does_not_fetch_it_is_cut_off(self, door, artifact):
        with door.connection(get(artifact)) as client:
            assert client.recv(12) == b"HTTP/1.1 200"
            assert door.is_as_before()

    def test_a_client_that_fetches_it_slowly_gets_it_all(self, door, artifact):
        started = time.monotonic()
        with door.connection(get(artifact)) as client:
            received = 0
            while received < 64 * 1024**2:
                received += len(client.recv(2 * 1024**2))
                time.sleep(0.02)
        assert time.monotonic() - started > LIMIT_SECONDS


class TestCount:
    def test_too_many_are_told_so(self, open_door):
        door = open_door(max_connections=2)
        with door.connection() as first, door.connection(), door.connection(get("/livez")) as third:
            headers = check(third, 503, "too_many_connections")
            assert int(headers["retry-after"]) > 0
            assert is_closed(third)
            first.sendall(get("/livez"))
            assert answer(first)[0] == 200
        assert door.is_as_before()
        with door.connection(get("/livez")) as later:
            assert answer(later)[0] == 200

    def test_far_too_many_are_dropped(self, open_door, monkeypatch):
        monkeypatch.setattr(server_module, "SPARE_CONNECTIONS", 1)
        door = open_door(max_connections=1)
        with door.connection(), door.connection(), door.connection() as third:
            started = time.monotonic()
            assert is_closed(third)
            assert time.monotonic() - started < LIMIT_SECONDS / 2
        assert door.is_as_before()

    @pytest.mark.parametrize(
        ("limits", "wanted"),
        [
            ((256, 4096), (1400, 4096)),
            ((256, 512), (512, 512)),
            ((4096, 4096), None),
            ((256, resource.RLIM_INFINITY), (1400, resource.RLIM_INFINITY)),
            ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
        ],
    )
    def test_the_process_may_open_a_file_for_each(self, monkeypatch, limits, wanted):
        asked = []
        monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
        monkeypatch.setattr(resource, "setrlimit", lambda _, value: asked.append(value))

        allow_connections(500)

        assert asked == ([wanted] if wanted else [])
