"""Runs a delivered job: makes attempts until the job has ended.

    delivered ──claim──▶ attempt ──▶ published, failed or canceled
                  ▲         │
                  ╰─────────╯ a child was lost, an internal error, or the job was lost

After an attempt its folder is published or moved away, and a dead engine is restarted before the
next one. If another worker's attempt is alive, the runner waits for up to `HELD_SECONDS` and then
gives up: that attempt has its own delivery, and RQ requeues it if that worker dies.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from rollout_core.errors import (
    AttemptLost,
    DeadlineExceeded,
    JobHeld,
    RolloutError,
    WorkerCrashed,
)
from rollout_core.jobs.records import LEASE_SECONDS, Ended, JobError, JobRecord
from rollout_core.jobs.store import ArtifactStore, unavailable
from worker.attempt import Attempt, AttemptInput
from worker.children import ChildFailure, ChildLost, Children
from worker.heartbeat import Canceled, ShuttingDown
from worker.redis_jobs import UNREACHABLE, RetryingRecords
from worker.settings import Settings

WORKER_DIED = "the worker died"
"""Cause of an attempt's end if that attempt could not report one."""

REMEMBERED_ATTEMPTS = 20
"""Number of attempts in the mean that is announced."""

WAIT_SECONDS = 0.5
"""Pause before the next try to claim the job, or to store its end."""

HELD_SECONDS = 2 * LEASE_SECONDS
"""Stop waiting after this long: the other attempt is healthy, and this worker can take another job.
"""

