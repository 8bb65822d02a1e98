"""How the service stops, as a process of its own."""

import json
import signal
import socket
import time

import pytest

from tests.service.test_connections import answer, get, is_closed, post
from tests.service.test_main import running
from tests.service.test_uploads import END, part


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
