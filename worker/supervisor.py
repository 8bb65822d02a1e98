"""The process that takes jobs: an RQ worker that keeps its children, its lease and its word.

RQ delivers and redelivers; whether a job runs, has failed or may be tried again is decided by
its record and the store. While a job runs here, `do_duties` does what RQ's own loop does between
jobs, once a second: it renews the lease, requeues what dead workers left, and announces us.
"""

import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from rollout_core.errors import JobHeld
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
"""RQ's lease on a running job; it would be of no use to deliver one that cannot be claimed."""

MAINTENANCE_SECONDS = 5
"""How often a worker looks for jobs whose lease has run out."""

WORKER_TTL_SECONDS = 17
"""RQ waits for a job 15 seconds less than this, so an idle worker beats every 2 seconds."""

ANSWER_SECONDS = 3
"""A running job waits so long for a Redis that hangs."""

ANNOUNCE_SECONDS = 3.0


class EngineUnusable(Exception):
    """The engine cannot load its model, so this worker can serve nobody."""


class OwnQueue(Queue):
    """A queue whose maintenance lock does not outlive a dead worker by a quarter of an hour."""

    def acquire_maintenance_lock(self) -> bool:
        """Take the lock for a little longer than maintenance lasts."""
        key = self.registry_cleaning_key
        return bool(self.connection.set(key, 1, nx=True, ex=2 * MAINTENANCE_SECONDS))


class Supervisor(SimpleWorker):
    """An RQ worker on exactly one queue, which makes RQ's delivery free of loss."""

    queue_class = OwnQueue

    def __init__(
        self,
        settings: Settings,
        children: Children,
        records: RetryingRecords,
        store: ArtifactStore,
        shutdown: Shutdown,
    ) -> None:
        """Listen for `settings.model_name`'s jobs; the children may still be loading."""
        self._graceful_shutdown = shutdown
        self._serving = self._busy = False
        super().__init__(
            [queue_name(settings.model_name)],
            name=new_name(socket.gethostname()),
            connection=connect(settings.redis_url, self._may_wait),
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
        self._leaving = False
        self._undone: JobHeld | ShuttingDown | None = None

    def await_engine(self) -> None:
        """Wait until the engine has loaded its model, announcing that it is about to.

        Raises:
            EngineUnusable: it will not.
        """
        self._children.restart_dead_engine()
        engine = self._children.engine
        try:
            while engine.model is None:
                next_message(engine, Ready, self._announce_if_due)
        except (ChildFailure, ChildLost) as error:
            raise EngineUnusable(f"cannot load {self._settings.model_name}: {error}") from error
        self._announce()

    @property
    def told_to_leave(self) -> bool:
        """Whether a signal has come; RQ's loop also ends for what it does not expect."""
        return self._graceful_shutdown.told

    def leave(self) -> None:
        """Announce that we take no more jobs. A model that we have served stays known.

        Its jobs wait for the next worker; one that we could not load is forgotten.
        """
        if self._children.engine.model is None:
            self._records.withdraw(self.name)
            return
        self._leaving = True
        with suppress(*UNREACHABLE):
            self._announce()

    def work(self, *arguments: Any, **options: Any) -> bool:
        """Take jobs until told to leave, or until an error that RQ does not expect."""
        self._serving = True
        return super().work(*arguments, **options)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Let RQ call the task, which hands the job to us."""
        self._running = job, execution
        token = task.runner.set(self._carry_out)
        try:
            return super().perform_job(job, queue, execution)
        finally:
            task.runner.reset(token)
            self._running = None

    def _carry_out(self, job_id: str) -> None:
        """Run a job; for one that we leave undone see `handle_job_success`."""
        self._busy, self._undone = True, None
        try:
            self._runner.run(job_id)
        except (JobHeld, ShuttingDown) as reason:
            self._undone = reason
        finally:
            self._busy = False

    def handle_job_success(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: StartedJobRegistry,  # noqa: ARG002
        execution: Execution,
    ) -> None:
        """Forget a delivery whose job has ended; put one that was handed back first in its queue.

        That of a job which another worker has is left to that one. RQ would look for every other
        execution first, and fail where a worker died lately. What Redis has forgotten of a
        delivery cannot be put back: the service makes another.
        """
        is_whole = bool(self.connection.hexists(job.key, "data"))
        with self.connection.pipeline() as pipeline:
            self.cleanup_execution(job, pipeline, execution)
            if self._undone is None or not is_whole:
                pipeline.delete(job.key, job.execution_registry.key)
            elif isinstance(self._undone, ShuttingDown):
                job.set_status(JobStatus.QUEUED, pipeline=pipeline)
                queue.push_job_id(job.id, pipeline=pipeline, at_front=True)
            pipeline.execute()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Carry a job out, and take no other before the engine is fit for it."""
        super().execute_job(job, queue)
        if not self.told_to_leave:
            self.await_engine()

    def do_duties(self) -> None:
        """Keep up the worker's other duties while a job runs.

        Raises:
            ShuttingDown: there is no more time for it.
        """
        self._graceful_shutdown.require_stay()
        if self._running:
            self.maintain_heartbeats(*self._running)
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()  # type: ignore[no-untyped-call]

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Beat as RQ does, idle or busy, and announce ourselves."""
        super().heartbeat(timeout, pipeline)
        self._announce_if_due()

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        """Return how long RQ leaves a job to us without a beat."""
        return LEASE_SECONDS

    @property
    def connection_timeout(self) -> int:
        """Seconds that a call may take beside the longest wait for a job: RQ has 10."""
        return self.dequeue_timeout + ANSWER_SECONDS

    def subscribe(self) -> None:
        """Take no commands over pub/sub: jobs are canceled through their records."""

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Leave now, or give the job that runs its time."""
        self._graceful_shutdown.tell()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Give the job that runs no more time: told twice."""
        self._graceful_shutdown.tell()

    def teardown(self) -> None:
        """Sign off, if there is a Redis to hear it."""
        with suppress(*UNREACHABLE):
            super().teardown()  # type: ignore[no-untyped-call]

    def set_shutdown_requested_date(self) -> None:
        """Leave Redis alone: this is called inside a signal handler, and nobody reads it."""

    def _may_wait(self) -> bool:
        """Whether RQ shall wait for Redis; a job that runs goes on without."""
        return self._serving and not self._busy and not self.told_to_leave

    def _announce_if_due(self) -> None:
        if time.monotonic() >= self._next_announcement:
            self._announce()

    def _announce(self) -> None:
        self._next_announcement = time.monotonic() + ANNOUNCE_SECONDS
        model = self._children.engine.model
        spec = model.spec if model else self._expected_spec()
        if spec is None:
            return
        announcement = Announcement(
            model=spec,
            checkpoint_sha256=model.checkpoint_sha256 if model else None,
            engine=self._settings.engine,
            device=model.device if model else self._settings.device,
            ready=self._children.ready and not self._leaving and not self.told_to_leave,
            seconds_per_job=self._runner.seconds_per_job,
            beat_at=datetime.now(UTC),
        )
        try:
            self._records.announce(self.name, announcement)
        except UNREACHABLE:
            if not self._serving:
                raise

    def _expected_spec(self) -> ModelSpec | None:
        """Return what the tables say of the model while it loads."""
        table = fake_engine.SPECS if self._settings.engine == "fake" else SPECS
        return table.get(self._settings.model_name)
