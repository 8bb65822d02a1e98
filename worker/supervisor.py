"""RQ worker that owns the engine and media processes and renews the job's lease while it runs.

RQ only delivers jobs, and delivers them again if a worker dies. The job's record and the store
decide whether a job runs, has failed or may be retried. While a job runs, `do_duties` does once a
second what RQ's own loop does between jobs: it renews RQ's lease, requeues the jobs of dead
workers, and announces this worker.
"""

import socket
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from rollout_core.errors import CheckpointError, DeviceError, JobHeld, UnknownModel
from rollout_core.jobs import records
from rollout_core.jobs.redis_records import Announcement, queue_name
from rollout_core.jobs.store import ArtifactStore
from rollout_core.model.specs import SPECS, ModelSpec
from worker import fake_engine, task
from worker.children import ChildFailure, ChildLost, Children, next_message
from worker.health import new_name
from worker.heartbeat import Shutdown, ShuttingDown
from worker.messages import Ready
from worker.redis_jobs import UNREACHABLE, RetryingRecords, connect
from worker.runner import Runner
from worker.settings import Settings

LEASE_SECONDS = int(records.LEASE_SECONDS)
"""RQ's lease on a running job: that of its record. After a shorter one, RQ would deliver a job that
cannot be claimed yet."""

MAINTENANCE_SECONDS = 5
"""Time between two searches for jobs whose RQ lease has run out."""

WORKER_TTL_SECONDS = 17
"""RQ waits for a job for 15 seconds less, so an idle worker sends a heartbeat every 2 seconds."""

ANSWER_SECONDS = 3
"""Timeout of a Redis call in a running job, if Redis hangs."""

ANNOUNCE_SECONDS = 3.0
"""Time between two announcements."""


LASTING_CODES = (CheckpointError.code, DeviceError.code, UnknownModel.code)
"""Codes of failures to load a model that a new start does not mend."""


class EngineUnusable(Exception):
    """The engine cannot load its model, so this worker cannot run jobs.

    Attributes:
        is_lasting: a new start with the same settings fails in the same way.
    """

    def __init__(self, model: str, reason: ChildFailure | ChildLost) -> None:
        super().__init__(f"cannot load {model}: {reason}")
        self.is_lasting = isinstance(reason, ChildFailure) and reason.error.code in LASTING_CODES


class OwnQueue(Queue):
    """A queue with a short maintenance lock.

    RQ's lock would block maintenance for a quarter of an hour if the worker that holds it dies.
    """

    def acquire_maintenance_lock(self) -> bool:
        """Take the lock for two maintenance intervals; return whether it was free."""
        key = self.registry_cleaning_key
        return bool(self.connection.set(key, 1, nx=True, ex=2 * MAINTENANCE_SECONDS))


