"""The entry point of child processes, each in a process of its own."""

import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from tests.system.processes import is_alive
from tests.system.waiting import wait_until
from worker import wire
from worker.messages import EngineOptions, Ready

FAKE = EngineOptions(model="fake")


def spawn(kind: str, options: object) -> tuple[subprocess.Popen[str], Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-P", "-m", "worker.child_main", kind, str(theirs.fileno())]
        process = subprocess.Popen(
            [*command, options.model_dump_json()],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
    return process, Connection(ours.detach())


def test_child_exits_quietly_when_the_supervisor_closes():
    process, connection = spawn("fake", FAKE)
    with connection:
        assert isinstance(wire.receive(connection)[0], Ready)
    assert process.communicate(timeout=20) == (None, "")
    assert process.returncode == 0


def test_child_exits_quietly_if_the_socket_is_closed_at_start():
    process, connection = spawn("fake", FAKE)
    connection.close()
    assert process.communicate(timeout=20) == (None, "")
    assert process.returncode == 0


def test_kernel_kills_the_child_when_its_parent_dies():
    """The parent is a shell that kills itself; the child's socket stays open."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = f"{sys.executable} -P -m worker.child_main fake {theirs.fileno()} '{{}}'".replace(
            "{}", FAKE.model_dump_json()
        )
        shell = subprocess.Popen(
            ["/bin/sh", "-c", f"{command} & echo $!; read ready; kill -9 $$"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        child = int(shell.stdout.readline())
        with Connection(os.dup(ours.fileno())) as connection:
            assert isinstance(wire.receive(connection)[0], Ready)
        assert Path(f"/proc/{child}").exists()
        shell.communicate("go\n")
        wait_until(lambda: not is_alive(child))


def test_fake_engine_does_not_load_torch():
    process, connection = spawn("fake", FAKE)
    with connection:
        wire.receive(connection)
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    process.communicate(timeout=20)
    assert "libtorch" not in maps
