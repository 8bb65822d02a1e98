"""Child processes: real fake engines, real media processes, and a scripted one."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from tests.system.processes import is_alive, open_files
from tests.system.waiting import wait_until
from worker import children as children_module
from worker.children import (
    Child,
    ChildFailure,
    ChildLost,
    Children,
    Engine,
    Media,
    next_message,
    start_process,
)
from worker.fake_engine import CRASH_STATUS, SPECS
from worker.messages import Clip, EngineOptions, Explain, Explained, MediaOptions, Ready
from worker.scripted_child import ScriptedMedia

ORDER = Explain()
FRAMES = np.zeros((1, 8, 64, 64, 3), np.uint8)


def idle() -> None:
    """A heartbeat that does nothing."""


@pytest.fixture
def start() -> Iterator[object]:
    started: list[Child] = []

    def start(model: str = "fake", kind: str = "fake") -> Engine:
        started.append(Engine(kind, EngineOptions(model=model), load_seconds=30))
        return started[-1]

    yield start
    for engine in started:
        engine.kill()


@pytest.fixture
def ready(start):
    def ready(model: str = "fake") -> Engine:
        engine = start(model)
        next_message(engine, Ready, idle)
        return engine

    return ready


@pytest.fixture
def media() -> Iterator[ScriptedMedia]:
    """A media process whose files are limited; the test speaks for it."""
    media = ScriptedMedia(MediaOptions(file_bytes=10_000))
    yield media
    media.kill()


@pytest.fixture
def children() -> Iterator[Children]:
    children = Children("fake", EngineOptions(model="fake"), MediaOptions(), load_seconds=30)
    yield children
    children.close()


def load(children: Children) -> None:
    next_message(children.engine, Ready, idle)


def ask(engine: Engine, within_seconds: float = 20.0) -> np.ndarray:
    engine.send(ORDER, frames=FRAMES)
    engine.expect(within_seconds)
    return next_message(engine, Explained, idle)[1]["logits"]


def is_gone(pid: int) -> bool:
    """Return whether a process has ended and was reaped."""
    return not Path(f"/proc/{pid}").exists()


def test_engine_is_busy_until_it_has_loaded(start):
    engine = start()
    assert engine.busy
    assert engine.model is None
    ready, arrays = next_message(engine, Ready, idle)
    assert not engine.busy
    assert engine.model == ready
    assert (ready.spec, arrays) == (SPECS["fake"], {})


def test_engine_answers_more_than_once(ready):
    engine = ready()
    for _ in range(2):
        assert ask(engine).shape == (1, 5)
    assert engine.alive


def test_failed_message_leaves_the_child_alive(ready):
    engine = ready("fake-fail")
    for _ in range(2):
        with pytest.raises(ChildFailure) as caught:
            ask(engine)
    assert caught.value.error.code == "out_of_memory"
    assert engine.alive
    assert not engine.busy


def test_model_that_cannot_be_loaded_raises_child_failure(start):
    with pytest.raises(ChildFailure, match="no fake is called"):
        next_message(start("missing"), Ready, idle)


def test_exit_raises_child_lost_with_the_status(ready):
    engine = ready("fake-crash")
    with pytest.raises(ChildLost, match=f"the engine exited with status {CRASH_STATUS}"):
        ask(engine)
    assert is_gone(engine.pid)


def test_kill_raises_child_lost_with_the_signal(ready):
    engine = ready("fake-slow")
    engine.send(ORDER, frames=FRAMES)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(ChildLost, match="killed by signal 9"):
        next_message(engine, Explained, idle)


def test_send_to_a_dead_child_raises_child_lost(ready):
    engine = ready()
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(ChildLost):
        for _ in range(100):
            engine.send(ORDER, frames=FRAMES)


def test_child_that_times_out_is_killed(ready):
    engine = ready("fake-hang")
    with pytest.raises(ChildLost, match=r"did not answer within 0\.3 seconds"):
        ask(engine, within_seconds=0.3)
    assert is_gone(engine.pid)


def test_engine_timeout_follows_its_warm_up(ready, monkeypatch):
    engine, allowed = ready(), []
    monkeypatch.setattr(engine, "expect", allowed.append)
    engine.expect_work(3, None)
    engine.model = engine.model.model_copy(update={"clip_seconds": 0.5})
    engine.expect_work(1, None)
    engine.expect_work(3, None)
    engine.expect_work(3, 1.5)
    assert allowed == [children_module.LEAST_ENGINE_SECONDS, 10.0, 30.0, 4.5]


def test_stopped_child_times_out(ready):
    """A stopped process runs no Python code and handles no signal, as one that hangs in C."""
    engine = ready("fake-slow")
    engine.send(ORDER, frames=FRAMES)
    engine.expect(0.8)
    os.kill(engine.pid, signal.SIGSTOP)
    with pytest.raises(ChildLost, match=r"did not answer within 0\.8 seconds"):
        next_message(engine, Explained, idle)
    assert is_gone(engine.pid)


def test_child_that_stops_reading_is_killed(start, monkeypatch):
    monkeypatch.setattr(children_module, "STALL_SECONDS", 1)
    engine = start("fake-hang")
    next_message(engine, Ready, idle)
    with pytest.raises(ChildLost, match="stopped in the middle"):
        for _ in range(50):
            engine.send(ORDER, frames=FRAMES)
    assert is_gone(engine.pid)


def test_child_that_sends_a_message_byte_by_byte_is_killed(media, monkeypatch):
    monkeypatch.setattr(children_module, "STALL_SECONDS", 0.5)
    script = media.script.fileno()
    os.write(script, (1000).to_bytes(4, "big"))
    over = Event()

    def trickle() -> None:
        with suppress(OSError):
            while not over.wait(0.05):
                os.write(script, b" ")

    trickling = Thread(target=trickle)
    trickling.start()
    began = time.monotonic()
    with pytest.raises(ChildLost, match="stopped in the middle of a message"):
        media.receive()
    assert time.monotonic() - began < 0.5 + children_module.EXIT_SECONDS + 2
    over.set()
    trickling.join()


def test_media_messages_are_limited_more_than_engine_messages(media):
    assert Media.max_message_bytes < Engine.max_message_bytes
    claim = {"dtype": "uint8", "shape": [Media.max_message_bytes + 1]}
    head = json.dumps({"message": {"kind": "clip", "seconds": 0}, "arrays": {"frames": claim}})
    media.script.send_bytes(head.encode())
    with pytest.raises(ChildLost, match="sent more than"):
        media.receive()


@pytest.mark.parametrize("files", [{"a": 9000}, {"a": 5000, "b": 4999}, dict.fromkeys("abc", 0)])
def test_files_within_the_limits_are_allowed(media, tmp_path, files):
    for name, size in files.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    media.check_disk_use(tmp_path)
    media.check_disk_use(tmp_path / "gone")
    assert media.alive


@pytest.mark.parametrize("sizes", [[5001, 5000], [10_001], [0] * 65])
def test_media_with_too_many_or_too_large_files_is_killed(media, tmp_path, sizes):
    for index, size in enumerate(sizes):
        with (tmp_path / str(index)).open("wb") as file:
            file.truncate(size)
    with pytest.raises(ChildLost, match="filled its folder"):
        media.check_disk_use(tmp_path)
    assert is_gone(media.pid)


def forbid_descriptors(monkeypatch, media) -> None:
    """Refuse to list a process' descriptors, as the kernel does to a user other than root."""
    list_folder = Path.iterdir

    def iterdir(path):
        if path == Path(f"/proc/{media.pid}/fd"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return list_folder(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)


def test_media_that_is_being_killed_while_its_files_are_counted_is_lost(
    media, tmp_path, monkeypatch
):
    forbid_descriptors(monkeypatch, media)
    os.kill(media.pid, signal.SIGKILL)
    with pytest.raises(ChildLost, match="the media process was killed by signal 9"):
        media.check_disk_use(tmp_path)


def test_media_that_hides_its_files_is_killed(media, tmp_path, monkeypatch):
    forbid_descriptors(monkeypatch, media)
    with pytest.raises(ChildLost, match="the media process hides its files"):
        media.check_disk_use(tmp_path)
    assert is_gone(media.pid)


def test_removed_files_that_are_open_count(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(10_001)
        (tmp_path / "file").unlink()
        assert 10_001 in children_module._file_sizes(Path("/proc/self/fd"), removed=True)
    assert 10_001 not in children_module._file_sizes(Path("/proc/self/fd"), removed=True)


def test_kill_does_not_wait_for_output_held_by_another_process():
    """Without seccomp, a child can start a process that outlives it and keeps its output open."""
    media = Media(MediaOptions())
    with (Path(f"/proc/{media.pid}/fd/1")).open("wb"):  # as such a process does
        began = time.monotonic()
        media.kill()
    assert time.monotonic() - began < 5


def test_unexpected_message_kills_the_child(start):
    engine = start()
    with pytest.raises(ChildLost, match="sent an unexpected 'ready'"):
        next_message(engine, Clip, idle)
    assert is_gone(engine.pid)


def test_child_exits_on_an_invalid_message(start):
    engine = start()
    engine.connection.send_bytes(b"not a message")
    with pytest.raises(ChildLost, match="exited with status 1"):
        for _ in range(2):
            next_message(engine, Ready, idle)


def test_heartbeat_continues_while_a_child_is_slow(ready):
    engine = ready("fake-hang")
    engine.send(ORDER, frames=FRAMES)
    engine.expect(1.2)
    beats: list[float] = []
    with pytest.raises(ChildLost):
        next_message(engine, Explained, lambda: beats.append(time.monotonic()))
    assert len(beats) >= 4
    assert np.diff(beats).max() < 1


def test_exception_of_the_heartbeat_ends_the_wait(ready):
    def stop() -> None:
        raise KeyError("stop")

    engine = ready()
    with pytest.raises(KeyError):
        next_message(engine, Explained, stop)
    assert engine.alive


def test_death_of_another_child_ends_the_wait(ready):
    waiting, dying = ready("fake-hang"), ready()
    os.kill(dying.pid, signal.SIGKILL)
    with pytest.raises(ChildLost, match="killed by signal 9"):
        next_message(waiting, Explained, idle, others=[dying])
    assert waiting.alive


def test_idle_child_exits_when_its_socket_closes(ready):
    engine = ready()
    began = time.monotonic()
    engine.stop()
    assert is_gone(engine.pid)
    assert time.monotonic() - began < children_module.EXIT_SECONDS


def test_stop_kills_a_hung_child(ready, monkeypatch):
    monkeypatch.setattr(children_module, "EXIT_SECONDS", 0.3)
    engine = ready("fake-hang")
    engine.send(ORDER, frames=FRAMES)
    engine.stop()
    assert is_gone(engine.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_child_ignores_signals_to_the_process_group(ready, number):
    engine = ready()
    os.kill(engine.pid, number)
    assert ask(engine).shape == (1, 5)


def test_media_inherits_no_environment_and_no_files(monkeypatch):
    monkeypatch.setenv("ROLLOUT_REDIS_URL", "redis://:secret@host")
    with Path(__file__).open() as other:
        os.set_inheritable(other.fileno(), True)
        media = Media(MediaOptions())
        try:
            wait_until(
                lambda: b"worker.child_main" in Path(f"/proc/{media.pid}/cmdline").read_bytes()
            )
            environment = Path(f"/proc/{media.pid}/environ").read_bytes()
            files = open_files(media.pid)
        finally:
            media.kill()
    assert b"secret" not in environment
    names = {entry.partition(b"=")[0] for entry in environment.split(b"\0") if entry}
    assert names == {name.encode() for name in children_module.MEDIA_ENVIRONMENT}
    assert (files[0], files[1]) == ("/dev/null", files[2])
    assert [name.split(":")[0] for name in files.values()].count("socket") == 1
    assert __file__ not in files.values()


def test_unknown_kind_of_child_exits():
    child = Child("the child", start_process("unknown", EngineOptions(model="fake")))
    with pytest.raises(ChildLost, match="the child exited with status 1"):
        next_message(child, Ready, idle)


def test_children_die_when_the_supervisor_is_killed(tmp_path):
    program = (
        "import time; from worker.children import Engine; from worker.messages import *;"
        "e = Engine('fake', EngineOptions(model='fake-hang'), 30); e.receive();"
        "print(e.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        assert is_alive(child)
        supervisor.kill()
    wait_until(lambda: not is_alive(child))


def test_children_are_ready_once_the_engine_has_loaded(children):
    assert not children.ready
    load(children)
    assert children.ready


def test_dead_engine_is_restarted(children):
    load(children)
    dead = children.engine
    dead.kill()
    assert not children.ready
    children.restart_dead_engine()
    assert children.engine is not dead
    load(children)
    assert children.ready


def test_live_engine_is_not_restarted(children):
    engine = children.engine
    children.restart_dead_engine()
    assert children.engine is engine


def test_each_job_gets_its_own_media_process(children):
    first = children.take_media()
    second = children.take_media()
    assert first.pid != second.pid
    assert first.alive
    assert second.alive
    first.kill()
    second.kill()


def test_dead_spare_media_is_replaced(children):
    children.spare_media.kill()
    media = children.take_media()
    assert media.alive
    media.kill()


def test_close_leaves_no_process():
    children = Children("fake", EngineOptions(model="fake"), MediaOptions(), load_seconds=30)
    pids = [children.engine.pid, children.spare_media.pid]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    children.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
