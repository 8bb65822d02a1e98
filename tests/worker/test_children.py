import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from tests.system.processes import is_alive, open_files
from worker import children as children_module
from worker.children import Child, ChildFailure, ChildLost, Children, Engine, Media, next_message
from worker.fake_engine import CRASH_STATUS, SPECS
from worker.messages import Clip, EngineOptions, Explain, Explained, MediaOptions, Ready

ORDER = Explain()
FRAMES = np.zeros((1, 8, 64, 64, 3), np.uint8)


def idle() -> None:
    """Stand in for a heartbeat that has nothing to do."""


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


def ask(engine: Engine, within_seconds: float = 20.0) -> np.ndarray:
    engine.send(ORDER, frames=FRAMES)
    engine.expect(within_seconds)
    return next_message(engine, Explained, idle)[1]["logits"]


def is_gone(pid: int) -> bool:
    """Whether a process has ended, and was waited for."""
    return not Path(f"/proc/{pid}").exists()


def test_an_engine_is_busy_until_it_has_loaded(start):
    engine = start()
    assert engine.busy
    assert engine.model is None
    ready, arrays = next_message(engine, Ready, idle)
    assert not engine.busy
    assert engine.model == ready
    assert (ready.spec, arrays) == (SPECS["fake"], {})


def test_an_engine_answers_and_stays(ready):
    engine = ready()
    for _ in range(2):
        assert ask(engine).shape == (1, 5)
    assert engine.alive


def test_a_deliberate_failure_leaves_the_child_well(ready):
    engine = ready("fake-fail")
    for _ in range(2):
        with pytest.raises(ChildFailure) as caught:
            ask(engine)
    assert caught.value.error.code == "out_of_memory"
    assert engine.alive
    assert not engine.busy


def test_a_model_that_cannot_be_loaded_is_a_failure(start):
    with pytest.raises(ChildFailure, match="no fake is called"):
        next_message(start("missing"), Ready, idle)


def test_a_child_that_exits_is_lost_with_its_status(ready):
    engine = ready("fake-crash")
    with pytest.raises(ChildLost, match=f"the engine exited with status {CRASH_STATUS}"):
        ask(engine)
    assert is_gone(engine.pid)


def test_a_child_that_is_killed_is_lost_with_the_signal(ready):
    engine = ready("fake-slow")
    engine.send(ORDER, frames=FRAMES)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(ChildLost, match="killed by signal 9"):
        next_message(engine, Explained, idle)


def test_a_dead_child_cannot_be_told_anything(ready):
    engine = ready()
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(ChildLost):
        for _ in range(100):
            engine.send(ORDER, frames=FRAMES)


def test_a_child_that_does_not_answer_in_time_is_lost_and_ended(ready):
    engine = ready("fake-hang")
    with pytest.raises(ChildLost, match=r"did not answer within 0\.3 seconds"):
        ask(engine, within_seconds=0.3)
    assert is_gone(engine.pid)


def test_the_engine_has_time_by_what_its_warm_up_took(ready, monkeypatch):
    engine, allowed = ready(), []
    monkeypatch.setattr(engine, "expect", allowed.append)
    engine.expect_work(3, None)
    engine.model = engine.model.model_copy(update={"clip_seconds": 0.5})
    engine.expect_work(1, None)
    engine.expect_work(3, None)
    engine.expect_work(3, 1.5)
    assert allowed == [children_module.LEAST_ENGINE_SECONDS, 10.0, 30.0, 4.5]


def test_a_stopped_child_is_noticed_in_the_middle_of_its_work(ready):
    """As one that hangs in C, it runs no Python code and handles no signal."""
    engine = ready("fake-slow")
    engine.send(ORDER, frames=FRAMES)
    engine.expect(0.8)
    os.kill(engine.pid, signal.SIGSTOP)
    with pytest.raises(ChildLost, match=r"did not answer within 0\.8 seconds"):
        next_message(engine, Explained, idle)
    assert is_gone(engine.pid)


