"""Jobs' records and workers' announcements, as they stand in Redis.

Every change of a record is a step of `JobRecord` in an optimistic transaction, at a moment that
Redis tells: the clocks of workers' hosts may differ by more than a lease. Steps that must not be
lost wait for Redis to come back; a beat does not, for there will be another. How a job ends is
not written here, but in the store.
"""

import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self, TypeVar, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError, WatchError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from rollout_core.errors import AttemptLost
from rollout_core.jobs.records import JobRecord, Progress
from rollout_core.jobs.redis_records import WORKERS_KEY, Announcement, job_key

UNREACHABLE = (RedisConnectionError, RedisTimeoutError)
"""What redis-py raises while the server cannot be reached, or is ill: see `worker.redis_jobs`."""

RETRY_SECONDS = 1.0

Step = Callable[[JobRecord, datetime], JobRecord]
T = TypeVar("T")

log = logging.getLogger(__name__)


class RetryingRecords:
    """The worker's side of what Redis holds."""

    def __init__(self, redis: Redis, require_stay: Callable[[], None] = lambda: None) -> None:
        """Use a client that does not wait; `require_stay` raises when we shall not, either."""
        self._redis = redis
        self._require_stay = require_stay

    def claim(self, job_id: str, *, max_attempts: int) -> JobRecord:
        """Begin the next attempt at a job, or take it to end it; see `JobRecord.claim`.

        Raises:
            JobHeld: another attempt is alive.
            AttemptLost: the job has ended, or is gone.
        """

        def step(record: JobRecord, now: datetime) -> JobRecord:
            return record.claim(now, max_attempts=max_attempts)

        return self._patiently(lambda: self._take(job_id, step))

    def require(self, job_id: str, attempt: int) -> None:
        """Make sure that the job is this attempt's.

        Raises:
            AttemptLost: it is not.
        """
        self._patiently(lambda: self._take(job_id, lambda record, _: record.require(attempt)))

    def beat(self, job_id: str, attempt: int, progress: Progress) -> bool:
        """Renew an attempt's lease and say how far it is; return whether it shall stop.

        Raises:
            AttemptLost: the job is no longer this attempt's.
            UNREACHABLE: Redis does not answer.
        """
        try:
            record = self._take(job_id, lambda record, now: record.beat(attempt, now, progress))
        except UNREACHABLE:
            self._require_stay()
            raise
        return record.cancel_requested

    def release(self, job_id: str, attempt: int) -> None:
        """Leave the job to the next attempt, unless it is no longer this attempt's."""
        self._leave(job_id, lambda record, _: record.release(attempt))

    def hand_back(self, job_id: str, attempt: int) -> None:
        """As `release`; the attempt does not count."""
        self._leave(job_id, lambda record, _: record.hand_back(attempt))

    def forget(self, job_id: str) -> None:
        """Remove the record of a job that has ended; without Redis the service will."""
        with suppress(*UNREACHABLE):
            self._redis.delete(job_key(job_id))

    def announce(self, worker: str, announcement: Announcement) -> None:
        """Say what a worker serves."""
        self._redis.hset(WORKERS_KEY, worker, announcement.model_dump_json())

    def withdraw(self, worker: str) -> None:
        """Forget a worker that has served nobody, if Redis answers."""
        with suppress(*UNREACHABLE):
            self._redis.hdel(WORKERS_KEY, worker)

    def await_redis(self) -> None:
        """Return once Redis answers."""
        self._patiently(self._redis.ping)

    def _leave(self, job_id: str, step: Step) -> None:
        try:
            self._patiently(lambda: self._take(job_id, step))
        except AttemptLost as lost:
            log.info("job %s: %s", job_id, lost)

    def _take(self, job_id: str, step: Step) -> JobRecord:
        """Apply a step to a job's record, and return what it became.

        Raises:
            AttemptLost: the job has ended, or is gone.
        """
        key = job_key(job_id)

        def apply(pipeline: Pipeline) -> JobRecord:
            text = cast("bytes | None", pipeline.get(key))
            if text is None:
                raise AttemptLost("the job has ended, or is gone")
            record = step(JobRecord.model_validate_json(text), _now(pipeline))
            pipeline.multi()
            pipeline.set(key, record.model_dump_json(), keepttl=True)
            return record

        return cast(
            JobRecord,
            self._redis.transaction(apply, key, value_from_callable=True),  # type: ignore[arg-type]
        )

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call until Redis answers."""
        while True:
            try:
                return call()
            except UNREACHABLE as error:
                log.warning("Redis cannot be used: %s", error)
                self._require_stay()
                time.sleep(RETRY_SECONDS)


def _now(redis: Redis) -> datetime:
    seconds, microseconds = redis.time()
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)


STATE_ERRORS = re.compile(r"\b(MISCONF|OOM|READONLY|NOREPLICAS|MASTERDOWN)\b")
"""Codes of errors that tell of the server, not of the command; LOADING is known to redis-py."""


class ServerUnusable(RedisConnectionError):
    """The server answers, but cannot do its work."""


def connect(url: str, is_patient: Callable[[], bool] = lambda: False, **options: Any) -> Redis:
    """Return a client that tries again at once what a cut connection may have cost.

    While `is_patient`, it tries for ever.
    """
    redis = Redis.from_url(url, retry=RedisRetry(is_patient), **options)
    pool = redis.connection_pool
    pool.connection_class = type(
        "WaryConnection", (_StateCheckingConnection, pool.connection_class), {}
    )
    return redis


class RedisRetry(Retry):
    """Asks again for as long as there is patience; but once even without, and at once.

    Without, nobody waits twice for a server that hangs.
    """

    def __init__(self, is_patient: Callable[[], bool]) -> None:
        super().__init__(NoBackoff(), retries=-1)
        self._is_patient = is_patient

    def __deepcopy__(self, memo: object) -> Self:
        """Stay the same: every connection wants a copy."""
        return self

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """As `Retry.call_with_retry`, with our idea of how often."""
        failures = 0

        def failed(error: Exception, *counted: int) -> None:
            nonlocal failures
            failures += 1
            try:
                fail(error, *counted)
            except WatchError:  # a whole transaction would be tried again, and again
                self._bear(error)
                raise
            if failures > 1 or isinstance(error, RedisTimeoutError):
                self._bear(error)

        return super().call_with_retry(do, failed, is_retryable, with_failure_count)

    def _bear(self, error: Exception) -> None:
        """Wait a while, or raise the error if there is no patience."""
        if not self._is_patient():
            raise error
        log.warning("Redis cannot be used: %s", error)
        time.sleep(RETRY_SECONDS)


class _StateCheckingConnection(AbstractConnection):
    """Takes an answer that tells of an ill server for a connection that has failed."""

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, **options)
        except ResponseError as error:
            if isinstance(error, (OutOfMemoryError, ReadOnlyError)) or STATE_ERRORS.search(
                str(error)
            ):
                raise ServerUnusable(str(error)) from error
            raise
