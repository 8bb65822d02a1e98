"""What scenes are made of: a job brought to a moment, a disaster, and what must follow."""

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
from tests.house.house import House, wait_until
from tests.house.processes import Process
from tests.worker.clips import make_video

SLOW: dict[str, Any] = {"model": "fake-slow", "clips": "tile", "overlay": None}
MOMENT_SECONDS = 20.0
"""How long a scene may take to come to its moment."""

SIGHT_SECONDS = 0.2
"""Enough for the client to see how a job stands."""


def video(seconds: float = 1.0) -> bytes:
    """Return a small video; a clip lasts a second."""
    with TemporaryDirectory() as folder:
        path = make_video(Path(folder) / "video.mp4", seconds=seconds, width=64, height=64)
        return path.read_bytes()


def serve(house: House, model: str) -> Process:
    """Start a worker, and wait until it is ready."""
    worker = house.worker(model=model)
    house.await_models(model)
    return worker


def running(house: House, worker: Process, seconds: float = 6.0) -> Watch:
    """Submit a job that takes half of `seconds`; watch it as soon as the worker explains it."""
    house.await_models("fake-slow")
    watch = Watch(house, house.accepted(video(seconds), **SLOW))
    assert watch.job_id is not None
    house.wait(watch.job_id, "running", until=_is_explained)
    return watch


def kill_api_at(house: House, when: str, point: str) -> Watch:
    """Kill the API at a point of its work on an upload; the client has not got its 202."""
    mark = house.mark("reached")
    api = house.api(under=("tests.house.breakpoints", when, point, str(mark)))
    serve(house, "fake")
    watch = Watch(house)
    with ThreadPoolExecutor(1) as pool:
        post = pool.submit(house.submit, video())
        wait_until(mark.exists, MOMENT_SECONDS, point)
        watch.strike()
        api.kill()
        assert isinstance(post.exception(), httpx.TransportError)
    watch.note("connection closed")
    (folder,) = files(house, "jobs/*")
    watch.follow(folder.name)
    require(watch, "succeeded", attempt=1)
    return watch


def kill_supervisor_at(
    house: House,
    when: str,
    point: str,
    *,
    attempt: int,
    model: str = "fake",
    state: str = "succeeded",
) -> Watch:
    """Kill the supervisor at a point of its work on a job."""
    mark = house.mark("reached")
    house.api()
    breakpoint_ = ("tests.house.breakpoints", when, point, str(mark))
    worker = house.worker(model=model, under=breakpoint_)
    house.await_models(model)
    watch = Watch(house, house.accepted(video(), model))
    wait_until(mark.exists, MOMENT_SECONDS, point)
    time.sleep(SIGHT_SECONDS)
    watch.strike()
    worker.kill()
    require(watch, state, attempt=attempt)
    return watch


def strike_child(house: House, kind: str, number: int) -> Watch:
    """Send a signal to the oldest child of a kind, which is the one at work."""
    house.api()
    worker = house.worker(model="fake-slow")
    watch = running(house, worker)
    watch.strike()
    os.kill(worker.children_of_kind(kind)[0], number)
    require(watch, "succeeded", attempt=2)
    return watch


def strike_valkey(house: House, outage: Callable[[], None]) -> Watch:
    """Watch a job that waits behind another one while Valkey is away."""
    house.api()
    worker = house.worker(model="fake-slow")
    ahead = running(house, worker)
    watch = Watch(house, house.accepted(video(), **SLOW))
    for each in (ahead, watch):
        each.strike()
    outage()
    for each in (ahead, watch):
        each.relieve()
    require(ahead, "succeeded")
    require(watch, "succeeded", attempt=1)
    assert house.wait(house.accepted(video(), **SLOW))["state"] == "succeeded"
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


def half_sent(house: House) -> socket.socket:
    """Send the first half of an upload, and return the open connection."""
    request = house.client.build_request(
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


def files(house: House, pattern: str) -> list[Path]:
    """Return what there is in the store."""
    return list(house.data_dir.glob(pattern))


def _is_explained(job: dict[str, Any]) -> bool:
    return job["progress"] is not None and job["progress"]["stage"] == "explain"