def test_a_child_that_stops_reading_is_lost(start, monkeypatch):
    monkeypatch.setattr(children_module, "STALL_SECONDS", 1)
    engine = start("fake-hang")
    next_message(engine, Ready, idle)
    with pytest.raises(ChildLost, match="stopped in the middle"):
        for _ in range(50):
            engine.send(ORDER, frames=FRAMES)
    assert is_gone(engine.pid)


@pytest.fixture
def media(tmp_path) -> Iterator[tuple[Media, socket.socket]]:
    """A media process with limits, and a socket on which we speak in its place."""
    media = Media(MediaOptions(file_bytes=10_000))
    ours, theirs = socket.socketpair()
    with ours:
        media.connection.close()
        media.connection = Connection(theirs.detach())
        yield media, ours
        media.kill()


def test_a_child_that_sends_one_message_byte_by_byte_is_lost(media, monkeypatch):
    monkeypatch.setattr(children_module, "STALL_SECONDS", 0.5)
    media, other_end = media
    other_end.sendall((1000).to_bytes(4, "big"))
    over = Event()

    def trickle() -> None:
        with suppress(OSError):
            while not over.wait(0.05):
                other_end.send(b" ")

    trickling = Thread(target=trickle)
    trickling.start()
    began = time.monotonic()
    with pytest.raises(ChildLost):
        media.receive()
    assert time.monotonic() - began < 0.5 + children_module.EXIT_SECONDS + 2
    over.set()
    trickling.join()


def test_media_may_not_send_as_much_as_an_engine(media):
    assert Media.max_message_bytes < Engine.max_message_bytes
    media, other_end = media
    claim = {"dtype": "uint8", "shape": [Media.max_message_bytes + 1]}
    head = json.dumps({"message": {"kind": "clip", "seconds": 0}, "arrays": {"frames": claim}})
    other_end.sendall(len(head).to_bytes(4, "big") + head.encode())
    with pytest.raises(ChildLost, match="sent more than"):
        media.receive()


@pytest.mark.parametrize("files", [{"a": 9000}, {"a": 5000, "b": 4999}, dict.fromkeys("abc", 0)])
def test_modest_files_are_no_offence(media, tmp_path, files):
    for name, size in files.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    media[0].require_modest(tmp_path)
    media[0].require_modest(tmp_path / "gone")
    assert media[0].alive


@pytest.mark.parametrize("sizes", [[5001, 5000], [10_001], [0] * 65])
def test_files_that_take_too_much_together_are_an_offence(media, tmp_path, sizes):
    for index, size in enumerate(sizes):
        with (tmp_path / str(index)).open("wb") as file:
            file.truncate(size)
    with pytest.raises(ChildLost, match="filled its folder"):
        media[0].require_modest(tmp_path)
    assert is_gone(media[0].pid)


