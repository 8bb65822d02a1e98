"""What holds for every child: real fake engines, and a media process for which the test speaks."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from worker import child as child_module
from worker.child import ChildFailure, ChildLost, next_message
from worker.children import Engine
from worker.fake_engine import CRASH_STATUS, SPECS
from worker.messages import Clip, Explain, Explained, Ready

ORDER = Explain()
FRAMES = np.zeros((1, 8, 64, 64, 3), np.uint8)


def idle() -> None:
    """A heartbeat that does nothing."""


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
    monkeypatch.setattr(child_module, "STALL_SECONDS", 1)
    engine = start("fake-hang")
    next_message(engine, Ready, idle)
    with pytest.raises(ChildLost, match="stopped in the middle"):
        for _ in range(50):
            engine.send(ORDER, frames=FRAMES)
    assert is_gone(engine.pid)


def test_child_that_sends_a_message_byte_by_byte_is_killed(media, monkeypatch):
    monkeypatch.setattr(child_module, "STALL_SECONDS", 0.5)
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
    assert time.monotonic() - began < 0.5 + child_module.EXIT_SECONDS + 2
    over.set()
    trickling.join()


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
    assert time.monotonic() - began < child_module.EXIT_SECONDS


def test_stop_kills_a_hung_child(ready, monkeypatch):
    monkeypatch.setattr(child_module, "EXIT_SECONDS", 0.3)
    engine = ready("fake-hang")
    engine.send(ORDER, frames=FRAMES)
    engine.stop()
    assert is_gone(engine.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_child_ignores_signals_to_the_process_group(ready, number):
    engine = ready()
    os.kill(engine.pid, number)
    assert ask(engine).shape == (1, 5)
