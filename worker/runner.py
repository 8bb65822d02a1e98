"""Runs a delivered job: makes attempts until the job has ended.

    delivered ──claim──▶ attempt ──▶ published, failed or canceled
                  ▲         │
                  ╰─────────╯ a child was lost, an internal error, or the job was lost

After an attempt its folder is published or moved away, and a dead engine is restarted before the
next one. If another worker's attempt is alive, the runner waits for up to `HELD_SECONDS` and then
gives up: that attempt has its own delivery, and RQ requeues it if that worker dies.

What is not the job's fault does not end it. If the store is full or ill, or the machine is
exhausted, the attempt is handed back and does not count. A job in a format that this version does
not know is left to a worker that knows it.
"""

import logging
import resource
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from rollout_core import tracing
from rollout_core.errors import (
    AttemptLost,
    DeadlineExceeded,
    JobHeld,
    RolloutError,
    StoreFull,
    StoreUnavailable,
    UnknownFormat,
    WorkerCrashed,
)
from rollout_core.jobs.records import (
    LEASE_SECONDS,
    Ended,
    JobError,
    JobRecord,
    Origin,
    Ticket,
)
from rollout_core.jobs.store import FULL, ILL, ArtifactStore
from worker import job_trace
from worker.attempt import Attempt, AttemptInput
from worker.child import EXHAUSTED, ChildFailure, ChildLost
from worker.children import Children
from worker.counts import Counts
from worker.fake_script import script_of
from worker.heartbeat import Canceled, Heartbeat, Pulse, ShuttingDown
from worker.redis_jobs import UNREACHABLE, RetryingRecords
from worker.settings import Settings
from worker.work_estimate import WorkLimits

WORKER_DIED = "the worker died"
"""Cause of an attempt's end if that attempt could not report one."""

REMEMBERED_ATTEMPTS = 20
"""Number of attempts in the mean that is announced."""

ROOM_BYTES = 64 * 1024**2
"""A disk with less room than this may be too full for a result."""

WAIT_SECONDS = 0.5
"""Pause before the next try to claim the job, or to store its end."""

HELD_SECONDS = 2 * LEASE_SECONDS
"""Stop waiting after this long: the other attempt is healthy, and this worker can take another job.
"""

STORE_CODES = (StoreFull.code, StoreUnavailable.code)
"""Codes with which a media process says that it could not write."""

log = logging.getLogger(__name__)


class StoreTrouble(Exception):
    """The store cannot be used now. The job goes back to the queue, and its attempt is not counted.

    Attributes:
        full: whether it has no room, rather than being ill.
    """

    def __init__(self, text: str, *, full: bool) -> None:
        super().__init__(f"the store cannot be used: {text}")
        self.full = full


class Exhausted(Exception):
    """This process or machine has no descriptors, memory or processes left. The job goes back."""


@contextmanager
def stopping_if_exhausted() -> Iterator[None]:
    """Raise `Exhausted` in place of an OSError that says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in EXHAUSTED:
            raise
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise Exhausted(
            f"this worker cannot go on: {error.strerror} (it may open {files} files); "
            "its job goes back to the queue"
        ) from error


class JobMissing(Exception):
    """This store lacks a job that the service has. It may be a copy of the service's, or lag."""


