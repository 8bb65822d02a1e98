"""Requests to a bucket: what each kind of call, a job and an idle second cost.

moto's server stands for S3, in this process, which counts what it is asked. The API and the worker
have access keys of different names, so that a request tells whose it is.
"""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from werkzeug.serving import WSGIRequestHandler

from rollout_core.demo.sample import SAMPLE_PATH
from rollout_core.jobs.bucket import Bucket
from rollout_core.jobs.object_store import REMEMBER_SECONDS, ObjectStore
from tests.moto_server import ENVIRONMENT, NAME, running_moto
from tests.system.system import System, upload
from tests.system.waiting import wait_until

MODEL = "fake"
API, WORKER, OTHER = "API", "worker", "other"

IDLE_SECONDS = 30.0

FORGET_SECONDS = REMEMBER_SECONDS + 0.1
"""After this, an API reads again what never changes."""

Counts = Counter[tuple[str, str]]
"""Requests by who sent them, and kind."""

Costs = Mapping[str, Mapping[str, Mapping[str, float]]]


class Site:
    """A system with one API, one fake worker and a bucket."""

    def __init__(self, system: System, store: ObjectStore, counts: Counts) -> None:
        """Start the API and the worker."""
        self.system = system
        self._store = store
        self._counts = counts
        with _as(API):
            system.api("--max-queued", "100000")
        with _as(WORKER):
            data_dir = system.data_dir.with_name("worker-data")
            self.worker = system.worker(model=MODEL, kept=False, data_dir=data_dir)
        system.await_models(MODEL)
        self.video = SAMPLE_PATH.read_bytes()
        form = {"video": ("sample.mp4", self.video)}
        self.upload = str(system.client.post("/v1/uploads", files=form).json()["id"])

    def submit(self, seconds: float = 0.0) -> str:
        """Submit a job for the stored video; return its id."""
        fake = {"seconds": seconds}
        asked = {"upload": self.upload, "reuse": False, "overlay": None, "fake": fake}
        answer = self.system.client.post("/v1/jobs", json=asked)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def submit_form(self) -> str:
        """Submit a job with its video; return its id."""
        parts = upload(self.video, MODEL, overlay=None)
        answer = self.system.client.post("/v1/jobs", files=parts)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def get(self, path: str) -> None:
        """Call the API, which must answer 200."""
        answer = self.system.client.get(path)
        assert answer.status_code == 200, answer.text

    def await_ends(self, job_ids: list[str]) -> None:
        """Wait until jobs have ended, and the API has noticed, without a call to the API."""
        for job_id in job_ids:
            wait_until(lambda j=job_id: self._store.has_ended(j), 60, "the job to end")
        time.sleep(2)

    def per_second(self, seconds: float) -> dict[tuple[str, str], float]:
        """Return what is asked in a second without calls."""
        before, began = self._now(), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        return {key: count / took for key, count in (self._now() - before).items()}

    def per_call(
        self,
        run: Callable[[], object],
        idle: Mapping[tuple[str, str], float],
        *,
        times: int = 1,
        calls: int = 1,
        pause_seconds: float = 0.0,
    ) -> dict[tuple[str, str], float]:
        """Return what one call asks, without what is asked in an idle second.

        Args:
            times: how often `run` is called.
            calls: that each `run` makes.
            pause_seconds: between two of them, not counted.
        """
        asked: Counts = Counter()
        took = 0.0
        for _ in range(times):
            before, began = self._now(), time.monotonic()
            run()
            took += time.monotonic() - began
            asked += self._now() - before
            time.sleep(pause_seconds)
        return {
            key: max(0.0, (number - idle.get(key, 0.0) * took) / (times * calls))
            for key, number in asked.items()
        }

    def _now(self) -> Counts:
        return Counter({key: count for key, count in self._counts.items() if key[0] != OTHER})


def measure(calls: int, *, idle_seconds: float = IDLE_SECONDS) -> Costs:
    """Return the requests of each kind of call, by who sends them and what they ask."""
    costs: dict[str, Any] = {}
    with _open_site() as site:
        idle = site.per_second(idle_seconds)
        costs["idle API and worker, a second"] = idle
        site.worker.halt()
        jobs: list[str] = []
        costs["submit, JSON"] = site.per_call(lambda: jobs.append(site.submit()), idle, times=calls)
        costs["submit, form"] = site.per_call(
            lambda: jobs.append(site.submit_form()), idle, times=calls
        )
        waiting = f"/v1/jobs/{jobs[-1]}"

        def each(name: str, path: str) -> None:
            costs[name] = site.per_call(
                lambda: site.get(path), {}, times=calls, pause_seconds=FORGET_SECONDS
            )

        each("poll, waits", waiting)

        def run_all() -> None:
            site.worker.resume()
            site.await_ends(jobs)

        costs["a job in its worker"] = site.per_call(run_all, idle, calls=len(jobs))
        running = site.submit(60)
        site.system.wait(running, "running")
        each("poll, runs", f"/v1/jobs/{running}")
        each("poll, ended", f"/v1/jobs/{jobs[0]}")
        each("result.json", f"/v1/jobs/{jobs[0]}/artifacts/result.json")
        each("rollout.npz", f"/v1/jobs/{jobs[0]}/artifacts/rollout.npz")
        site.system.client.post(f"/v1/jobs/{running}/cancel")
        site.system.wait(running)
    return {name: _by_sender(found) for name, found in costs.items()}


@contextmanager
def _open_site() -> Iterator[Site]:
    counts: Counts = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="requests-", dir="/tmp") as folder,
        _counting(counts),
        running_moto() as url,
        patch.dict(
            os.environ, ENVIRONMENT | {"AWS_ENDPOINT_URL": url, "ROLLOUT_STORE": f"s3://{NAME}/x"}
        ),
        _as(OTHER),
        System(Path(folder)) as system,
    ):
        store = ObjectStore(Bucket.at(f"s3://{NAME}/x"), Path(folder) / "looker")
        yield Site(system, store, counts)


@contextmanager
def _counting(counts: Counts) -> Iterator[None]:
    """Count the requests that moto's server gets in this process."""
    run = WSGIRequestHandler.run_wsgi

    def counted(self: WSGIRequestHandler) -> None:
        credential = self.headers.get("Authorization", "").partition("Credential=")[2]
        counts[credential.partition("/")[0], _kind(self)] += 1
        run(self)

    with patch.object(WSGIRequestHandler, "run_wsgi", counted):
        yield


def _kind(request: WSGIRequestHandler) -> str:
    """Return what a request asks, in the words of S3."""
    if request.command == "PUT":
        return "copy" if "x-amz-copy-source" in request.headers else "put"
    if request.command in ("POST", "DELETE"):
        return "delete" if "delete" in request.path or request.command == "DELETE" else "put"
    if request.command == "GET" and "list-type" in request.path:
        return "list"
    return "get"


@contextmanager
def _as(name: str) -> Iterator[None]:
    """Let processes that are started meanwhile have an access key of this name."""
    with patch.dict(os.environ, {"AWS_ACCESS_KEY_ID": name}):
        yield


def _by_sender(found: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float]]:
    senders: dict[str, dict[str, float]] = {API: {}, WORKER: {}}
    for (sender, kind), count in found.items():
        senders[sender][kind] = count
    return senders
