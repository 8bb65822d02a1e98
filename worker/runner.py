"""A job from its delivery to its end: attempt after attempt, until one is the last.

    delivered ──claim──▶ attempt ──▶ published, failed or canceled
                  ▲         │
                  ╰─────────╯ a child was lost, something of ours broke, or another has the job

However an attempt ends, its folder is gone or published, and the next finds a whole crew. A
delivery ends only with its job: while another worker's attempt lives, this one waits for it.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from rollout_core.errors import (
    AttemptLost,
    DeadlineExceeded,
    JobHeld,
    RolloutError,
    StoreUnavailable,
)
from rollout_core.storage import ArtifactStore
from worker.assignment import Assignment
from worker.attempt import Attempt
from worker.children import ChildFailure, ChildLost
from worker.crew import Crew
from worker.ledger import UNREACHABLE, Ledger, job_error
from worker.pulse import Canceled
from worker.settings import Settings

FORMER_DEATH = "the worker died"
"""Why an attempt ended that did not live to say so."""

REMEMBERED_ATTEMPTS = 20

WAIT_SECONDS = 0.5
"""How often to ask whether another worker's attempt still lives."""

log = logging.getLogger(__name__)


class Runner:
    """Carries out jobs, one at a time."""

    def __init__(
        self,
        settings: Settings,
        crew: Crew,
        ledger: Ledger,
        store: ArtifactStore,
        tend: Callable[[], None],
    ) -> None:
        """Collect what jobs need; `tend` keeps the worker's other duties alive during one."""
        self._settings = settings
        self._crew = crew
        self._ledger = ledger
        self._store = store
        self._tend = tend
        self._latest_seconds: deque[float] = deque(maxlen=REMEMBERED_ATTEMPTS)

    @property
    def seconds_per_job(self) -> float | None:
        """Mean of the latest attempts, or None before the first."""
        latest = self._latest_seconds
        return sum(latest) / len(latest) if latest else None

    def run(self, job_id: str) -> None:
        """Bring a job to its end, or see it come to its end; return at once if it is gone."""
        cause = FORMER_DEATH
        while (attempt := self._claim(job_id, cause)) is not None:
            log.info("job %s: attempt %d", job_id, attempt)
            began = time.monotonic()
            self._crew.mend()
            try:
                self._try(job_id, attempt)
            except ChildLost as lost:
                cause = str(lost)
                log.warning("job %s: attempt %d: %s", job_id, attempt, cause)
                self._ledger.release(job_id, attempt)
            except Exception:
                cause = "an internal error"
                log.exception("job %s: attempt %d", job_id, attempt)
                self._ledger.release(job_id, attempt)
            finally:
                self._latest_seconds.append(time.monotonic() - began)
        self._store.end_attempts(job_id)
        self._ledger.await_redis()

    def _claim(self, job_id: str, cause: str) -> int | None:
        """Begin the next attempt as soon as no other lives; return None once the job has ended."""
        max_attempts = self._settings.max_attempts
        while not self._store.has_result(job_id):
            try:
                return self._ledger.claim(job_id, max_attempts=max_attempts, cause=cause)
            except JobHeld:
                time.sleep(WAIT_SECONDS)
                with suppress(*UNREACHABLE):
                    self._tend()
        return None

    def _try(self, job_id: str, attempt: int) -> None:
        """Make one attempt and record how it ended, unless the next shall decide."""
        try:
            result = Attempt(
                self._assignment(job_id, attempt), self._crew, self._ledger, self._tend
            ).run()
            self._store.publish(job_id, attempt, result)
            log.info("job %s: succeeded", job_id)
        except AttemptLost as lost:
            log.info("job %s: dropped: %s", job_id, lost)
        except Canceled:
            log.info("job %s: canceled", job_id)
            self._ledger.yield_cancel(job_id, attempt)
        except ChildFailure as failure:
            log.info("job %s: failed: %s", job_id, failure)
            self._ledger.fail(job_id, attempt, failure.error)
        except RolloutError as error:
            log.info("job %s: failed: %s", job_id, error)
            self._ledger.fail(job_id, attempt, job_error(error))
            if isinstance(error, DeadlineExceeded) and self._crew.engine.busy:
                self._crew.engine.kill()
        except OSError as error:
            log.warning("job %s: failed: %s", job_id, error)
            unavailable = StoreUnavailable(f"the result cannot be stored: {error.strerror}")
            self._ledger.fail(job_id, attempt, job_error(unavailable))

    def _assignment(self, job_id: str, attempt: int) -> Assignment:
        ticket = self._store.ticket(job_id)
        if ticket is None:
            raise StoreUnavailable("the upload is not in the worker's store")
        return Assignment(
            id=job_id,
            attempt=attempt,
            request=ticket.request,
            upload=self._store.upload_path(job_id).resolve(),
            folder=self._store.begin_attempt(job_id, attempt).resolve(),
            deadline_seconds=self._settings.job_deadline_seconds,
            engine_timeout_seconds=self._settings.engine_timeout_seconds,
        )
