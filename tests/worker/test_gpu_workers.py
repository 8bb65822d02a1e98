"""Worker processes on a machine whose GPUs are faked, from their start to their end."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from rollout_core.command import UNUSABLE_STATUS
from rollout_core.jobs.redis_records import (
    WORKERS_KEY,
    Announcements,
    Gpu,
    places_waiting,
)
from tests.system.waiting import wait_until
from tests.worker.fake_nvml import GIB, FakeGpu, FakeNvml, environment_with
from worker.children import Children
from worker.engine_gpu import GpuSearch
from worker.gpu_claims import GpuClaims
from worker.heartbeat import Shutdown
from worker.messages import EngineOptions, MediaOptions
from worker.redis_jobs import RetryingRecords
from worker.supervisor import Supervisor

GPU = FakeGpu("GPU-a", used_gib=3)

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def claims(settings) -> GpuClaims:
    return GpuClaims(settings.data_dir / "gpus")


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def start(settings, tmp_path, log) -> Iterator[Start]:
    """Start a worker that finds one GPU."""
    started: list[subprocess.Popen[str]] = []
    variables = os.environ | environment_with(tmp_path, GPU)
    variables.pop("CUDA_VISIBLE_DEVICES", None)

    def start(*flags: str) -> subprocess.Popen[str]:
        places = ["--redis-url", settings.redis_url, "--data-dir", str(settings.data_dir)]
        command = [sys.executable, "-m", "worker", *places, *flags]
        with log.open("w") as file:
            started.append(subprocess.Popen(command, stderr=file, text=True, env=variables))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_worker_without_a_free_gpu_waits_and_is_healthy(
    start, claims, log, settings, redis: Redis
):
    other = claims.take(["GPU-a"])
    worker = start("--device", "cuda")
    wait_until(lambda: "waiting until one is free" in log.read_text())
    wait_until(lambda: places_waiting(redis))

    health = [sys.executable, "-m", "worker.health"]
    variables = os.environ | {"ROLLOUT_REDIS_URL": settings.redis_url}
    assert subprocess.run(health, env=variables, timeout=30).returncode == 0
    assert not redis.exists(WORKERS_KEY)
    assert not Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()

    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert other.uuid == "GPU-a"


def test_a_worker_for_a_gpu_that_is_not_there_ends_for_good(start, log):
    assert start("--device", "cuda:1").wait(30) == UNUSABLE_STATUS
    assert log.read_text().splitlines()[-1] == (
        "rollout-worker: there is no GPU cuda:1 here; there is cuda:0 NVIDIA H100 80GB HBM3 (GPU-a)"
    )


def test_a_worker_goes_on_when_a_gpu_is_free_and_leaves_it_if_pytorch_cannot_use_it(
    start, claims, log
):
    """The PyTorch that is installed may have no CUDA. Here, it cannot find the faked GPU."""
    other = claims.take(["GPU-a"])
    start("--device", "auto")
    wait_until(lambda: "waiting until one is free" in log.read_text())
    other.release()
    wait_until(lambda: "ready: moving-things" in log.read_text(), 120)
    assert "claimed cuda:0 NVIDIA H100 80GB HBM3 (GPU-a), 77.0 GiB free" in log.read_text()
    assert "ready: moving-things on cpu" in log.read_text()
    assert claims.take(["GPU-a"])


def test_a_worker_announces_its_gpu_and_what_memory_is_used(settings, redis, store, claims):
    search = GpuSearch(FakeNvml((GPU,)), claims, wish="cuda", visible=None)
    gpu = search.claim(share=False, idle=lambda: None)
    options = EngineOptions(model="fake"), MediaOptions()
    children = Children("fake", *options, load_seconds=30, gpu=gpu)
    try:
        Supervisor(settings, children, RetryingRecords(redis), store, Shutdown(0)).await_engine()
    finally:
        children.close()
    (announced,) = Announcements(redis).read().values()
    assert announced.gpu == Gpu(
        uuid="GPU-a",
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=80 * GIB,
        memory_used_bytes=3 * GIB,
    )