class Runner:
    """Runs jobs, one at a time."""

    def __init__(
        self,
        settings: Settings,
        children: Children,
        records: RetryingRecords,
        store: ArtifactStore,
        do_duties: Callable[[], None],
    ) -> None:
        """Keep what jobs need.

        Args:
            do_duties: called during a job, with each heartbeat and each wait.

        Attributes:
            waiting_for: what this worker waits for instead of working; to be announced.
            counts: what it has done; to be announced.
        """
        self.children = children
        self._settings = settings
        self._records = records
        self._store = store
        self._do_duties = do_duties
        self.waiting_for: Literal["store"] | None = None
        self.counts = Counts()
        self._latest_seconds: deque[float] = deque(maxlen=REMEMBERED_ATTEMPTS)

    @property
    def seconds_per_job(self) -> float | None:
        """Mean duration of the latest attempts; before the first, that of a clip, if known."""
        latest = self._latest_seconds
        if latest:
            return sum(latest) / len(latest)
        model = self.children.engine.model
        return (model.clip_seconds or None) if model else None

    def run(self, job_id: str) -> None:
        """Make attempts until the job has ended; return at once if it is unknown or has ended.

        Raises:
            JobHeld: another worker runs the job.
            JobMissing: this store lacks the job.
            OtherStore: the service uses another store than this worker.
            ShuttingDown: the worker stops now.
            StoreTrouble: the store is full or ill.
            Exhausted: this process cannot work any more.
            UnknownFormat: a newer version wrote the job. No attempt was made.

        An attempt that was claimed was handed back, and does not count.
        """
        with self._blaming_the_store():
            ticket = self._store.ticket(job_id)
        if ticket is not None:
            origin = self._store.origin(job_id)
            with job_trace.of_job(ticket, origin):
                self._make_attempts(ticket, origin)
        with self._blaming_the_store():
            if self._store.has_ended(job_id):
                self._store.end_attempts(job_id)
            elif not self._store.exists(job_id):
                self._check_store()
                self._check_missing(job_id)
                self._store.end_attempts(job_id)  # files on this machine
        self._records.wait_for_redis()

    def _make_attempts(self, ticket: Ticket, origin: Origin) -> None:
        """Make attempts until the job has ended; see `run`."""
        job_id = ticket.id
        cause = WORKER_DIED
        while (record := self._claim(job_id)) is not None:
            if record.over:
                self._end_claimed(job_id, record, cause)
                break
            with job_trace.of_attempt(ticket, record, origin):
                cause = self._make_attempt(ticket, record) or cause

    def _make_attempt(self, ticket: Ticket, record: JobRecord) -> str | None:
        """Make one attempt; return why another one should follow, if so."""
        job_id = ticket.id
        log.info("the attempt begins")
        self.counts.attempts += 1
        began = time.monotonic()
        try:
            with self._blaming_the_store(self._pulse(job_id, record).during):
                self.children.wake()
                self.children.restart_dead()
                self._try(ticket, record)
        except AttemptLost as lost:
            log.info("the attempt stopped: %s", lost)
        except (ShuttingDown, StoreTrouble, Exhausted) as reason:
            text = f": {reason}" if str(reason) else ""
            log.warning("handed back%s", text)
            self._leave(job_id, record, self._records.hand_back, reason)
            raise
        except UnknownFormat:
            raise  # nor can this version change the record
        except ChildLost as lost:
            log.warning("the attempt failed: %s", lost)
            tracing.annotate(job_trace.LOST)
            self._leave(job_id, record, self._records.release)
            return str(lost)
        except Exception:
            log.exception("the attempt failed")
            tracing.annotate(job_trace.LOST)
            self._leave(job_id, record, self._records.release)
            return "an internal error"
        finally:
            self._latest_seconds.append(time.monotonic() - began)
        return None

    def _leave(
        self,
        job_id: str,
        record: JobRecord,
        end_lease: Callable[[str, int, str | None], None],
        reason: Exception | None = None,
    ) -> None:
        """Remove what the attempt has written, then end its lease.

        A worker that stops leaves that to the next attempt. A store that is ill may keep it.
        """
        if not isinstance(reason, ShuttingDown):
            remove = partial(self._store.end_attempt, job_id, record.attempt, record.token)
            with suppress(OSError, RolloutError, ShuttingDown):
                self._pulse(job_id, record).during(remove)
        end_lease(job_id, record.attempt, record.token)

    @contextmanager
    def _blaming_the_store(
        self, during: Callable[[Callable[[], None]], None] = lambda check: check()
    ) -> Iterator[None]:
        """Raise `StoreTrouble` or `Exhausted` in place of an error that is not the job's fault.

        An error of another kind may still come from a store that is gone, so the store is checked.

        Args:
            during: calls the check of the store, and renews the lease meanwhile.
        """
        try:
            with stopping_if_exhausted():
                yield
        except AttemptLost:  # or its folder is missing because the store is gone
            during(self._check_store)
            raise
        except OSError as error:
            if error.errno in FULL:
                raise StoreTrouble(str(error), full=True) from error
            during(self._check_store)
            if error.errno in ILL and not self._store.blames_one_job(error):
                raise StoreTrouble(str(error), full=False) from error
            raise

    def _check_store(self) -> None:
        """Raise `StoreTrouble` if the store cannot be written."""
        try:
            self._store.check_writable()
        except StoreUnavailable as error:
            full = isinstance(error, StoreFull)
            raise StoreTrouble(str(error.__cause__ or error), full=full) from error

    def _check_missing(self, job_id: str) -> None:
        """Find out why a delivered job is not in this store; return if it was deleted.

        Raises:
            OtherStore: the service uses another store.
            JobMissing: the service has the job.
        """
        self._records.require_store(self._store.identity())
        if self._records.has_record(job_id):
            time.sleep(WAIT_SECONDS)  # the service deletes the folder first, then the record
            if self._records.has_record(job_id) and not self._store.exists(job_id):
                log.warning("the job is not in this store, but it was not deleted")
                raise JobMissing(job_id)
        log.info("the job was deleted")

    def _claim(self, job_id: str) -> JobRecord | None:
        """Claim the job as soon as no other attempt is alive; return None if it has ended.

        Raises:
            JobHeld: another attempt is still alive after HELD_SECONDS.
        """
        give_up = time.monotonic() + HELD_SECONDS
        while self._is_open(job_id):
            try:
                return self._records.claim(
                    job_id, max_attempts=self._settings.max_attempts, token=uuid.uuid4().hex
                )
            except JobHeld:
                if time.monotonic() > give_up:
                    raise
                self._wait()
            except AttemptLost:
                break
        return None

    def _is_open(self, job_id: str) -> bool:
        with self._blaming_the_store():
            return self._store.is_open(job_id)

    def _try(self, ticket: Ticket, record: JobRecord) -> None:
        """Make one attempt, and end the job unless another attempt should follow.

        Raises:
            ChildLost, ShuttingDown, OSError: another attempt should follow.
            AttemptLost, UnknownFormat: another worker has the job.
        """
        job_id = ticket.id
        heartbeat = Heartbeat(
            job_id,
            record.attempt,
            self._settings.job_deadline_seconds,
            self.children,
            self._records,
            self._try_duties,
            record.token,
        )
        try:
            job = heartbeat.during(partial(self._input, ticket, record))
            attempt = Attempt(job, self.children, heartbeat, self.counts)
            with job_trace.of_stages(attempt):
                result = attempt.run()
            with tracing.span("publish"):
                heartbeat.during(
                    partial(self._store.publish, job_id, record.attempt, result, record.token)
                )
            self.counts.jobs["succeeded"] += 1
            self._records.delete_record(job_id)
            job_trace.log_end("succeeded", heartbeat.seconds)
        except (AttemptLost, UnknownFormat):
            raise
        except Canceled:
            self._end(job_id, record, record.ended("canceled", self._now()))
        except ChildFailure as failure:
            self._check_complaint(job_id, record, failure.error)
            self._fail(job_id, record, failure.error)
        except RolloutError as error:
            self._fail(job_id, record, job_error(error))
            if isinstance(error, DeadlineExceeded) and self.children.engine.busy:
                self.children.engine.kill()

    def _check_complaint(self, job_id: str, record: JobRecord, error: JobError) -> None:
        """Check whether the store is ill, if a child says so: a video may have compromised it.

        A disk that was full may have room again: the child has removed what did not fit.

        Raises:
            StoreTrouble: it is, or has less room than a result may need.
            ChildLost: it is not.
        """
        if error.code in STORE_CODES:
            self._pulse(job_id, record).during(self._check_store)
            if error.code == StoreFull.code and self._store.free_bytes() < ROOM_BYTES:
                raise StoreTrouble(error.detail, full=True)
            raise ChildLost(f"a child could not write, but the store is well: {error.detail}")

    def _end_claimed(self, job_id: str, record: JobRecord, cause: str) -> None:
        """End a job that was canceled, or that has no attempts left.

        Args:
            cause: why the last attempt ended.
        """
        if record.cancel_requested:
            self._end(job_id, record, record.ended("canceled", self._now()))
            return
        error = WorkerCrashed(f"all {record.attempt} attempts ended early; last: {cause}")
        self._end(job_id, record, record.ended("failed", self._now(), job_error(error)))

    def _fail(self, job_id: str, record: JobRecord, error: JobError) -> None:
        """End the job as failed, unless a newer attempt has claimed it."""
        try:
            self._records.require(job_id, record.attempt, record.token)
        except AttemptLost as lost:
            log.info("the attempt stopped: %s", lost)
            return
        self._end(job_id, record, record.ended("failed", self._now(), error))

    def _end(self, job_id: str, record: JobRecord, ended: Ended) -> None:
        """End the job without a result; hold its lease and retry until the store takes the end.

        Raises:
            ShuttingDown: the worker stops now. Once the lease has run out, another worker ends it.
            Exhausted: this process cannot work any more.
        """
        pulse = self._pulse(job_id, record)

        def end() -> None:
            try:
                self._store.end_attempts(job_id)
            except OSError as error:  # `end` stops late attempts, too
                if not self._store.blames_one_job(error):
                    raise
            self._store.end(job_id, ended)

        try:
            while not self._stored(partial(pulse.during, end)):
                self.waiting_for = "store"
                pulse.during(partial(time.sleep, WAIT_SECONDS))
        except AttemptLost as lost:
            log.info("the job was not ended: %s", lost)
            return
        finally:
            self.waiting_for = None
        self.counts.jobs[ended.state] += 1
        self._records.delete_record(job_id)
        seconds = (ended.ended_at - (ended.started_at or ended.ended_at)).total_seconds()
        job_trace.log_end(ended.state, seconds, ended.error.detail if ended.error else None)

    def _stored(self, write: Callable[[], None]) -> bool:
        """Write the end of a job; return False, and log it once, if the store does not take it."""
        try:
            with stopping_if_exhausted():
                write()
        except OSError as error:
            if self.waiting_for is None:
                log.warning("the end of the job waits for the store: %s", error)
            return False
        return True

    def _pulse(self, job_id: str, record: JobRecord) -> Pulse:
        return Pulse(job_id, record.token, self._records, self._try_duties)

    def _try_duties(self) -> None:
        """Do the worker's other duties; an error in them must not stop what protects the job."""
        try:
            self._do_duties()
        except (ShuttingDown, *UNREACHABLE):
            raise
        except Exception:
            log.exception("a duty failed")

    def _wait(self) -> None:
        """Pause, then do the worker's other duties."""
        time.sleep(WAIT_SECONDS)
        with suppress(*UNREACHABLE):
            self._do_duties()

    def _now(self) -> datetime:
        """Return Redis' time; that of this machine while Redis does not answer."""
        try:
            return self._records.now()
        except UNREACHABLE:
            return datetime.now(UTC)

    def _input(self, ticket: Ticket, record: JobRecord) -> AttemptInput:
        """Create the attempt's folder; raise `AttemptLost` if the job was deleted."""
        folder = self._store.begin_attempt(ticket.id, record.attempt, record.token)
        return AttemptInput(
            id=ticket.id,
            attempt=record.attempt,
            request=ticket.request,
            upload=self._store.stage_upload(ticket.id, folder).resolve(),
            folder=folder.resolve(),
            started_at=record.started_at or self._now(),
            deadline_seconds=self._settings.job_deadline_seconds,
            engine_timeout_seconds=self._settings.engine_timeout_seconds,
            media_timeout_seconds=self._settings.media_timeout_seconds,
            limits=WorkLimits(
                max_forwards=self._settings.max_forwards,
                max_array_bytes=self._settings.max_array_bytes,
            ),
            script=script_of(ticket.request, self._settings.engine),
        )


def job_error(error: RolloutError) -> JobError:
    """Return a deliberate failure in the form that clients get."""
    return JobError(code=error.code, title=error.title, detail=str(error))