log = logging.getLogger(__name__)


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
        """
        self.children = children
        self._settings = settings
        self._records = records
        self._store = store
        self._do_duties = do_duties
        self._latest_seconds: deque[float] = deque(maxlen=REMEMBERED_ATTEMPTS)

    @property
    def seconds_per_job(self) -> float | None:
        """Mean duration of the latest attempts, or None before the first."""
        latest = self._latest_seconds
        return sum(latest) / len(latest) if latest else None

    def run(self, job_id: str) -> None:
        """Make attempts until the job has ended; return at once if it is unknown or has ended.

        Raises:
            JobHeld: another worker runs the job.
            JobMissing: this store lacks the job.
            OtherStore: the service uses another store than this worker.
            ShuttingDown: the worker stops now. The attempt was handed back and does not count.
        """
        cause = WORKER_DIED
        while (record := self._claim(job_id)) is not None:
            if record.over:
                self._end_claimed(job_id, record, cause)
                break
            log.info("job %s: attempt %d", job_id, record.attempt)
            began = time.monotonic()
            self.children.restart_dead_engine()
            try:
                self._try(job_id, record)
            except ShuttingDown:
                log.info("job %s: attempt %d: handed back", job_id, record.attempt)
                self._records.hand_back(job_id, record.attempt)
                raise
            except ChildLost as lost:
                cause = str(lost)
                log.warning("job %s: attempt %d: %s", job_id, record.attempt, cause)
                self._records.release(job_id, record.attempt)
            except Exception:
                cause = "an internal error"
                log.exception("job %s: attempt %d", job_id, record.attempt)
                self._records.release(job_id, record.attempt)
            finally:
                self._latest_seconds.append(time.monotonic() - began)
        if self._store.has_ended(job_id):
            self._store.end_attempts(job_id)
        elif not self._store.exists(job_id):
            self._check_missing(job_id)
        self._records.wait_for_redis()

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
                log.warning("job %s is not in this store, but it was not deleted", job_id)
                raise JobMissing(job_id)
        log.info("job %s was deleted", job_id)

    def _claim(self, job_id: str) -> JobRecord | None:
        """Claim the job as soon as no other attempt is alive; return None if it has ended.

        Raises:
            JobHeld: another attempt is still alive after HELD_SECONDS.
        """
        give_up = time.monotonic() + HELD_SECONDS
        while self._store.is_open(job_id):
            try:
                return self._records.claim(job_id, max_attempts=self._settings.max_attempts)
            except JobHeld:
                if time.monotonic() > give_up:
                    raise
                self._wait()
            except AttemptLost:
                break
        return None

    def _try(self, job_id: str, record: JobRecord) -> None:
        """Make one attempt, and end the job unless another attempt should follow.

        Raises:
            ChildLost, ShuttingDown: another attempt should follow.
        """
        try:
            result = Attempt(
                self._input(job_id, record.attempt),
                self.children,
                self._records,
                self._do_duties,
            ).run()
            self._store.publish(job_id, record.attempt, result)
            self._records.delete_record(job_id)
            log.info("job %s: succeeded", job_id)
        except AttemptLost as lost:
            log.info("job %s: attempt %d stopped: %s", job_id, record.attempt, lost)
        except Canceled:
            self._end(job_id, record.ended("canceled", datetime.now(UTC)))
        except ChildFailure as failure:
            self._fail(job_id, record, failure.error)
        except RolloutError as error:
            self._fail(job_id, record, job_error(error))
            if isinstance(error, DeadlineExceeded) and self.children.engine.busy:
                self.children.engine.kill()
        except OSError as error:
            detail = f"the result cannot be stored: {error.strerror}"
            self._fail(job_id, record, job_error(unavailable(error, detail)))

    def _end_claimed(self, job_id: str, record: JobRecord, cause: str) -> None:
        """End a job that was canceled, or that has no attempts left.

        Args:
            cause: why the last attempt ended.
        """
        if record.cancel_requested:
            self._end(job_id, record.ended("canceled", datetime.now(UTC)))
            return
        error = WorkerCrashed(f"all {record.attempt} attempts ended early; last: {cause}")
        self._end(job_id, record.ended("failed", datetime.now(UTC), job_error(error)))

    def _fail(self, job_id: str, record: JobRecord, error: JobError) -> None:
        """End the job as failed, unless a newer attempt has claimed it."""
        try:
            self._records.require(job_id, record.attempt)
        except AttemptLost as lost:
            log.info("job %s: attempt %d stopped: %s", job_id, record.attempt, lost)
            return
        self._end(job_id, record.ended("failed", datetime.now(UTC), error))

    def _end(self, job_id: str, ended: Ended) -> None:
        """End the job without a result; retry until the disk has room for the end."""
        self._store.end_attempts(job_id)
        while True:
            try:
                self._store.end(job_id, ended)
            except AttemptLost as lost:
                log.info("job %s: %s", job_id, lost)
            except OSError as error:
                log.warning("job %s: its end cannot be stored: %s", job_id, error)
                self._wait()
                continue
            break
        self._records.delete_record(job_id)
        log.info("job %s: %s: %s", job_id, ended.state, ended.error and ended.error.detail)

    def _wait(self) -> None:
        """Pause, then do the worker's other duties."""
        time.sleep(WAIT_SECONDS)
        with suppress(*UNREACHABLE):
            self._do_duties()

    def _input(self, job_id: str, attempt: int) -> AttemptInput:
        """Create the attempt's folder; raise `AttemptLost` if the job was deleted."""
        ticket = self._store.ticket(job_id)
        if ticket is None:
            raise AttemptLost("the job has been deleted")
        return AttemptInput(
            id=job_id,
            attempt=attempt,
            request=ticket.request,
            upload=self._store.upload_path(job_id).resolve(),
            folder=self._store.begin_attempt(job_id, attempt).resolve(),
            deadline_seconds=self._settings.job_deadline_seconds,
            engine_timeout_seconds=self._settings.engine_timeout_seconds,
            media_timeout_seconds=self._settings.media_timeout_seconds,
        )


def job_error(error: RolloutError) -> JobError:
    """Return a deliberate failure in the form that clients get."""
    return JobError(code=error.code, title=error.title, detail=str(error))
