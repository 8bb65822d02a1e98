"""A running service, and jobs through HTTP."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx

from tests.benchmarks.suite.processes import await_rest, cpu_seconds
from tests.benchmarks.suite.timing import Seconds
from tests.system.processes import Process
from tests.system.system import System, open_system, upload

WAIT_SECONDS = 60
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")


class Served(NamedTuple):
    """A model, and the worker that serves it.

    Attributes:
        model: its name.
        checkpoint: its file; None for a model that is built in, or of the fake engine.
    """

    model: str
    checkpoint: str | None = None

    @property
    def is_fake(self) -> bool:
        """Whether the fake engine serves it."""
        return self.model.startswith("fake")


class Done(NamedTuple):
    """A job that has succeeded.

    Attributes:
        seconds: from the call that submits it until its answer, and CPU time of all processes.
        result: the content of `result.json`.
    """

    seconds: Seconds
    result: dict[str, Any]

    @property
    def precision(self) -> str:
        """The number format of the model, as the result tells it; float32 if it does not."""
        return next(_precisions(self.result), "float32")


@contextmanager
def serving(served: Iterable[Served]) -> Iterator[System]:
    """Run a service with a worker for each model, until the context ends."""
    served = list(served)
    with open_system() as system:
        system.api()
        for one in served:
            start_worker(system, one)
        system.await_models(*{one.model for one in served})
        yield system


def start_worker(system: System, served: Served) -> Process:
    """Start a worker; do not wait until it is ready."""
    if served.is_fake:
        return system.worker(model=served.model)
    named = f"{served.model}={served.checkpoint}" if served.checkpoint else served.model
    return system.worker("--model", named)


def ready_workers(system: System) -> dict[str, int]:
    """Return for each model that is served how many workers are ready."""
    listed = system.client.get("/v1/models").json()["models"]
    return {model["name"]: model["ready"] for model in listed if model["ready"]}


def run_job(system: System, video: bytes, model: str, **request: Any) -> Done:
    """Submit a job, wait for its end in the same call, and return its result.

    Raises:
        RuntimeError: the job failed.
    """
    pids = [process.pid for process in system.processes]
    await_rest(pids)
    before, began = cpu_seconds(pids), time.monotonic()
    job = submit(system, video, model, **request)
    while job["ended_at"] is None:
        job = system.client.get(f"/v1/jobs/{job['id']}?wait={WAIT_SECONDS}", timeout=None).json()
    wall = time.monotonic() - began
    await_rest(pids)  # the worker prepares itself for the next job
    if job["state"] != "succeeded":
        raise RuntimeError(f"the job has {job['state']}: {json.dumps(job)}")
    result = system.client.get(f"/v1/jobs/{job['id']}/artifacts/result.json").json()
    return Done(Seconds(wall, cpu_seconds(pids) - before), result)


def submit(
    system: System, video: bytes, model: str, *, wait: int = WAIT_SECONDS, **request: Any
) -> dict[str, Any]:
    """Submit a job, and wait for its end for some seconds; return the job as it is then."""
    answer: httpx.Response = system.client.post(
        "/v1/jobs",
        files=upload(video, model, **request),
        headers={"Prefer": f"wait={wait}"} if wait else None,
        timeout=None,
    )
    answer.raise_for_status()
    job: dict[str, Any] = answer.json()
    return job


def _precisions(found: Any, name: str = "") -> Iterator[str]:
    """Yield the number formats that a result names, whatever their place in it."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield from _precisions(value, key)
    elif found in PRECISIONS and ("precision" in name or "dtype" in name):
        yield found
