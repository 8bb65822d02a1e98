"""A job from its delivery to its end: attempt after attempt, until one is the last.

    delivered ──claim──▶ attempt ──▶ published, failed or canceled
                  ▲         │
                  ╰─────────╯ a child was lost, something of ours broke, or another has the job

However an attempt ends, its folder is gone or published, and the next finds a whole children. While
another worker's attempt lives, a delivery waits for it; not for ever, for that has its own.
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

FORMER_DEATH = "the worker died"
"""Why an attempt ended that did not live to say so."""

REMEMBERED_ATTEMPTS = 20

WAIT_SECONDS = 0.5
"""How often to ask whether another worker's attempt still lives."""

HELD_SECONDS = 2 * LEASE_SECONDS
"""An attempt that still beats after so long is well, and who waits for it could serve others."""

log = logging.getLogger(__name__)


class Runner:
    """Carries out jobs, one at a time."""

    def __init__(
        self,
        settings: Settings,
        children: Children,
        records: RetryingRecords,
        store: ArtifactStore,
        do_duties: Callable[[], None],
    ) -> None:
        """Collect what jobs need; `do_duties` keeps the worker's other duties alive during one."""
        self._settings = settings
        self._children = children
        self._records = records
        self._store = store
        self._do_duties = do_duties
        self._latest_seconds: deque[float] = deque(maxlen=REMEMBERED_ATTEMPTS)

    @property
    def seconds_per_job(self) -> float | None:
        """Mean of the latest attempts, or None before the first."""
        latest = self._latest_seconds
        return sum(latest) / len(latest) if latest else None

    def run(self, job_id: str) -> None:
        """Bring a job to its end, or see it come to its end; return at once if it is gone.

        Raises:
            JobHeld: another worker has it, and will bring it to its end.
            ShuttingDown: the worker goes. The job is as if this attempt had never begun.
        """
        cause = FORMER_DEATH
        while (record := self._claim(job_id)) is not None:
            if record.over:
                self._give_up(job_id, record, cause)
                break
            log.info("job %s: attempt %d", job_id, record.attempt)
            began = time.monotonic()
            self._children.restart_dead_engine()
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
            log.warning("job %s is not in this store: deleted, or the service has another", job_id)
        self._records.await_redis()

    def _claim(self, job_id: str) -> JobRecord | None:
        """Take the job as soon as no other attempt lives; return None once it has ended.

        Raises:
            JobHeld: the other attempt goes on and on.
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
        """Make one attempt, and end the job unless the next shall."""
        try:
            result = Attempt(
                self._input(job_id, record.attempt),
                self._children,
                self._records,
                self._do_duties,
            ).run()
            self._store.publish(job_id, record.attempt, result)
            self._records.forget(job_id)
            log.info("job %s: succeeded", job_id)
        except AttemptLost as lost:
            log.info("job %s: dropped: %s", job_id, lost)
        except Canceled:
            self._end(job_id, record.ended("canceled", datetime.now(UTC)))
        except ChildFailure as failure:
            self._fail(job_id, record, failure.error)
        except RolloutError as error:
            self._fail(job_id, record, job_error(error))
            if isinstance(error, DeadlineExceeded) and self._children.engine.busy:
                self._children.engine.kill()
        except OSError as error:
            detail = f"the result cannot be stored: {error.strerror}"
            self._fail(job_id, record, job_error(unavailable(error, detail)))

    def _give_up(self, job_id: str, record: JobRecord, cause: str) -> None:
        """End a job that was to be canceled, or whose attempts are used up by such causes."""
        if record.cancel_requested:
            self._end(job_id, record.ended("canceled", datetime.now(UTC)))
            return
        error = WorkerCrashed(f"all {record.attempt} attempts ended early; last: {cause}")
        self._end(job_id, record.ended("failed", datetime.now(UTC), job_error(error)))

    def _fail(self, job_id: str, record: JobRecord, error: JobError) -> None:
        """End a job as failed, unless a newer attempt has it."""
        try:
            self._records.require(job_id, record.attempt)
        except AttemptLost as lost:
            log.info("job %s: dropped: %s", job_id, lost)
            return
        self._end(job_id, record.ended("failed", datetime.now(UTC), error))

    def _end(self, job_id: str, ended: Ended) -> None:
        """End a job without a result, however long the disk takes to have room for that."""
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
        self._records.forget(job_id)
        log.info("job %s: %s: %s", job_id, ended.state, ended.error and ended.error.detail)

    def _wait(self) -> None:
        """Let some time pass, in which the worker's other duties are kept up."""
        time.sleep(WAIT_SECONDS)
        with suppress(*UNREACHABLE):
            self._do_duties()

    def _input(self, job_id: str, attempt: int) -> AttemptInput:
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
    """Put a failure of the project into words for a client."""
    return JobError(code=error.code, title=error.title, detail=str(error))