class Supervisor(SimpleWorker):
    """An RQ worker on exactly one queue: with one queue, RQ moves a job without losing it."""

    queue_class = OwnQueue

    def __init__(
        self,
        settings: Settings,
        children: Children,
        records: RetryingRecords,
        store: ArtifactStore,
        shutdown: Shutdown,
    ) -> None:
        """Prepare to take jobs for `settings.model_name`; the engine may still be loading."""
        self._graceful_shutdown = shutdown
        self._serving = self._busy = False
        super().__init__(
            [queue_name(settings.model_name)],
            name=new_name(socket.gethostname()),
            connection=connect(settings.redis_url, self._is_patient),
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_SECONDS,
            maintenance_interval=MAINTENANCE_SECONDS,
            log_job_description=False,
        )
        self._settings = settings
        self._children = children
        self._records = records
        self._runner = Runner(settings, children, records, store, self.do_duties)
        self._running: tuple[Job, Execution] | None = None
        self._next_announcement = 0.0
        self._closed = False
        self._unfinished: JobHeld | ShuttingDown | None = None

    def await_engine(self) -> None:
        """Wait until the engine has loaded its model, and announce this worker meanwhile.

        Raises:
            EngineUnusable: the engine failed to load its model.
        """
        self._children.restart_dead_engine()
        engine = self._children.engine
        try:
            while engine.model is None:
                next_message(engine, Ready, self._announce_if_due)
        except (ChildFailure, ChildLost) as error:
            raise EngineUnusable(self._settings.model_name, error) from error
        self._announce()

    @property
    def is_shutdown_requested(self) -> bool:
        """Whether shutdown was requested. If not, RQ's loop ended by an unexpected error."""
        return self._graceful_shutdown.is_requested

    def announce_end(self) -> None:
        """Announce that this worker takes no more jobs.

        A model that was loaded stays known, and its jobs wait for the next worker. If the model
        could not be loaded, the announcement is removed.
        """
        if self._children.engine.model is None:
            self._records.remove_announcement(self.name)
            return
        self._closed = True
        with suppress(*UNREACHABLE):
            self._announce()

    def work(self, *arguments: Any, **options: Any) -> bool:
        """Take jobs until shutdown is requested, or until an error that RQ does not handle."""
        self._serving = True
        return super().work(*arguments, **options)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Let RQ call the task, which calls `_run_job`."""
        self._running = job, execution
        token = task.runner.set(self._run_job)
        try:
            return super().perform_job(job, queue, execution)
        finally:
            task.runner.reset(token)
            self._running = None

    def _run_job(self, job_id: str) -> None:
        """Run a job; `handle_job_success` handles one that has not ended."""
        self._busy, self._unfinished = True, None
        try:
            self._runner.run(job_id)
        except (JobHeld, ShuttingDown) as reason:
            self._unfinished = reason
        finally:
            self._busy = False

    def handle_job_success(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: StartedJobRegistry,  # noqa: ARG002
        execution: Execution,
    ) -> None:
        """Delete the delivery of a job that has ended; requeue a job that was handed back.

        A job that was handed back goes to the front of the queue. If another worker runs the job,
        its delivery stays. If Redis has lost the delivery's data, it cannot be requeued; the
        service makes a new delivery.

        RQ's own method loads all executions of the job first, and fails if one belongs to a worker
        that died a short time ago.
        """
        is_whole = bool(self.connection.hexists(job.key, "data"))
        with self.connection.pipeline() as pipeline:
            self.cleanup_execution(job, pipeline, execution)
            if self._unfinished is None or not is_whole:
                pipeline.delete(job.key, job.execution_registry.key)
            elif isinstance(self._unfinished, ShuttingDown):
                job.set_status(JobStatus.QUEUED, pipeline=pipeline)
                queue.push_job_id(job.id, pipeline=pipeline, at_front=True)
            pipeline.execute()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a job, then wait until the engine is ready for the next one."""
        super().execute_job(job, queue)
        if not self.is_shutdown_requested:
            self.await_engine()

    def do_duties(self) -> None:
        """Do the worker's other duties while a job runs.

        Raises:
            ShuttingDown: the drain time is over.
        """
        self._graceful_shutdown.check_shutdown()
        if self._running:
            self.maintain_heartbeats(*self._running)
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()  # type: ignore[no-untyped-call]

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Send RQ's heartbeat, idle or busy, and announce this worker."""
        super().heartbeat(timeout, pipeline)
        self._announce_if_due()

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        """Return the seconds of RQ's lease on a running job."""
        return LEASE_SECONDS

    @property
    def connection_timeout(self) -> int:
        """Timeout of a Redis call: the longest wait for a job plus 3 s, where RQ adds 10 s."""
        return self.dequeue_timeout + ANSWER_SECONDS

    def subscribe(self) -> None:
        """Do not listen for RQ's commands: jobs are canceled through their records."""

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Stop now if idle; otherwise start the drain time of the running job."""
        self._graceful_shutdown.request_shutdown()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """End the drain time: this is the second signal."""
        self._graceful_shutdown.request_shutdown()

    def teardown(self) -> None:
        """Remove this worker from RQ's lists; do nothing if Redis does not answer."""
        with suppress(*UNREACHABLE):
            super().teardown()  # type: ignore[no-untyped-call]

    def set_shutdown_requested_date(self) -> None:
        """Do not write the date: this runs in a signal handler, and the date is not read."""

    def _is_patient(self) -> bool:
        """Return whether to retry Redis calls; a running job continues without Redis."""
        return self._serving and not self._busy and not self.is_shutdown_requested

    def _announce_if_due(self) -> None:
        if time.monotonic() >= self._next_announcement:
            self._announce()

    def _announce(self) -> None:
        self._next_announcement = time.monotonic() + ANNOUNCE_SECONDS
        model = self._children.engine.model
        spec = model.spec if model else self._expected_spec()
        if spec is None:
            return
        stopping = self._closed or self.is_shutdown_requested
        try:
            announcement = Announcement(
                model=spec,
                checkpoint_sha256=model.checkpoint_sha256 if model else None,
                engine=self._settings.engine,
                device=model.device if model else self._settings.device,
                ready=self._children.ready and not stopping,
                seconds_per_job=self._runner.seconds_per_job,
                beat_at=self._records.now(),
            )
            self._records.announce(self.name, announcement)
        except UNREACHABLE:
            if not self._serving:
                raise

    def _expected_spec(self) -> ModelSpec | None:
        """Return the spec of the model while it loads, or None if its name is not known."""
        table = fake_engine.SPECS if self._settings.engine == "fake" else SPECS
        return table.get(self._settings.model_name)
