"""Shutdown of the service process, and the timeouts and limits of connections."""

import asyncio
import json
import logging
import os
import resource
import signal
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from itertools import repeat
from pathlib import Path

import pytest

from service import connections, receiving
from service import server as server_module
from service.server import allow_connections, make_server
from tests.service.test_main import running
from tests.service.test_uploads import END, TYPE, part
from tests.system.processes import open_files
from tests.system.waiting import wait_until

LIMIT_SECONDS = 0.6
"""Replaces every timeout, to keep the tests short."""


MAX_BYTES = 300_000


OPEN_STATES = ("01", "08")
"""States of a TCP socket in /proc: established; closed by the client only."""


@pytest.fixture
def start(settings, redis, announce):
    announce()
    flags = ("--redis-url", settings.redis_url, "--data-dir", str(settings.data_dir))
    return lambda *more: running(*flags, *more, cwd=settings.data_dir.parent)


def connect(process):
    port = int(process.stdout.readline().rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def await_upload(settings):
    """Wait until the first bytes of an upload have arrived."""
    wait_until(lambda: list((settings.data_dir / "incoming").rglob("video")))


def is_listening(address):
    try:
        socket.create_connection(address, timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


class ServerUnderTest:
    """A running server, and the resources that it holds."""

    def __init__(self, server, store):
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self._server = server
        self._store = store
        self._loop = server.servers[0].get_loop()
        self._before = self._settled()

    def _settled(self):
        """Return what it holds once the work of its start is over: that has files open, too."""
        last = None
        while (held := self._held()) != last:
            last = held
            time.sleep(0.05)
        return held

    def _held(self):
        """Return its connections, tasks, sockets, open files, and the uploads being received."""
        state = self._server.server_state
        tasks = len(asyncio.all_tasks(self._loop))
        left = list(os.walk(self._store / "incoming"))  # a glob may not lose a folder meanwhile
        open_ = self._sockets(), self._files()
        return len(state.connections), len(state.tasks), tasks, open_, left

    def _sockets(self):
        """Count the server's sockets that are not closed yet."""
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
    def connection(self, *sent, source="127.0.0.1"):
        address = ("127.0.0.1", self.port)
        with socket.create_connection(address, timeout=10, source_address=(source, 0)) as client:
            for data in sent:
                client.sendall(data)
            yield client

    def is_as_before(self):
        """Wait until all resources are released; return whether they were in time."""
        give_up = time.monotonic() + 5
        while self._held() != self._before:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.02)
        return True


@pytest.fixture
def open_server(settings, redis, announce, store, monkeypatch):
    """Start a server with short timeouts and small limits."""
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr(server_module, "SEND_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr(server_module, "LINGER_SECONDS", LIMIT_SECONDS)
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
        return ServerUnderTest(server, settings.data_dir)

    yield open_one
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture
def running_server(open_server):
    return open_server()


def get(path, *headers):
    return b"\r\n".join((f"GET {path} HTTP/1.1".encode(), b"Host: localhost", *headers, b"", b""))


def post(*headers, path="/v1/jobs", content_type=TYPE):
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {content_type}",
        *headers,
        "",
        "",
    )
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
    """Return whether the server closes the connection before the socket's timeout."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@contextmanager
def dripping(client, data=None):
    """Send `data` byte by byte during the context; without it, send `x` endlessly."""
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_lets_an_upload_end_and_accepts_no_other(start, settings, store, mp4, number):
    body = part("video", mp4) + END
    with start() as process, connect(process) as client:
        client.sendall(post(f"Content-Length: {len(body)}") + body[:1500])
        await_upload(settings)
        process.send_signal(number)
        wait_until(lambda: not is_listening(client.getpeername()))
        client.sendall(body[1500:])
        status, _, job = answer(client)
        assert is_closed(client)
        process.communicate(timeout=10)

    assert (status, process.returncode) == (202, 0)
    assert store.upload_path(json.loads(job)["id"]).read_bytes() == mp4


def test_an_idle_connection_does_not_delay_shutdown(start):
    with start() as process, connect(process) as client, client.dup() as silent:
        client.sendall(get("/livez"))
        assert answer(silent)[0] == 200
        started = time.monotonic()
        process.terminate()
        process.communicate(timeout=10)

    assert time.monotonic() - started < 3
    assert process.returncode == 0


def test_an_upload_cut_off_by_shutdown_gets_503_and_leaves_nothing(start, settings, mp4, leftovers):
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


class TestHead:
    def test_a_silent_connection_is_closed(self, running_server):
        with running_server.connection() as client:
            assert answer(client) is None
        assert running_server.is_as_before()

    def test_a_slow_head_times_out(self, running_server):
        started = time.monotonic()
        with (
            running_server.connection() as client,
            dripping(client, get("/livez", b"X: " + b"x" * 4000)),
        ):
            check(client, 408, "request_timeout")
            assert is_closed(client)
        assert LIMIT_SECONDS <= time.monotonic() - started < 5 * LIMIT_SECONDS
        assert running_server.is_as_before()

    def test_a_slow_head_of_a_second_request_times_out(self, running_server):
        with running_server.connection(get("/livez")) as client:
            assert answer(client)[0] == 200
            with dripping(client, get("/livez", b"X: " + b"x" * 4000)):
                check(client, 408, "request_timeout")
                assert is_closed(client)
        assert running_server.is_as_before()

    def test_a_head_without_an_end_is_refused(self, running_server):
        with running_server.connection(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000
        ) as client:
            check(client, 400, "bad_request")
        assert running_server.is_as_before()

    def test_the_timeout_counts_for_each_request(self, running_server):
        with running_server.connection() as client:
            give_up = time.monotonic() + 2 * LIMIT_SECONDS
            while time.monotonic() < give_up:
                client.sendall(get("/livez"))
                assert answer(client)[0] == 200
                time.sleep(LIMIT_SECONDS / 5)
        assert running_server.is_as_before()

    def test_pipelined_requests_are_answered(self, running_server):
        with running_server.connection(get("/livez") * 20) as client:
            assert [answer(client)[0] for _ in range(20)] == [200] * 20
        assert running_server.is_as_before()


class TestUpload:
    def test_a_stopped_upload_times_out(self, running_server, mp4):
        with running_server.connection(post("Content-Length: 9999"), part("video", mp4)) as client:
            headers = check(client, 408, "upload_too_slow")
            assert headers["connection"] == "close"
            assert is_closed(client)
        assert running_server.is_as_before()

    def test_a_slow_upload_times_out(self, running_server, mp4):
        head = post("Content-Length: 99999")
        with running_server.connection(head, part("video", mp4)[:-2]) as client, dripping(client):
            check(client, 408, "upload_too_slow")
            assert is_closed(client)
        assert running_server.is_as_before()

    def test_an_upload_just_fast_enough_is_accepted(self, running_server, mp4, monkeypatch):
        monkeypatch.setattr(receiving, "STEP_BYTES", 200)
        body = part("video", mp4) + END
        started = time.monotonic()
        with running_server.connection(post(f"Content-Length: {len(body)}")) as client:
            for start in range(0, len(body), 100):
                client.sendall(body[start : start + 100])
                time.sleep(LIMIT_SECONDS / 10)
            assert answer(client)[0] == 202
        assert time.monotonic() - started > 2 * LIMIT_SECONDS

    def test_a_body_shorter_than_its_length_is_refused(self, running_server, mp4):
        body = part("video", mp4) + END
        with running_server.connection(post(f"Content-Length: {len(body) + 1}"), body) as client:
            check(client, 408, "upload_too_slow")
        assert running_server.is_as_before()

    def test_a_body_longer_than_its_length_is_refused(self, running_server, mp4):
        body = part("video", mp4) + END
        head = post(f"Content-Length: {len(body) - 100}")
        with running_server.connection(head, body, b"\r\n\r\n") as client:
            check(client, 400, "upload_malformed")
            check(client, 400, "bad_request")  # the rest is no request
            assert is_closed(client)
        assert running_server.is_as_before()

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
    def test_an_invalid_length_is_refused(self, running_server, headers):
        with running_server.connection(post(*headers)) as client:
            check(client, 400, "bad_request")
            assert is_closed(client)
        assert running_server.is_as_before()

    def test_two_lengths_are_refused_and_nothing_after_them_is_read(self, running_server):
        with running_server.connection() as client:
            head = post("Content-Length: 5", "Transfer-Encoding: chunked")
            client.sendall(head + b"0\r\n\r\n" + get("/livez"))
            check(client, 400, "bad_request")
            assert is_closed(client)

    def test_a_length_beyond_the_limit_is_refused_before_the_body(self, running_server):
        head = post(f"Content-Length: {MAX_BYTES + 1}", "Expect: 100-continue")
        with running_server.connection(head) as client:
            check(client, 413, "upload_too_large")
        assert running_server.is_as_before()

    def test_chunks_beyond_the_size_limit_are_refused(self, running_server, mp4):
        with running_server.connection(post("Transfer-Encoding: chunked")) as client:
            client.sendall(chunk(part("video", mp4)[:-2]))
            for _ in range(MAX_BYTES // 10_000):
                client.sendall(chunk(bytes(10_000)))
            check(client, 413, "upload_too_large")
        assert running_server.is_as_before()

    def test_a_client_that_keeps_sending_after_the_answer_is_disconnected(
        self, running_server, mp4
    ):
        with (
            running_server.connection(
                post("Transfer-Encoding: chunked", content_type="text/plain")
            ) as client,
            dripping(client, chunk(b"x") * 1000),
        ):
            check(client, 415, "media_type_unsupported")
            assert is_closed(client)
        assert running_server.is_as_before()

    def test_after_an_unread_body_another_request_may_follow(self, running_server):
        head = post("Content-Length: 10", content_type="text/plain")
        with running_server.connection(head) as client:
            check(client, 415, "media_type_unsupported")
            client.sendall(b"0123456789" + get("/livez"))
            assert answer(client)[0] == 200
            assert is_closed(client)
        assert running_server.is_as_before()

    @pytest.mark.parametrize(
        "broken", [b"zz\r\n", b"-1\r\n", b"5\r\nabcdefgh", b"f" * 40 + b"\r\n"]
    )
    def test_invalid_chunks_are_refused(self, running_server, mp4, broken):
        head = post("Transfer-Encoding: chunked")
        with running_server.connection(head, chunk(part("video", mp4)[:-2]), broken) as client:
            check(client, 400, "bad_request")
            assert is_closed(client)
        assert running_server.is_as_before()

    def test_invalid_chunks_after_the_answer_close_the_connection(self, running_server, caplog):
        with running_server.connection(
            post("Transfer-Encoding: chunked", content_type="text/plain")
        ) as client:
            check(client, 415, "media_type_unsupported")
            client.sendall(b"zz\r\n")
            assert is_closed(client)
        assert running_server.is_as_before()
        assert max(record.levelno for record in caplog.records) < logging.ERROR

    @pytest.mark.parametrize("how", ["in order", "at once"])
    @pytest.mark.parametrize("size", [0, 10, 200_000])
    def test_a_disconnected_client_leaves_nothing(self, running_server, mp4, how, size):
        head = post("Transfer-Encoding: chunked")
        with running_server.connection(head, chunk(part("video", mp4)[:-2]), bytes(0)) as client:
            if size:
                client.sendall(chunk(bytes(size)))
            if how == "at once":
                linger = (1).to_bytes(4, "little") + bytes(4)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        assert running_server.is_as_before()

    @pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZIP", "identity, gzip", "x"])
    def test_an_encoded_body_is_refused(self, running_server, mp4, coding):
        body = part("video", mp4) + END
        head = post(f"Content-Encoding: {coding}", f"Content-Length: {len(body)}")
        with running_server.connection(head, body) as client:
            headers = check(client, 415, "content_encoding_unsupported")
            assert headers["accept-encoding"] == "identity"
        assert running_server.is_as_before()

    @pytest.mark.parametrize("close", [(), ("Connection: close",)], ids=["kept", "closed"])
    def test_a_client_that_sends_all_before_it_reads_gets_the_answer(
        self, running_server, monkeypatch, close
    ):
        monkeypatch.setattr(server_module, "LINGER_SECONDS", 30)
        size = 20_000_000
        head = post(f"Content-Length: {size}", *close)
        with running_server.connection(head) as client:
            client.sendall(bytes(size))
            check(client, 413, "upload_too_large")
        assert running_server.is_as_before()

    @pytest.mark.parametrize("limit", ["LINGER_SECONDS", "LINGER_IDLE_SECONDS"])
    def test_after_the_last_answer_a_silent_client_is_not_waited_for(
        self, running_server, monkeypatch, limit
    ):
        monkeypatch.setattr(connections, limit, LIMIT_SECONDS)
        head = post("Content-Length: 9999", "Connection: close", content_type="text/plain")
        with running_server.connection(head) as client:
            check(client, 415, "media_type_unsupported")
            assert is_closed(client)
            assert running_server.is_as_before()

    def test_after_the_last_answer_only_so_many_bytes_are_read(self, running_server, monkeypatch):
        monkeypatch.setattr(connections, "LINGER_BYTES", 1_000_000)
        head = post("Content-Length: 999999999", "Connection: close")
        with running_server.connection(head) as client:
            check(client, 413, "upload_too_large")
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for _ in range(1000):
                    client.sendall(bytes(1_000_000))
        assert running_server.is_as_before()

    def test_shutdown_does_not_wait_for_a_client_that_was_refused(self, start):
        with start() as process, connect(process) as client:
            head = post("Content-Length: 9999", "Connection: close", content_type="text/plain")
            client.sendall(head)
            check(client, 415, "media_type_unsupported")
            started = time.monotonic()
            process.terminate()
            process.communicate(timeout=20)
        assert time.monotonic() - started < connections.LINGER_IDLE_SECONDS

    def test_a_refused_request_gets_no_100_continue(self, running_server):
        head = post("Expect: 100-continue", "Content-Length: 10", content_type="text/plain")
        with running_server.connection(head) as client:
            check(client, 415, "media_type_unsupported")


class TestAnswer:
    @pytest.fixture
    def artifact(self, store, worker, client, new_job):
        """Return the path of a file larger than any socket buffer."""
        job_id = new_job()
        worker.succeed(job_id)
        os.truncate(store.artifact_path(job_id, "overlay.mp4"), 64 * 1024**2)
        return f"/v1/jobs/{job_id}/artifacts/overlay.mp4"

    def test_a_client_that_does_not_read_is_disconnected(self, running_server, artifact):
        with running_server.connection(get(artifact)) as client:
            assert client.recv(12) == b"HTTP/1.1 200"
            assert running_server.is_as_before()

    def test_a_client_that_reads_slowly_gets_the_whole_file(self, running_server, artifact):
        started = time.monotonic()
        with running_server.connection(get(artifact)) as client:
            received = 0
            while received < 64 * 1024**2:
                received += len(client.recv(2 * 1024**2))
                time.sleep(0.02)
        assert time.monotonic() - started > LIMIT_SECONDS


class TestCount:
    def test_connections_beyond_the_limit_get_503(self, open_server):
        running_server = open_server(max_connections=2)
        with (
            running_server.connection() as first,
            running_server.connection(),
            running_server.connection(get("/livez")) as third,
        ):
            headers = check(third, 503, "too_many_connections")
            assert int(headers["retry-after"]) > 0
            assert is_closed(third)
            first.sendall(get("/livez"))
            assert answer(first)[0] == 200
        assert running_server.is_as_before()
        with running_server.connection(get("/livez")) as later:
            assert answer(later)[0] == 200

    def test_the_longest_idle_connection_makes_room(self, open_server, monkeypatch):
        monkeypatch.setattr(connections, "IDLE_GRACE_SECONDS", LIMIT_SECONDS / 2)
        monkeypatch.setattr(server_module, "REQUEST_SECONDS", 30)
        running_server = open_server(max_connections=3, max_connections_per_address=3)
        with ExitStack() as stack:
            oldest = stack.enter_context(running_server.connection(get("/livez")))
            assert answer(oldest)[0] == 200
            youngest = stack.enter_context(running_server.connection(b"GET /livez HT"))
            head = post("Content-Length: 9", "Connection: close")
            busy = stack.enter_context(running_server.connection(head))
            with running_server.connection(get("/livez")) as early:
                check(early, 503, "too_many_connections")
            time.sleep(LIMIT_SECONDS / 2)  # what has just come is left alone
            with running_server.connection(get("/livez")) as honest:
                assert answer(honest)[0] == 200
                assert is_closed(oldest)
                youngest.sendall(b"TP/1.1\r\nHost: localhost\r\n\r\n")
                assert answer(youngest)[0] == 200
            check(busy, 408, "upload_too_slow")
        assert running_server.is_as_before()

    @pytest.mark.parametrize("sent", [b"", b"GET /livez HT", get("/livez"), None])
    def test_hundreds_of_idle_connections_shut_nobody_out(self, open_server, monkeypatch, sent):
        monkeypatch.setattr(connections, "IDLE_GRACE_SECONDS", 0.1)
        monkeypatch.setattr(server_module, "REQUEST_SECONDS", 30)
        monkeypatch.setattr(server_module, "LINGER_SECONDS", 30)
        if sent is None:  # refused, but still sending
            sent = post("Content-Length: 99", "Connection: close", content_type="text/plain")
        running_server = open_server(max_connections=100)
        with ExitStack() as idle:
            for _ in range(120):
                idle.enter_context(running_server.connection(sent))

            def ask():
                with running_server.connection(get("/livez")) as honest:
                    return answer(honest)[0]

            wait_until(lambda: ask() == 200, seconds=10)
            assert [ask() for _ in range(20)] == [200] * 20
        assert running_server.is_as_before()

    def test_one_address_cannot_take_all_connections(self, open_server):
        running_server = open_server(max_connections=9, max_connections_per_address=2)
        with (
            running_server.connection(source="127.0.0.2"),
            running_server.connection(source="127.0.0.2"),
            running_server.connection(get("/livez"), source="127.0.0.2") as third,
            running_server.connection(get("/livez"), source="127.0.0.3") as other,
        ):
            check(third, 503, "too_many_connections")
            assert answer(other)[0] == 200
        assert running_server.is_as_before()

    def test_a_trusted_proxy_has_no_limit_of_its_own(self, open_server):
        running_server = open_server(
            max_connections=9, max_connections_per_address=1, trusted_proxies="127.0.0.2"
        )
        with (
            running_server.connection(source="127.0.0.2"),
            running_server.connection(get("/livez"), source="127.0.0.2") as second,
        ):
            assert answer(second)[0] == 200

    def test_by_default_an_address_may_have_half_of_all(self, settings):
        for total, each in ((1000, 500), (3, 1), (1, 1)):
            assert settings.model_copy(update={"max_connections": total}).address_limit == each

    def test_connections_far_beyond_the_limit_are_dropped(self, open_server, monkeypatch):
        monkeypatch.setattr(server_module, "SPARE_CONNECTIONS", 1)
        running_server = open_server(max_connections=1)
        with (
            running_server.connection(),
            running_server.connection(),
            running_server.connection() as third,
        ):
            started = time.monotonic()
            assert is_closed(third)
            assert time.monotonic() - started < LIMIT_SECONDS / 2
        assert running_server.is_as_before()

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
    def test_the_limit_of_open_files_is_raised(self, monkeypatch, limits, wanted):
        asked = []
        monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
        monkeypatch.setattr(resource, "setrlimit", lambda _, value: asked.append(value))

        allow_connections(500)

        assert asked == ([wanted] if wanted else [])


class TestMessages:
    """Unusual requests that are valid, and valid-looking ones that are not."""

    def test_a_host_given_twice_is_refused(self, running_server):
        with running_server.connection(get("/v1/jobs", b"Host: evil.test")) as client:
            check(client, 400, "bad_request")

    def test_a_target_may_be_a_url(self, running_server):
        with running_server.connection(get("http://localhost/v1/jobs")) as client:
            assert answer(client)[0] == 200
        with running_server.connection(get("http://evil.test/v1/jobs")) as client:
            check(client, 421, "host_not_allowed")

    @pytest.mark.parametrize("target", ["*", "localhost:80", "/v1/jobs#x", "//localhost/v1/jobs"])
    def test_other_targets_are_not_found(self, running_server, target):
        with running_server.connection(get(target)) as client:
            check(client, 404, "not_found")

    def test_http_1_0_is_answered(self, running_server):
        with running_server.connection(b"GET /v1/jobs HTTP/1.0\r\n\r\n") as client:
            assert answer(client)[0] == 200
            assert is_closed(client)

    def test_a_long_query_is_refused_in_order(self, running_server):
        with running_server.connection(get("/v1/jobs?" + "x=1&" * 10_000)) as client:
            check(client, 422, "invalid_request")
        with running_server.connection(get("/v1/jobs?" + "x" * 100_000)) as client:
            assert answer(client)[0] in (400, 422)  # depending on what arrives at once

    def test_trailers_after_chunks_are_dropped(self, running_server, mp4):
        end = b"0\r\nContent-Length: 5\r\nX: y\r\n\r\n"
        body = chunk(part("video", mp4) + END) + end
        with running_server.connection(post("Transfer-Encoding: chunked"), body) as client:
            assert answer(client)[0] == 202
            client.sendall(get("/livez"))
            assert answer(client)[0] == 200

    def test_100_continue_comes_before_an_accepted_body(self, running_server, mp4):
        body = part("video", mp4) + END
        head = post("Expect: 100-continue", f"Content-Length: {len(body)}")
        with running_server.connection(head) as client:
            assert answer(client)[0] == 100
            client.sendall(body)
            assert answer(client)[0] == 202

    @pytest.mark.parametrize(
        "path", ["/livez", "/readyz", "/v1/jobs", "/v1/models", "/openapi.json", "/docs"]
    )
    def test_head_is_get_without_a_body(self, running_server, path):
        with running_server.connection(get(path), get("/livez")) as client:
            status, headers, body = answer(client)
            assert answer(client)[0] == 200
        with running_server.connection(get(path).replace(b"GET", b"HEAD")) as client:
            received = client.recv(65536).decode()
            client.sendall(get("/livez"))
            assert client.recv(12) == b"HTTP/1.1 200"  # no body stands before it
        assert received.startswith(f"HTTP/1.1 {status} ")
        assert f"\r\ncontent-length: {len(body)}\r\n" in received
        assert f"\r\ncontent-type: {headers['content-type']}\r\n" in received
