"""The template of media processes, what it forks, and how both end."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.processes import is_alive, name_of, open_files
from tests.system.waiting import wait_until
from worker import fork_server as module
from worker.child import ChildLost, next_message
from worker.children import Media
from worker.fork_server import ForkServer
from worker.messages import MediaOptions, Working
from worker.sandbox import MEDIA_ENVIRONMENT

EXIT_SECONDS = 20.0

PROGRAM = """
import errno, os, signal, sys
from worker import media, media_template
def serve(connection, options):
    {code}
media.serve, fork = serve, os.fork
{fork}
os.fork = fork
media_template.main()
"""


@pytest.fixture
def serving(monkeypatch) -> Iterator[Callable[..., ForkServer]]:
    """Return a function that starts a template, whose media processes run `code` if it is given.

    `fork` defines another `os.fork` for it.
    """
    servers: list[ForkServer] = []

    def serving(code: str = "", fork: str = "") -> ForkServer:
        if code or fork:
            program = PROGRAM.format(code=code or "pass", fork=fork)
            monkeypatch.setattr(module, "TEMPLATE", (sys.executable, "-P", "-c", program))
        servers.append(ForkServer())
        return servers[-1]

    yield serving
    for server in servers:
        server.close()


def media_of(server: ForkServer) -> Media:
    options = MediaOptions()
    media = Media(options, server.fork(options))
    media.expect(EXIT_SECONDS)
    return media


def test_each_fork_is_a_process_of_its_own_without_other_threads(serving):
    server = serving()
    first, second = media_of(server), media_of(server)
    pids = {server.pid, first.pid, second.pid}
    assert len(pids) == 3
    for media in (first, second):
        assert Path(f"/proc/{media.pid}/stat").read_text().rpartition(")")[2].split()[1] == str(
            server.pid
        )
        wait_until(lambda media=media: name_of(media.pid) == "media")
        assert len([*Path(f"/proc/{media.pid}/task").iterdir()]) == 1
        media.kill()
        assert not media.alive
    assert name_of(server.pid) == "media-template"


def test_media_gets_no_secret_and_no_other_descriptor(serving, monkeypatch):
    monkeypatch.setenv("ROLLOUT_REDIS_URL", "redis://:secret@host")
    with Path(__file__).open() as other:
        os.set_inheritable(other.fileno(), True)
        server = serving()
        first, media = media_of(server), media_of(server)
        assert first.pid != media.pid
    wait_until(lambda: len(open_files(media.pid)) <= 4)
    environment, files = Path(f"/proc/{media.pid}/environ").read_bytes(), open_files(media.pid)
    names = {entry.partition(b"=")[0] for entry in environment.split(b"\0") if entry}
    assert names == {name.encode() for name in MEDIA_ENVIRONMENT}
    assert (files[0], files[1]) == ("/dev/null", files[2])
    assert sorted(name.split(":")[0] for name in files.values()) == [
        "/dev/null",
        *["pipe"] * 2,
        "socket",
    ]
    first.kill()
    media.kill()


def test_media_exits_when_its_socket_closes(serving):
    media = media_of(serving())
    media.connection.close()
    assert media._process.wait(EXIT_SECONDS) == 0
    media.kill()


def test_exit_status_and_output_of_media_are_known(serving, caplog):
    media = media_of(serving("print('farewell', flush=True); sys.exit(7)"))
    with pytest.raises(ChildLost, match="the media process exited with status 7"):
        next_message(media, Working, lambda: None)
    assert caplog.messages == ["the media process wrote: farewell"]


def test_error_of_media_is_logged_and_leaves_the_template_alive(serving, caplog):
    server = serving("raise ValueError('no')")
    pid = server.pid
    for _ in range(2):
        with pytest.raises(ChildLost, match="exited with status 1"):
            next_message(media_of(server), Working, lambda: None)
    assert caplog.messages[-1] == "the media process wrote: ValueError: no"
    assert server.pid == pid


def test_random_numbers_of_two_processes_differ(serving, caplog):
    server = serving("import random, uuid; print(random.random(), uuid.uuid4())")
    for _ in range(2):
        media = media_of(server)
        assert media._process.wait(EXIT_SECONDS) == 0
        media.kill()
    first, second = (message.split()[-2:] for message in caplog.messages)
    assert not set(first) & set(second)


def test_killed_media_leaves_the_template_alive(serving):
    server = serving()
    media, pid = media_of(server), server.pid
    os.kill(media.pid, signal.SIGKILL)
    with pytest.raises(ChildLost, match="killed by signal 9"):
        next_message(media, Working, lambda: None)
    following = media_of(server)
    assert following.alive
    assert server.pid == pid
    following.kill()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_crash_of_media_makes_the_next_one_come_from_another_template(serving, number):
    """So addresses of memory that a crash has betrayed are not those of the next process."""
    server = serving(f"signal.signal({number}, signal.SIG_DFL); os.kill(os.getpid(), {number})")
    crashed = server.pid
    for _ in range(2):
        with pytest.raises(ChildLost, match=f"killed by signal {number}"):
            next_message(media_of(server), Working, lambda: None)
    assert server.pid != crashed
    wait_until(lambda: not is_alive(crashed))


def test_template_that_was_killed_takes_its_media_along_and_is_replaced(serving):
    server = serving()
    media, killed = media_of(server), server.pid
    pid = media.pid
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(ChildLost, match="killed by signal 9"):
        next_message(media, Working, lambda: None)
    wait_until(lambda: not is_alive(pid))
    server.restart_if_dead()
    assert server.pid != killed
    following = media_of(server)
    assert is_alive(following.pid)
    following.kill()


def test_live_template_is_not_replaced(serving):
    server = serving()
    pid = server.pid
    server.restart_if_dead()
    assert server.pid == pid


def test_template_that_hangs_is_killed_with_the_media_that_it_did_not_fork(serving):
    server = serving()
    hung = server.pid
    os.kill(hung, signal.SIGSTOP)
    media = media_of(server)
    media.expect(0.1)
    with pytest.raises(ChildLost, match=r"did not answer within 0\.1 seconds"):
        next_message(media, Working, lambda: None)
    with pytest.raises(ProcessLookupError, match="never started"):
        _ = media.pid
    following = media_of(server)
    assert is_alive(following.pid)
    assert server.pid != hung
    following.kill()


def test_machine_without_processes_is_told_from_a_media_process_that_died(serving):
    media = media_of(serving(fork="def fork(): raise OSError(errno.EAGAIN, 'no')"))
    with pytest.raises(OSError, match="unavailable") as caught:
        next_message(media, Working, lambda: None)
    assert caught.value.errno == errno.EAGAIN
    media.kill()


def test_killing_media_does_not_wait_for_output_held_by_another_process(serving):
    """Without seccomp, media can start a process that outlives it and keeps its output open."""
    media = media_of(serving())
    with Path(f"/proc/{media.pid}/fd/1").open("wb"):  # as such a process does
        media.kill()
    assert not media.alive


def test_all_end_with_the_server(serving):
    server = serving()
    media = media_of(server)
    pids = [server.pid, media.pid]
    server.close()
    wait_until(lambda: not any(map(is_alive, pids)))
    assert not media.alive
    media.kill()


def test_all_end_with_the_supervisor():
    program = (
        "import time; from worker.fork_server import ForkServer; from worker.messages import *;"
        "s = ForkServer(); m = s.fork(MediaOptions());"
        "print(s.pid, m.process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(pid) for pid in supervisor.stdout.readline().split()]
        assert all(map(is_alive, pids))
        supervisor.kill()
    wait_until(lambda: not any(map(is_alive, pids)))
