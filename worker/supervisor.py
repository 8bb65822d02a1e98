"""RQ worker that owns the engine and media processes and renews the job's lease while it runs.

RQ only delivers jobs, and delivers them again if a worker dies. The job's record and the store
decide whether a job runs, has failed or may be retried. While a job runs, `do_duties` does once a
second what RQ's own loop does between jobs: it renews RQ's lease, requeues the jobs of dead
workers, and announces this worker.
"""

import logging
import socket
import time
from contextlib import suppress
from datetime import datetime
from functools import partial
from types import FrameType
from typing import Any

from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from rollout_core import logs
from rollout_core.errors import (
    CheckpointError,
    DeviceError,
    JobHeld,
    OtherStore,
    StoreUnavailable,
    UnknownFormat,
    UnknownModel,
)
from rollout_core.jobs import records
from rollout_core.jobs.redis_records import Announcement, queue_name
from rollout_core.jobs.store import ArtifactStore
from rollout_core.model.specs import SPECS, ModelSpec
from worker import fake_engine, task
from worker.child import ChildFailure, ChildLost, next_message
from worker.children import Children
from worker.health import new_name
from worker.heartbeat import Shutdown, ShuttingDown, while_calling
from worker.messages import Ready
from worker.redis_jobs import UNREACHABLE, RetryingRecords, connect
from worker.rq_clock import RqClock
from worker.runner import Exhausted, JobMissing, Runner, StoreTrouble, stopping_if_exhausted
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

LOOK_SECONDS = 0.5
"""Pause before the next look at a store that cannot be used."""

MAX_PAUSE_SECONDS = 60.0
"""Longest pause after a job that found the store full or ill.

The first takes 1 s. Each that follows takes twice as long, until a job ends: a store with room for
a probe may still have too little for the job.
"""

MISSING_SECONDS = 5.0
"""Pause after a job that this store lacks, so that a worker whose store has it takes it."""

RIVAL_SECONDS = 0.5
"""Pause before the next look at workers that serve something else under the same name."""

HANDED_BACK = (ShuttingDown, StoreTrouble, Exhausted, JobMissing, OtherStore)
"""Why a job goes back to the queue."""

LASTING_CODES = (CheckpointError.code, DeviceError.code, UnknownModel.code)
"""Codes of failures to load a model that a new start does not mend."""

log = logging.getLogger(__name__)


class EngineUnusable(Exception):
    """The engine cannot load its model, so this worker cannot run jobs.

    Attributes:
        is_lasting: a new start with the same settings fails in the same way.
    """

    def __init__(self, model: str, reason: ChildFailure | ChildLost) -> None:
        super().__init__(f"cannot load {model}: {reason}")
        self.is_lasting = isinstance(reason, ChildFailure) and reason.error.code in LASTING_CODES