def test_removed_files_that_are_still_open_count(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(10_001)
        (tmp_path / "file").unlink()
        assert 10_001 in children_module._sizes_of(Path("/proc/self/fd"), removed=True)
    assert 10_001 not in children_module._sizes_of(Path("/proc/self/fd"), removed=True)


def test_output_is_not_waited_for_while_somebody_else_holds_it():
    """Where a child can start processes, one may outlive it."""
    media = Media(MediaOptions())
    with (Path(f"/proc/{media.pid}/fd/1")).open("wb"):  # as such a process would
        began = time.monotonic()
        media.kill()
    assert time.monotonic() - began < 5


def test_an_unexpected_message_is_an_offence(start):
    engine = start()
    with pytest.raises(ChildLost, match="sent 'ready'"):
        next_message(engine, Clip, idle)
    assert is_gone(engine.pid)


def test_bytes_that_are_no_message_are_an_offence(start):
    engine = start()
    engine.connection.send_bytes(b"not a message")
    with pytest.raises(ChildLost, match="exited with status 1"):
        for _ in range(2):
            next_message(engine, Ready, idle)


def test_the_heartbeat_goes_on_while_a_child_is_slow(ready):
    engine = ready("fake-hang")
    engine.send(ORDER, frames=FRAMES)
    engine.expect(1.2)
    beats: list[float] = []
    with pytest.raises(ChildLost):
        next_message(engine, Explained, lambda: beats.append(time.monotonic()))
    assert len(beats) >= 4
    assert np.diff(beats).max() < 1


def test_what_the_heartbeat_raises_ends_the_wait(ready):
    def stop() -> None:
        raise KeyError("stop")

    engine = ready()
    with pytest.raises(KeyError):
        next_message(engine, Explained, stop)
    assert engine.alive


def test_the_death_of_another_child_ends_the_wait(ready):
    waiting, dying = ready("fake-hang"), ready()
    os.kill(dying.pid, signal.SIGKILL)
    with pytest.raises(ChildLost, match="killed by signal 9"):
        next_message(waiting, Explained, idle, others=[dying])
    assert waiting.alive


def test_a_child_that_is_left_alone_leaves_by_itself(ready):
    engine = ready()
    began = time.monotonic()
    engine.stop()
    assert is_gone(engine.pid)
    assert time.monotonic() - began < children_module.EXIT_SECONDS


def test_a_hung_child_is_stopped_all_the_same(ready, monkeypatch):
    monkeypatch.setattr(children_module, "EXIT_SECONDS", 0.3)
    engine = ready("fake-hang")
    engine.send(ORDER, frames=FRAMES)
    engine.stop()
    assert is_gone(engine.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_group_are_the_supervisors_to_answer(ready, number):
    engine = ready()
    os.kill(engine.pid, number)
    assert ask(engine).shape == (1, 5)


def test_media_inherits_no_environment_and_no_files(monkeypatch):
    monkeypatch.setenv("ROLLOUT_REDIS_URL", "redis://:secret@host")
    with Path(__file__).open() as other:
        os.set_inheritable(other.fileno(), True)
        media = Media(MediaOptions())
        try:
            deadline = time.monotonic() + 20
            while b"worker.child_main" not in Path(f"/proc/{media.pid}/cmdline").read_bytes():
                assert time.monotonic() < deadline
                time.sleep(0.05)
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


def test_an_unknown_kind_of_child_ends_at_once():
    child = Child("the stranger", "stranger", EngineOptions(model="fake"))
    with pytest.raises(ChildLost, match="the stranger exited with status 1"):
        next_message(child, Ready, idle)


def test_children_die_with_a_supervisor_that_is_killed(tmp_path):
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
    deadline = time.monotonic() + 5
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


@pytest.fixture
def children() -> Iterator[Children]:
    children = Children("fake", EngineOptions(model="fake"), MediaOptions(), load_seconds=30)
    yield children
    children.close()


def load(children: Children) -> None:
    next_message(children.engine, Ready, lambda: None)


def test_a_children_is_ready_once_its_engine_has_loaded(children):
    assert not children.ready
    load(children)
    assert children.ready


def test_a_children_whose_engine_died_is_not_ready_until_it_is_mended(children):
    load(children)
    dead = children.engine
    dead.kill()
    assert not children.ready
    children.restart_dead_engine()
    assert children.engine is not dead
    load(children)
    assert children.ready


def test_a_live_engine_needs_no_mending(children):
    engine = children.engine
    children.restart_dead_engine()
    assert children.engine is engine


def test_every_job_has_a_media_process_of_its_own_that_was_started_before(children):
    first = children.take_media()
    second = children.take_media()
    assert first.pid != second.pid
    assert first.alive
    assert second.alive
    first.kill()
    second.kill()


def test_a_media_process_that_died_while_it_waited_is_replaced(children):
    children._spare_media.kill()
    media = children.take_media()
    assert media.alive
    media.kill()


def test_closing_leaves_no_process_behind():
    children = Children("fake", EngineOptions(model="fake"), MediaOptions(), load_seconds=30)
    pids = [children.engine.pid, children._spare_media.pid]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    children.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
