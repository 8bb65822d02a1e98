"""Many workers in few processes: real supervisors, heartbeats, claims and ends, without children.

    python -m tests.benchmarks.scaling.crowd WORKERS REDIS_URL DATA_DIR REPORT

Each worker is a thread with the worker's own code: `Supervisor` on RQ's queue, `Runner`,
`Heartbeat` and the store. What is left out is the work itself. In place of the engine and the media
process, an attempt takes the time that its request's fake script says, reports the same stages, and
writes three small files. A real worker has a process and a core for itself; here many share them.
So processor time of Redis and of the API is what it would be, and times of answers are too long.

On SIGTERM it writes the file REPORT: what each call took since the last SIGUSR1, in seconds.
"""

import json
import logging
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any, ClassVar, cast
from unittest import mock

from redis.client import Pipeline
from rq.exceptions import StopRequested
from rq.timeouts import TimerDeathPenalty

from rollout_core.contract import ARCHIVE_NAME, OVERLAY_NAME, SHEET_NAME, ExplainResult, describe
from rollout_core.jobs.disk import fsync_files
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.records import JobRecord, Progress
from rollout_core.jobs.redis_records import Announcement
from rollout_core.timings import Timings
from tests.benchmarks.many_jobs import result_of
from worker import fake_engine, fake_script
from worker.attempt import AttemptInput
from worker.children import Children
from worker.counts import Counts
from worker.heartbeat import Heartbeat, Shutdown
from worker.redis_jobs import RetryingRecords, connect
from worker.settings import Settings
from worker.supervisor import Supervisor

STACK_BYTES = 512 * 1024
MODEL = "fake"
FILES = {ARCHIVE_NAME: 20_000, OVERLAY_NAME: 100_000, SHEET_NAME: 30_000}
"""Bytes of the files of a result, as of a short video."""

ANSWER_SECONDS = 5
"""Timeout of a Redis call of a worker."""

STOP_SECONDS = 10.0

START_SECONDS = 0.02
"""Pause between the starts of two workers."""


class TimedRecords(RetryingRecords):
    """Records whose calls are timed.

    Attributes:
        seconds: what each call took, by name.
    """

    seconds: ClassVar[defaultdict[str, list[float]]] = defaultdict(list)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - began)

    def claim(self, job_id: str, *, max_attempts: int, token: str | None = None) -> JobRecord:
        """Claim a job, timed."""
        with self._timed("claim"):
            return super().claim(job_id, max_attempts=max_attempts, token=token)

    def beat(self, job_id: str, attempt: int, progress: Progress, token: str | None = None) -> bool:
        """Send a heartbeat, timed."""
        with self._timed("beat"):
            return super().beat(job_id, attempt, progress, token)

    def delete_record(self, job_id: str) -> None:
        """Delete the record of a job that has ended, timed."""
        with self._timed("end"):
            super().delete_record(job_id)

    def announce(self, worker: str, announcement: Announcement) -> None:
        """Announce a worker, timed."""
        with self._timed("announce"):
            super().announce(worker, announcement)


class ScriptedAttempt:
    """In place of `Attempt`: takes the time of the script, and writes a small result."""

    def __init__(
        self, job: AttemptInput, _: Children, heartbeat: Heartbeat, counts: Counts
    ) -> None:
        self.timings = Timings()
        self.clips = 1
        self._job = job
        self._heartbeat = heartbeat
        self._counts = counts

    def run(self) -> ExplainResult:
        """Return a result, whose files are written in the folder of the attempt."""
        with self.timings.stage("decode"):
            fake_script.take_time(self._job.script, self._heartbeat)
        for stage in ("explain", "render", "publish"):
            self._heartbeat.advance(cast(Any, stage), 0, 1)
            self._heartbeat()
        self._counts.add_explained(1, self._job.script.seconds)
        with self.timings.stage("save"):
            self._heartbeat.during(self._write)
        self._counts.add_stages(self.timings.seconds)
        started = self._job.started_at
        artifacts = tuple(describe(self._job.folder / name) for name in FILES)
        return result_of(started).model_copy(
            update={"artifacts": artifacts, "attempt": self._job.attempt}
        )

    def _write(self) -> None:
        for name, size in FILES.items():
            (self._job.folder / name).write_bytes(bytes(size))
        fsync_files(self._job.folder)


class CrowdWorker(Supervisor):
    """A supervisor in a thread: it gets no signals, and ends once its shutdown was requested."""

    death_penalty_class = TimerDeathPenalty

    def _install_signal_handlers(self) -> None:
        """Leave the signals to the process."""

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Do as `Supervisor.heartbeat`; end an idle worker that is to stop."""
        if self.is_shutdown_requested and not self._busy:
            raise StopRequested
        super().heartbeat(timeout, pipeline)

    def start(self) -> None:
        """Announce this worker as ready, without a look at all others, and work."""
        self._is_checked = True
        self._announce()
        self.work(logging_level="ERROR")


def childless() -> Children:
    """Return what stands for children that are loaded and well."""
    children = SimpleNamespace(
        engine=SimpleNamespace(model=fake_engine.expected(MODEL, None), busy=False, alive=True),
        gpu=None,
        ready=True,
        restarts={},
        wake=lambda: None,
        restart_dead=lambda: None,
    )
    return cast(Children, children)


def make_worker(settings: Settings, shutdown: Shutdown) -> CrowdWorker:
    """Return a worker that is not started yet."""
    redis = connect(settings.redis, socket_timeout=ANSWER_SECONDS)
    records = TimedRecords(redis, shutdown.check_shutdown)
    return CrowdWorker(settings, childless(), records, FolderStore(settings.data_dir), shutdown)


@contextmanager
def crowd(count: int, redis_url: str, data_dir: Path) -> Iterator[None]:
    """Run so many workers in this process until the context ends."""
    for name in ("rq", "worker", "rollout_core"):
        logging.getLogger(name).setLevel(logging.ERROR)
    settings = Settings(engine="fake", model=MODEL, redis_url=redis_url, data_dir=data_dir)
    shutdown, threads = Shutdown(0), []
    with mock.patch("worker.runner.Attempt", ScriptedAttempt):
        for _ in range(count):
            worker = make_worker(settings, shutdown)
            threads.append(Thread(target=worker.start, daemon=True))
            threads[-1].start()
            time.sleep(START_SECONDS)
        try:
            yield
        finally:
            shutdown.request_shutdown()
            for thread in threads:
                thread.join(STOP_SECONDS)


def main() -> None:
    """Run workers until SIGTERM; then write a report of what their calls took since SIGUSR1."""
    workers, redis_url, data_dir, report = sys.argv[1:]
    threading.stack_size(STACK_BYTES)
    ended = Event()
    signal.signal(signal.SIGUSR1, lambda *_: TimedRecords.seconds.clear())
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with crowd(int(workers), redis_url, Path(data_dir)):
        while not ended.wait(0.2):
            pass
        Path(report).write_text(json.dumps(TimedRecords.seconds))


if __name__ == "__main__":
    main()
