"""What faults are made of: a job brought to a moment, a disaster, and what must follow."""

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
from tests.system.system import System, wait_until
from tests.worker.clips import make_video

SLOW: dict[str, Any] = {"model": "fake-slow", "clips": "tile", "overlay": None}
MOMENT_SECONDS = 20.0
"""How long a fault may take to come to its moment."""

SIGHT_SECONDS = 0.2
"""Enough for the client to see how a job stands."""


def video(seconds: float = 1.0) -> bytes:
    """Return a small video; a clip lasts a second."""
    with TemporaryDirectory() as folder:
        path = make_video(Path(folder) / "video.mp4", seconds=seconds, width=64, height=64)
        return path.read_bytes()


def serve(system: System, model: str) -> Process:
    """Start a worker, and wait until it is ready."""
    worker = system.worker(model=model)
    system.await_models(model)
    return worker


def running(system: System, worker: Process, seconds: float = 6.0) -> Watch:
    """Submit a job that takes half of `seconds`; watch it as soon as the worker explains it."""
    system.await_models("fake-slow")
    watch = Watch(system, system.accepted(video(seconds), **SLOW))
    assert watch.job_id is not None
    system.wait(watch.job_id, "running", until=_is_explained)
    return watch


def kill_api_at(system: System, when: str, point: str) -> Watch:
    """Kill the API at a point of its work on an upload; the client has not got its 202."""
    mark = system.mark("reached")
    api = system.api(under=("tests.system.breakpoints", when, point, str(mark)))
    serve(system, "fake")
    watch = Watch(system)
    with ThreadPoolExecutor(1) as pool:
        post = pool.submit(system.submit, video())
        wait_until(mark.exists, MOMENT_SECONDS, point)
        watch.strike()
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
    time.sleep(SIGHT_SECONDS)
    watch.strike()
    worker.kill()
    require(watch, state, attempt=attempt)
    return watch


def strike_child(system: System, kind: str, number: int) -> Watch:
    """Send a signal to the oldest child of a kind, which is the one at work."""
    system.api()
    worker = system.worker(model="fake-slow")
    watch = running(system, worker)
    watch.strike()
    os.kill(worker.children_of_kind(kind)[0], number)
    require(watch, "succeeded", attempt=2)
    return watch


def strike_valkey(system: System, outage: Callable[[], None]) -> Watch:
    """Watch a job that waits behind another one while Valkey is away."""
    system.api()
    worker = system.worker(model="fake-slow")
    ahead = running(system, worker)
    watch = Watch(system, system.accepted(video(), **SLOW))
    for each in (ahead, watch):
        each.strike()
    outage()
    for each in (ahead, watch):
        each.relieve()
    require(ahead, "succeeded")
    require(watch, "succeeded", attempt=1)
    assert system.wait(system.accepted(video(), **SLOW))["state"] == "succeeded"
    return watch


def require(
    watch: Watch, state: str, *, attempt: int | None = None, code: str | None = None
) -> dict[str, Any]:
    """Wait for the job's end, which must be as it is said here."""
    job = watch.await_end()
    assert job["state"] == state, job
    assert attempt in (None, job["attempt"]), (job, watch.sights)
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
    """Whether an API answers, and can use Valkey and the store."""
    try:
        return client.get("/readyz").is_success
    except httpx.TransportError:
        return False


def files(system: System, pattern: str) -> list[Path]:
    """Return what there is in the store."""
    return list(system.data_dir.glob(pattern))


def _is_explained(job: dict[str, Any]) -> bool:
    return job["progress"] is not None and job["progress"]["stage"] == "explain"
