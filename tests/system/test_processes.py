import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.system.processes import (
    RESTART_SECONDS,
    Process,
    is_alive,
    open_files,
    resident_bytes,
)
from tests.system.waiting import wait_until

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
NEST = [
    sys.executable,
    "-c",
    f"import subprocess; subprocess.run([{SLEEP[0]!r}, '-c', {SLEEP[2]!r}, 'media'])",
]


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Process]]:
    started = []

    def start(command=SLEEP, **kwargs) -> Process:
        started.append(Process("sleeper", lambda: command, tmp_path / "log", **kwargs))
        return started[-1]

    yield start
    for process in started:
        process.take_down()


def revived(process: Process) -> bool:
    process.revive()
    return process.alive


def test_a_kept_process_is_restarted_after_a_pause(start):
    process = start()
    first = process.pid
    process.kill()
    assert not is_alive(first)
    process.revive()
    assert not process.alive
    wait_until(lambda: revived(process), 3 * RESTART_SECONDS, "the process")
    assert process.pid != first
    assert process.starts == 2


def test_a_process_that_is_not_kept_or_was_taken_down_is_not_restarted(start):
    for process in (start(kept=False), start()):
        process.take_down()
        with pytest.raises(AssertionError):
            wait_until(lambda p=process: revived(p), 1.5 * RESTART_SECONDS, "a dead process")
    process.bring_up()
    assert process.alive


def test_the_command_is_computed_at_each_start(start):
    command = ["/bin/echo", "a"]
    process = start(command)
    wait_until(lambda: not process.alive, what="the echo")
    command[1] = "b"
    process.bring_up()
    wait_until(lambda: process.log.read_text() == "a\nb\n", what="both echoes")


def test_a_halted_process_is_alive_and_can_be_resumed(start):
    process = start()
    process.halt()
    assert process.alive
    wait_until(lambda: state_of(process.pid) == "T", what="it to halt")
    process.resume()
    wait_until(lambda: state_of(process.pid) != "T", what="it to resume")


def test_a_halted_process_can_be_stopped(start):
    process = start()
    wait_until(process.log.read_text, what="it to run")
    process.halt()
    assert process.stop() == -signal.SIGTERM


def test_children_are_found_by_their_kind_and_can_be_killed(start):
    process = start(NEST, kept=False)
    wait_until(lambda: process.children_of_kind("media"), what="the child")
    assert process.children_of_kind("medi") == []
    assert process.kill_child("media")
    wait_until(lambda: not process.children, what="the child to end")
    assert not process.kill_child("media")


def test_memory_and_open_files_of_a_process_are_measured():
    before = open_files(os.getpid())
    read, write = os.pipe()
    after = open_files(os.getpid())
    assert len(after) == len(before) + 2
    assert after[read] == after[write]
    os.close(read)
    os.close(write)
    held = bytearray(os.urandom(1) * (64 << 20))
    assert resident_bytes(os.getpid()) > len(held)


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        return file.read().rpartition(")")[2].split()[0]
