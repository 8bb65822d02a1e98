"""Each blow meets a process of its kind; the processes are sleepers that ignore the service."""

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos import blows as blows_module
from tests.chaos.blows import BLOWS, Blows
from tests.system.processes import Process
from tests.system.waiting import wait_until

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
WORKER = (
    "import subprocess, sys\n"
    "for kind in ('fake', 'media', 'media-template'):\n"
    f"    subprocess.Popen([sys.executable, '-c', {SLEEP!r}, kind])\n"
    f"{SLEEP}"
)


class FakeSystem:
    """Starts sleepers in place of Valkey and of a worker astray."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.forgotten = 0
        self.workers: list[tuple[str, Path]] = []
        self.processes: list[Process] = []
        self.valkey = self.start(SLEEP)

    def start(self, program: str) -> Process:
        command = [sys.executable, "-c", program]
        log = self.data_dir.with_name(f"log{len(self.processes)}")
        self.processes.append(Process("sleeper", lambda: command, log, kept=False))
        return self.processes[-1]

    def worker(self, *, model: str, data_dir: Path) -> Process:
        self.workers.append((model, data_dir))
        return self.start(SLEEP)

    def forget_everything(self) -> None:
        self.forgotten += 1


@pytest.fixture
def system(tmp_path) -> Iterator[FakeSystem]:
    system = FakeSystem(tmp_path)
    yield system
    for process in system.processes:
        for pid in process.children:
            blows_module._send(pid, 9)
        process.take_down()


@pytest.fixture
def worker(system) -> Process:
    worker = system.start(WORKER)
    wait_until(lambda: worker.log.read_text().count("up") == 4, what="worker and children")
    return worker


@pytest.fixture
def api(system) -> Process:
    return system.start(SLEEP)


@pytest.fixture
def blows(monkeypatch, system, worker, api) -> Blows:
    monkeypatch.setattr(blows_module, "HALT_SECONDS", 0.5)
    monkeypatch.setattr(blows_module, "ASTRAY_SECONDS", 0.5)
    return Blows(system, [api], [worker], "fake", random.Random(1))


@pytest.fixture
def strike(blows) -> Callable[[str], bool]:
    return blows.strike


def state(pid: int) -> str:
    """Return the state of a process: R, S, T if it is halted, Z or none if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def pids(system, worker, api) -> dict[str, int]:
    engine, media, template = worker.children
    return {
        "api": api.pid,
        "supervisor": worker.pid,
        "engine": engine,
        "media": media,
        "template": template,
        "valkey": system.valkey.pid,
    }


@pytest.mark.parametrize("blow", [b for b in BLOWS if b.split("_")[0] in ("kill", "term", "halt")])
def test_a_signal_meets_one_process_of_its_kind(strike, system, worker, api, blow):
    verb, part = blow.split("_")
    found = pids(system, worker, api)
    assert strike(blow)
    hit = found.pop(part)
    wait_until(lambda: state(hit) in (("T",) if verb == "halt" else ("Z", "")), what=blow)
    assert {state(pid) for pid in found.values()} <= {"R", "S"}
    if verb == "halt":
        wait_until(lambda: state(hit) == "S", what="the process to go on")


def test_a_part_that_is_not_there_is_not_struck(strike, worker):
    for pid in worker.children:
        blows_module._send(pid, 9)
    wait_until(lambda: not any(state(pid) == "S" for pid in worker.children), what="no children")
    worker.kill()
    assert not strike("term_engine")
    assert not strike("halt_supervisor")


def test_valkey_is_emptied(strike, system):
    assert strike("empty_valkey")
    assert system.forgotten == 1


def test_a_worker_astray_has_a_store_of_its_own_and_leaves(strike, system, tmp_path):
    assert strike("astray_worker")
    astray = system.processes[-1]
    assert not strike("astray_worker")
    wait_until(lambda: not astray.alive, what="the worker to be taken down")
    assert strike("astray_worker")
    assert astray.alive
    assert system.workers == [("fake", tmp_path / "astray")]
    wait_until(lambda: not astray.alive, what="the worker to be taken down")


def test_the_end_of_all_blows_can_be_waited_for(blows, system, worker):
    assert blows.strike("halt_supervisor")
    assert blows.strike("astray_worker")
    blows.await_end()
    wait_until(lambda: state(worker.pid) == "S", what="the supervisor to go on")
    assert not system.processes[-1].alive
