"""The engine, media processes and the pool of both: real processes, and a scripted one."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.processes import is_alive
from tests.system.waiting import wait_until
from tests.worker.fake_nvml import FakeGpu, FakeNvml
from worker import children as children_module
from worker.child import Child, ChildLost, next_message
from worker.children import Children, Engine, Media, start_process
from worker.engine_gpu import EngineGpu, GpuSearch
from worker.gpu_claims import GpuClaims
from worker.messages import EngineOptions, MediaOptions, Ready


def idle() -> None:
    """A heartbeat that does nothing."""


@pytest.fixture
def children() -> Iterator[Children]:
    children = Children("fake", EngineOptions(model="fake"), MediaOptions(), load_seconds=30)
    yield children
    children.close()


def load(children: Children) -> None:
    next_message(children.engine, Ready, idle)


def is_gone(pid: int) -> bool:
    """Return whether a process has ended and was reaped."""
    return not Path(f"/proc/{pid}").exists()


def test_engine_timeout_follows_its_warm_up(ready, monkeypatch):
    engine, allowed = ready(), []
    monkeypatch.setattr(engine, "expect", allowed.append)
    engine.expect_work(3, None)
    engine.model = engine.model.model_copy(update={"clip_seconds": 0.5})
    engine.expect_work(1, None)
    engine.expect_work(3, None)
    engine.expect_work(3, 1.5)
    assert allowed == [children_module.LEAST_ENGINE_SECONDS, 10.0, 30.0, 4.5]


def test_media_messages_are_limited_more_than_engine_messages(media):
    assert Media.max_message_bytes < Engine.max_message_bytes
    claim = {"dtype": "uint8", "shape": [Media.max_message_bytes + 1]}
    head = json.dumps({"message": {"kind": "clip"}, "arrays": {"frames": claim}})
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
    children.restart_dead()
    assert children.engine is not dead
    assert children.restarts == {"engine": 1, "template": 0}
    load(children)
    assert children.ready


def test_dead_template_is_restarted(children):
    dead = children.template.pid
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: not is_alive(dead))
    children.restart_dead()
    assert children.template.pid != dead
    assert children.restarts == {"engine": 0, "template": 1}
    media = children.take_media()
    assert is_alive(media.pid)
    media.kill()


def test_what_is_alive_is_not_restarted(children):
    engine, template = children.engine, children.template.pid
    children.restart_dead()
    assert children.engine is engine
    assert children.template.pid == template
    assert children.restarts == {"engine": 0, "template": 0}


def test_each_job_gets_its_own_media_process(children):
    first = children.take_media()
    second = children.take_media()
    assert first.pid != second.pid
    assert first.alive
    assert second.alive
    first.kill()
    second.kill()


def test_close_leaves_no_process():
    children = Children("fake", EngineOptions(model="fake"), MediaOptions(), load_seconds=30)
    pids = [children.engine.pid, children.template.pid]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    children.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.fixture
def claims(tmp_path) -> GpuClaims:
    return GpuClaims(tmp_path / "gpus")


@pytest.fixture
def gpu(claims) -> EngineGpu:
    search = GpuSearch(FakeNvml((FakeGpu("GPU-a"),)), claims, wish="cuda", visible=None)
    gpu = search.claim(share=False, idle=idle)
    assert gpu is not None
    return gpu


@pytest.fixture
def children_on_gpu(gpu) -> Iterator[Children]:
    options = EngineOptions(model="fake"), MediaOptions()
    children = Children("fake", *options, load_seconds=30, gpu=gpu)
    yield children
    children.close()


def environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def open_files(pid: int) -> set[str]:
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the folder itself, in this process
            found.add(str(path.readlink()))
    return found


def test_every_engine_sees_the_claimed_gpu_alone(children_on_gpu, claims, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for _ in range(2):
        load(children_on_gpu)
        assert b"CUDA_VISIBLE_DEVICES=GPU-a" in environment(children_on_gpu.engine.pid)
        assert claims.take(["GPU-a"]) is None
        children_on_gpu.engine.kill()
        assert claims.take(["GPU-a"]) is None
        children_on_gpu.restart_dead()


def test_no_child_inherits_the_claim(children_on_gpu, tmp_path):
    load(children_on_gpu)
    media = children_on_gpu.take_media()
    claim = str(tmp_path / "gpus" / "GPU-a.0")
    try:
        assert claim in open_files(os.getpid())
        for pid in (children_on_gpu.engine.pid, children_on_gpu.template.pid, media.pid):
            assert claim not in open_files(pid)
    finally:
        media.kill()


def test_close_releases_the_gpu(children_on_gpu, claims):
    children_on_gpu.close()
    assert claims.take(["GPU-a"])


@pytest.mark.parametrize(("device", "is_kept"), [("NVIDIA T4", True), ("cpu", False)])
def test_a_gpu_is_released_if_the_engine_runs_on_the_cpu(children_on_gpu, claims, device, is_kept):
    load(children_on_gpu)
    engine = children_on_gpu.engine
    engine.model = engine.model.model_copy(update={"device": device})

    children_on_gpu.release_unused_gpu()

    assert (children_on_gpu.gpu is not None) == is_kept
    assert (claims.take(["GPU-a"]) is None) == is_kept
