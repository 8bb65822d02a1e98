import os
from pathlib import Path

import pytest

from tests.system.waiting import wait_until
from worker.children import start_process
from worker.cores import OPENMP, thread_environment, usable_cores
from worker.messages import EngineOptions


@pytest.fixture
def cgroup(tmp_path):
    """Return a function that makes the cgroup `/outer/inner` with the given quotas."""
    (tmp_path / "own").write_text("0::/outer/inner\n")

    def make(**quotas):
        folder = tmp_path / "cgroups" / "outer" / "inner"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in quotas.items():
            ({"inner": folder, "outer": folder.parent}[name] / "cpu.max").write_text(text)
        return usable_cores(tmp_path / "cgroups", tmp_path / "own")

    return make


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def test_without_a_quota_the_affinity_counts(cgroup):
    assert cgroup(inner="max 100000\n") == 8
    assert usable_cores(Path("/no/such/folder"), Path("/no/such/file")) == 8


@pytest.mark.parametrize(
    ("quotas", "cores"),
    [
        ({"inner": "200000 100000\n"}, 2),
        ({"inner": "250000 100000\n"}, 3),
        ({"inner": "20000 100000\n"}, 1),
        ({"inner": "1600000 100000\n"}, 8),
        ({"inner": "max 100000\n", "outer": "400000 100000\n"}, 4),
        ({"inner": "300000 100000\n", "outer": "600000 100000\n"}, 3),
    ],
)
def test_the_least_quota_counts(cgroup, quotas, cores):
    assert cgroup(**quotas) == cores


def test_threads_sleep_while_they_wait():
    assert thread_environment({"PATH": "/bin"})["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "KMP_BLOCKTIME", "GOMP_SPINCOUNT"])
def test_what_the_user_has_set_is_left_alone(name):
    assert thread_environment({name: "1"}) == {}


def test_engine_has_these_threads(monkeypatch):
    for name in [name for name in os.environ if name.startswith(OPENMP)]:
        monkeypatch.delenv(name)
    started = start_process("fake", EngineOptions(model="fake"))
    try:  # the kernel shows no variables until the program has been loaded
        environ = Path(f"/proc/{started.process.pid}/environ")
        content = wait_until(environ.read_bytes, what="the variables of the engine")
        lines = content.split(b"\0")
    finally:
        started.connection.close()
        started.process.stdout.close()
        started.process.kill()
        started.process.wait(10)
    assert b"OMP_WAIT_POLICY=PASSIVE" in lines
    assert any(line.startswith(b"OMP_NUM_THREADS=") for line in lines)