class NameTaken(Exception):
    """A live worker serves something else under the name of this worker's model."""


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
        """Prepare to take jobs for `settings.model_name`; the engine may still be loading.

        Attributes:
            exhausted: why this process cannot work any more, if so: it must be started again.
        """
        self._graceful_shutdown = shutdown
        self._serving = self._busy = False
        super().__init__(
            [queue_name(settings.model_name)],
            name=new_name(socket.gethostname()),
            connection=connect(settings.redis, self._is_patient),
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_SECONDS,
            maintenance_interval=MAINTENANCE_SECONDS,
            log_job_description=False,
        )
        self._settings = settings
        self._children = children
        self._records = records
        self._store = store
        self._identity = store.identity()
        self._runner = Runner(settings, children, records, store, self.do_duties)
        self._clock = RqClock()
        self._running: tuple[Job, Execution] | None = None
        self._next_announcement = 0.0
        self._closed = self._is_checked = self._name_taken = self._had_other_store = False
        self._unfinished: Exception | None = None
        self.exhausted: Exhausted | None = None
        self._pauses = 0
        self._unknown: set[str] = set()

    def await_engine(self) -> None:
        """Wait until the engine has loaded its model, and announce this worker meanwhile.

        Raises:
            EngineUnusable: the engine failed to load its model.
            Exhausted: no process can be started.
        """
        with stopping_if_exhausted():
            self._children.restart_dead()
        engine = self._children.engine
        try:
            while engine.model is None:
                next_message(engine, Ready, self._announce_if_due)
        except (ChildFailure, ChildLost) as error:
            raise EngineUnusable(self._settings.model_name, error) from error
        self._announce()

    def require_name(self) -> None:
        """Check that no live worker serves another checkpoint under the name of this model.

        Wait for a worker that does not announce itself any more until it counts as dead. Of two
        workers that start at the same time, the one with the lower name goes on.

        Raises:
            NameTaken: there is such a worker, and it is alive.
        """
        seen: dict[str, datetime] = {}
        while rivals := self._rivals():
            for name, rival in rivals.items():
                if seen.setdefault(name, rival.beat_at) != rival.beat_at:
                    self._name_taken = True
                    raise NameTaken(
                        f"worker {name} serves another checkpoint as {rival.model.name} "
                        f"({rival.engine}, {rival.checkpoint_sha256}); stop it first, or give "
                        "this model another name"
                    )
            self._announce_if_due()
            time.sleep(RIVAL_SECONDS)
        self._is_checked = True
        self._announce()

    def _rivals(self) -> dict[str, Announcement]:
        """Return the live workers that serve something else under the name of this model."""
        own = self._announcement()
        return {
            name: item
            for name, item in self._records.live_announcements().items()
            if own is not None
            and item.model.name == own.model.name
            and item.has_loaded
            and item.identity() != own.identity()
            and (item.takes_jobs or name < self.name)
        }

    @property
    def is_shutdown_requested(self) -> bool:
        """Whether shutdown was requested. If not, RQ's loop ended by an unexpected error."""
        return self._graceful_shutdown.is_requested

    def check_store(self) -> None:
        """Check that the store of the latest job was that of the service.

        Raises:
            OtherStore: it was not, and the worker has stopped.
        """
        if isinstance(self._unfinished, OtherStore):
            raise self._unfinished

    def announce_end(self) -> None:
        """Announce that this worker takes no more jobs.

        A model that was loaded stays known, and its jobs wait for the next worker. If the model
        could not be loaded, its name was taken or the service uses another store, the announcement
        is removed.
        """
        is_unusable = self._name_taken or isinstance(self._unfinished, OtherStore)
        if self._children.engine.model is None or is_unusable:
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
        """Run a job; `handle_job_success` handles one that has not ended.

        RQ must not see an error: it would deliver the job again at once, a thousand times.
        """
        self._busy, self._unfinished = True, None
        with logs.process_about(job_id=job_id):
            self._run_logged(job_id)

    def _run_logged(self, job_id: str) -> None:
        try:
            self._runner.run(job_id)
        except (JobHeld, *HANDED_BACK) as reason:
            self._unfinished = reason
        except UnknownFormat as reason:
            self._unfinished = reason
            if job_id not in self._unknown:
                self._unknown.add(job_id)
                log.warning("the job is left to a newer worker: %s", reason)
        except Exception as error:
            self._unfinished = error
            log.exception("the job is left to the service, which queues it again")
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

        A job that was handed back goes to the front of the queue, or to its end if this store lacks
        it or could not be used: it may serve others. If another worker runs the job, its
        delivery stays. Otherwise it is deleted too: the service makes a new one for a job that no
        worker has for some seconds. So does it if Redis has lost the delivery's data.

        RQ's own method loads all executions of the job first, and fails if one belongs to a worker
        that died a short time ago.
        """
        is_whole = bool(self.connection.hexists(job.key, "data"))
        with self.connection.pipeline() as pipeline:
            self.cleanup_execution(job, pipeline, execution)
            if isinstance(self._unfinished, HANDED_BACK) and is_whole:
                job.set_status(JobStatus.QUEUED, pipeline=pipeline)
                queue.push_job_id(job.id, pipeline=pipeline, at_front=not self._is_for_later())
            elif not isinstance(self._unfinished, JobHeld) or not is_whole:
                pipeline.delete(job.key, job.execution_registry.key)
            pipeline.execute()

    def _is_for_later(self) -> bool:
        """Return whether other jobs may fare better than the one that was handed back."""
        return isinstance(self._unfinished, JobMissing | StoreTrouble)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a job, then wait until the store and the engine are ready for the next one.

        A worker with another store than the service's stops. One whose store lacks a job pauses.
        """
        super().execute_job(job, queue)
        if isinstance(self._unfinished, OtherStore):
            raise StopRequested
        try:
            if isinstance(self._unfinished, Exhausted):
                raise self._unfinished
            if isinstance(self._unfinished, StoreTrouble):
                self._await_store()
            elif isinstance(self._unfinished, JobMissing):
                with suppress(ShuttingDown):
                    while_calling(self._idle, partial(time.sleep, MISSING_SECONDS))
            elif self._unfinished is None:
                self._pauses = 0
            if not self.is_shutdown_requested:
                self.await_engine()
        except Exhausted as error:
            self.exhausted = error
            raise StopRequested from error

    def _await_store(self) -> None:
        """Take no job until the store can be written, and say so; return at shutdown."""
        longest = min(MAX_PAUSE_SECONDS, 2.0**self._pauses)
        ends_at = time.monotonic() + longest
        self._pauses += 1
        self._runner.waiting_for = "store"
        log.warning("paused until the store can be written, for at least %g s", longest)
        self._announce()
        try:
            while time.monotonic() < ends_at or not self._is_store_well():
                while_calling(self._idle, partial(time.sleep, LOOK_SECONDS))
            log.warning("the store can be written again")
        except ShuttingDown:
            return
        finally:
            self._runner.waiting_for = None
        self._announce()

    def _is_store_well(self) -> bool:
        try:
            while_calling(self._idle, self._store.check_writable)
        except (StoreUnavailable, OSError):
            return False
        return True

    def _idle(self) -> None:
        """Do between jobs what RQ's own loop does while it waits for one.

        Raises:
            ShuttingDown: at once, because no job runs.
        """
        if self.is_shutdown_requested:
            raise ShuttingDown
        if time.monotonic() >= self._next_announcement:
            with suppress(*UNREACHABLE):
                self.heartbeat()
        self._maintain()

    def _maintain(self) -> None:
        """Requeue the jobs of dead workers; what is wrong with them must not hurt this one."""
        try:
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except UNREACHABLE:
            pass
        except Exception:
            log.exception("cannot look for the jobs of dead workers")

    def do_duties(self) -> None:
        """Do the worker's other duties while a job runs.

        Raises:
            ShuttingDown: the drain time is over.
        """
        self._graceful_shutdown.check_shutdown()
        if self._running:
            self.maintain_heartbeats(*self._running)
        self._maintain()

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
        try:
            announcement = self._announcement()
            if announcement is not None:
                self._records.announce(self.name, announcement)
        except UNREACHABLE:
            if not self._serving:
                raise

    def _announcement(self) -> Announcement | None:
        """Return what this worker announces now; None while its model loads and is not known."""
        model = self._children.engine.model
        spec = model.spec if model else self._expected_spec()
        if spec is None:
            return None
        stopping = self._closed or self.is_shutdown_requested
        waiting_for = "store" if self._has_other_store() else self._runner.waiting_for
        is_usable = self._children.ready and self._is_checked and not waiting_for
        return Announcement(
            model=spec,
            checkpoint_sha256=model.checkpoint_sha256 if model else None,
            engine=self._settings.engine,
            device=model.device if model else self._settings.device,
            gpu=self._children.gpu.measure() if self._children.gpu else None,
            precision=model.precision if model else None,
            ready=is_usable and not stopping,
            stopping=stopping,
            waiting_for=waiting_for,
            seconds_per_job=self._runner.seconds_per_job,
            counters=self._runner.counts.snapshot(self._children.restarts),
            beat_at=self._redis_now(),
        )

    def _has_other_store(self) -> bool:
        """Return whether the service uses another store now; log when that changes.

        A job would tell, too, but then a client has waited for it.
        """
        other = self._records.other_store(self._identity)
        if bool(other) != self._had_other_store:
            log.warning("%s", other or "the service uses the store of this worker again")
        self._had_other_store = bool(other)
        return self._had_other_store

    def _redis_now(self) -> datetime:
        """Return Redis' time, and let RQ use that clock too."""
        now = self._records.now()
        self._clock.set(now)
        return now

    def _expected_spec(self) -> ModelSpec | None:
        """Return the spec of the model while it loads, or None if its name is not known."""
        table = fake_engine.SPECS if self._settings.engine == "fake" else SPECS
        return table.get(self._settings.model_name)
