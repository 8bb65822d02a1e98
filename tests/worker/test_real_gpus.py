"""Workers on the GPUs of this machine; skipped where there is none.

.venv/bin/python -m pytest tests/worker/test_real_gpus.py -rs
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from rollout_core.jobs.redis_records import Announcement, Announcements
from tests.system.waiting import wait_until
from worker.gpus import VISIBLE_DEVICES, measure, open_nvml, visible_gpus

NVML = open_nvml()
GPUS = visible_gpus(NVML, os.environ.get(VISIBLE_DEVICES)) if NVML else ()

pytestmark = pytest.mark.skipif(not GPUS, reason="NVML finds no GPU")

LOAD_SECONDS = 180

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(settings, tmp_path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start(device: str = "cuda", *flags: str) -> subprocess.Popen[bytes]:
        places = ["--redis-url", settings.redis_url, "--data-dir", str(settings.data_dir)]
        command = [sys.executable, "-m", "worker", *places, "--device", device, *flags]
        with (tmp_path / f"log{len(started)}").open("w") as log:
            started.append(subprocess.Popen(command, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.wait()


def ready(redis: Redis, count: int) -> list[Announcement]:
    """Wait until so many workers are ready, and return what they announce."""

    def found() -> list[Announcement]:
        items = [item for item in Announcements(redis).read().values() if item.ready]
        return items if len(items) == count else []

    return wait_until(found, LOAD_SECONDS, f"{count} ready workers")


def test_every_gpu_is_listed_and_measured():
    for gpu in GPUS:
        assert gpu.uuid.startswith(("GPU-", "MIG-"))
        found = measure(NVML, gpu.uuid)
        assert found.name == gpu.name
        assert 0 <= found.memory_used_bytes <= found.memory_total_bytes


def test_a_worker_on_each_gpu_and_one_that_waits_until_one_is_killed(start, redis, tmp_path):
    workers = [start() for _ in GPUS]
    announced = ready(redis, len(GPUS))
    assert {item.gpu.uuid for item in announced} == {gpu.uuid for gpu in GPUS}
    assert {item.device for item in announced} == {gpu.name for gpu in GPUS}
    assert all(item.gpu.memory_used_bytes > 100 << 20 for item in announced)

    start()
    log = tmp_path / f"log{len(GPUS)}"
    wait_until(lambda: "waiting until one is free" in log.read_text(), LOAD_SECONDS)
    workers[0].kill()
    wait_until(lambda: "ready: moving-things on cuda:" in log.read_text(), LOAD_SECONDS)


def test_workers_that_share_run_on_one_gpu(start, redis):
    for _ in range(2):
        start(GPUS[0].uuid, "--share-gpu")
    assert {item.gpu.uuid for item in ready(redis, 2)} == {GPUS[0].uuid}
