"""Steps that faults share: bring a job to a moment, inject the fault, check the job's end."""

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from tests.chaos.watch import Watch
from tests.system.processes import Process
from tests.system.system import System
from tests.system.waiting import wait_until
from tests.worker.clips import make_video

SLOW: dict[str, Any] = {"model": "fake-slow", "clips": "tile", "overlay": None}
MOMENT_SECONDS = 20.0
"""How long it may take until a job reaches the moment of the fault."""

SEEN_SECONDS = 0.2
"""Long enough for a client to see the job's state before the fault."""


def video(seconds: float = 1.0) -> bytes:
    """Return a small video; one second is one clip."""
    with TemporaryDirectory() as folder:
        path = make_video(Path(folder) / "video.mp4", seconds=seconds, width=64, height=64)
        return path.read_bytes()


def serve(system: System, model: str) -> Process:
    """Start a worker, and wait until it is ready."""
    worker = system.worker(model=model)
    system.await_models(model)
    return worker


def running(system: System, worker: Process, seconds: float = 6.0) -> Watch:
    """Submit a job that takes half of `seconds`; return its watch once the worker explains it."""
    system.await_models("fake-slow")
    watch = Watch(system, system.accepted(video(seconds), **SLOW))
    assert watch.job_id is not None
    system.wait(watch.job_id, "running", until=_is_explained)
    return watch


def kill_api_at(system: System, when: str, point: str) -> Watch:
    """Kill the API at a point of its work on an upload, before the client gets its 202."""
    mark = system.mark("reached")
    api = system.api(under=("tests.system.breakpoints", when, point, str(mark)))
    serve(system, "fake")
    watch = Watch(system)
    with ThreadPoolExecutor(1) as pool:
        post = pool.submit(system.submit, video())
        wait_until(mark.exists, MOMENT_SECONDS, point)
        watch.mark_fault()
        api.kill()
        assert isinstance(post.exception(), httpx.TransportError)
    watch.note("connection closed")
    (folder,) = files(system, "jobs/*")
    watch.follow(folder.name)
    require(watch, "succeeded", attempt=1)
    return watch


def kill_supervisor_at(
    system: System,
    when: str,
    point: str,
    *,
    attempt: int,
    model: str = "fake",
    state: str = "succeeded",
) -> Watch:
    """Kill the supervisor at a point of its work on a job."""
    mark = system.mark("reached")
    system.api()
    breakpoint_ = ("tests.system.breakpoints", when, point, str(mark))
    worker = system.worker(model=model, under=breakpoint_)
    system.await_models(model)
    watch = Watch(system, system.accepted(video(), model))
    wait_until(mark.exists, MOMENT_SECONDS, point)
    time.sleep(SEEN_SECONDS)
    watch.mark_fault()
    worker.kill()
    require(watch, state, attempt=attempt)
    return watch


def interrupt_running_job(
    system: System, inject: Callable[[Process, Process], object], *, attempt: int
) -> Watch:
    """Inject a fault while a job runs; the job must succeed in that attempt.

    Args:
        inject: called with the API and the worker.
    """
    api, worker = system.api(), system.worker(model="fake-slow")
    watch = running(system, worker)
    watch.mark_fault()
    inject(api, worker)
    require(watch, "succeeded", attempt=attempt)
    return watch


def signal_child(system: System, kind: str, number: int) -> Watch:
    """Send a signal to the worker's oldest child of a kind: that child does the job's work."""

    def send(api: Process, worker: Process) -> None:
        os.kill(worker.children_of_kind(kind)[0], number)

    return interrupt_running_job(system, send, attempt=2)


def submit_with_fault(system: System, model: str, content: bytes | None = None) -> Watch:
    """Submit a job that is itself the fault: by its model, or by its video."""
    watch = Watch(system)
    watch.mark_fault()
    watch.follow(system.accepted(content or video(), model))
    return watch


def interrupt_valkey(
    system: System,
    begin: Callable[[], object],
    end: Callable[[], object] = lambda: None,
    seconds: float = 0.0,
) -> Watch:
    """Interrupt Valkey for `seconds` while one job runs; watch a second one, which waits."""
    system.api()
    worker = system.worker(model="fake-slow")
    ahead = running(system, worker)
    watch = Watch(system, system.accepted(video(), **SLOW))
    for each in (ahead, watch):
        each.mark_fault()
    begin()
    time.sleep(seconds)
    end()
    for each in (ahead, watch):
        each.mark_recovery()
    require(ahead, "succeeded")
    require(watch, "succeeded", attempt=1)
    assert system.wait(system.accepted(video(), **SLOW))["state"] == "succeeded"
    return watch


def require(
    watch: Watch, state: str, *, attempt: int | None = None, code: str | None = None
) -> dict[str, Any]:
    """Wait for the job's end; check its state, its last attempt and its error code."""
    job = watch.await_end()
    assert job["state"] == state, job
    assert attempt in (None, job["attempt"]), (job, watch.observations)
    assert code is None or job["error"]["code"] == code, job
    return job


def half_sent(system: System) -> socket.socket:
    """Send the first half of an upload, and return the open connection."""
    request = system.client.build_request(
        "POST", "/v1/jobs", files={"video": ("video.mp4", video() + bytes(4 << 20), "video/mp4")}
    )
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: {request.url.host}\r\n"
    for name in ("Content-Type", "Content-Length"):
        head += f"{name}: {request.headers[name]}\r\n"
    body = request.read()
    connection = socket.create_connection((request.url.host, request.url.port), MOMENT_SECONDS)
    connection.sendall(head.encode() + b"\r\n" + body[: len(body) // 2])
    return connection


def is_ready(client: httpx.Client) -> bool:
    """Whether an API answers and can use Valkey and the store."""
    try:
        return client.get("/readyz").is_success
    except httpx.TransportError:
        return False


def files(system: System, pattern: str) -> list[Path]:
    """Return the store's paths that match a pattern."""
    return list(system.data_dir.glob(pattern))


def _is_explained(job: dict[str, Any]) -> bool:
    return job["progress"] is not None and job["progress"]["stage"] == "explain"
