"""The worker's access to job records and announcements, and its retry policy for Redis.

`rollout_core.jobs.redis_records` reads and writes them. This module adds when to retry:

- A step that must not be lost (claim, release, hand back) is retried until Redis answers.
- A heartbeat is not retried, because the next one follows a second later.

The end of a job is written to the store, not to Redis.
"""

import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Self, TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    WatchError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from rollout_core.errors import AttemptLost, OtherStore
from rollout_core.jobs.records import JobRecord, Progress
from rollout_core.jobs.redis_records import (
    Announcement,
    Announcements,
    JobRecords,
    Step,
    redis_now,
    require_store,
)
from rollout_core.jobs.redis_url import RedisUrl

UNREACHABLE = (RedisConnectionError, RedisTimeoutError)
"""Raised by a client of `connect` if Redis cannot be reached, or reports a server-state error."""

RETRY_SECONDS = 1.0
"""Pause before the next try."""

STATE_ERRORS = re.compile(
    r"\b(MISCONF|OOM|READONLY|NOREPLICAS|MASTERDOWN|UNBLOCKED|BUSY|CLUSTERDOWN|TRYAGAIN)\b"
)
"""Error codes about the state of the server, not about the command. redis-py handles LOADING.

A worker that waits for a job gets UNBLOCKED when its server becomes a replica.
"""

STATE_ERROR_TYPES = (OutOfMemoryError, ReadOnlyError, NoPermissionError)
"""Those of them that redis-py raises without their code."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class ServerUnusable(RedisConnectionError):
    """Redis answers, but with a server-state error; see `STATE_ERRORS`."""


class RetryingRecords:
    """Job records and announcements, with the worker's retry policy."""

    def __init__(self, redis: Redis, check_shutdown: Callable[[], None] = lambda: None) -> None:
        """Wrap a client.

        Args:
            redis: a client that does not retry for long itself.
            check_shutdown: called before each retry; raises when the worker must stop waiting.
        """
        self._redis = redis
        self._records = JobRecords(redis)
        self._announcements = Announcements(redis)
        self._check_shutdown = check_shutdown

    def claim(self, job_id: str, *, max_attempts: int, token: str | None = None) -> JobRecord:
        """Start the next attempt, or take the job in order to end it; see `JobRecord.claim`.

        Raises:
            JobHeld: another attempt is alive.
            AttemptLost: the job has no record: it has ended, or it was deleted.
            UnknownFormat: this version cannot read the record.
        """

        def step(record: JobRecord, now: datetime) -> JobRecord:
            return record.claim(now, max_attempts=max_attempts, token=token)

        return self._retry(lambda: self._records.update(job_id, step))

    def require(self, job_id: str, attempt: int, token: str | None = None) -> None:
        """Check that the job still belongs to this attempt.

        Raises:
            AttemptLost: it does not.
        """
        self._retry(
            lambda: self._records.update(job_id, lambda record, _: record.require(attempt, token))
        )

    def renew(self, job_id: str, token: str | None) -> None:
        """Renew the lease of a claim, without a retry; see `JobRecord.renew`.

        Raises:
            AttemptLost: the job no longer belongs to this claim.
            UNREACHABLE: Redis does not answer.
        """
        self._once(job_id, lambda record, now: record.renew(now, token))

    def beat(self, job_id: str, attempt: int, progress: Progress, token: str | None = None) -> bool:
        """Renew the attempt's lease and store its progress, without a retry.

        Returns:
            Whether a client has asked to cancel the job.

        Raises:
            AttemptLost: the job no longer belongs to this attempt.
            UNREACHABLE: Redis does not answer.
        """
        record = self._once(job_id, lambda record, now: record.beat(attempt, now, progress, token))
        return record.cancel_requested

    def release(self, job_id: str, attempt: int, token: str | None = None) -> None:
        """End the lease, so that the next attempt can start; do nothing if the job was lost."""
        self._end_lease(job_id, lambda record, _: record.release(attempt, token))

    def hand_back(self, job_id: str, attempt: int, token: str | None = None) -> None:
        """Do as `release`, and do not count the attempt."""
        self._end_lease(job_id, lambda record, _: record.hand_back(attempt, token))

    def delete_record(self, job_id: str) -> None:
        """Delete the record of a job that has ended.

        If Redis does not answer, the record stays, and the service deletes it later.
        """
        with suppress(*UNREACHABLE):
            self._records.delete(job_id)

    def has_record(self, job_id: str) -> bool:
        """Return whether the job has a record: the service takes it for one that has not ended."""
        return self._retry(lambda: self._records.exists(job_id))

    def require_store(self, identity: str) -> None:
        """Check that a store is that of the service.

        Raises:
            OtherStore: it is not.
        """
        self._retry(lambda: require_store(self._redis, identity))

    def other_store(self, identity: str) -> OtherStore | None:
        """Return an error that says so if the service uses another store; without a retry."""
        try:
            require_store(self._redis, identity)
        except OtherStore as error:
            return error
        return None

    def now(self) -> datetime:
        """Return the time by Redis' clock."""
        return redis_now(self._redis)

    def live_announcements(self) -> dict[str, Announcement]:
        """Return the last announcement of each live worker."""
        announcements, now = self._retry(self._announcements.read), self.now()
        return {name: item for name, item in announcements.items() if item.is_live(now)}

    def announce(self, worker: str, announcement: Announcement) -> None:
        """Replace a worker's announcement, without a retry."""
        self._announcements.write(worker, announcement)

    def remove_announcement(self, worker: str) -> None:
        """Remove a worker's announcement; do nothing if Redis does not answer."""
        with suppress(*UNREACHABLE):
            self._announcements.remove(worker)

    def wait_for_redis(self) -> None:
        """Return once Redis answers."""
        self._retry(self._redis.ping)

    def _once(self, job_id: str, step: Step) -> JobRecord:
        """Apply a step without a retry; raise `ShuttingDown` if Redis is away at shutdown."""
        try:
            return self._records.update(job_id, step)
        except UNREACHABLE:
            self._check_shutdown()
            raise

    def _end_lease(self, job_id: str, step: Step) -> None:
        try:
            self._retry(lambda: self._records.update(job_id, step))
        except AttemptLost as lost:
            log.info("the lease had ended: %s", lost)

    def _retry(self, call: Callable[[], T]) -> T:
        """Call every second until Redis answers, or until `check_shutdown` raises."""
        while True:
            try:
                return call()
            except UNREACHABLE as error:
                log.warning("Redis cannot be used: %s", error)
                self._check_shutdown()
                time.sleep(RETRY_SECONDS)


def connect(url: RedisUrl, is_patient: Callable[[], bool] = lambda: False, **options: Any) -> Redis:
    """Return a client that retries as `RedisRetry` does.

    The client treats server-state errors (MISCONF, OOM, READONLY) as connection errors, so that
    they are retried.

    Args:
        is_patient: asked before each retry; see `RedisRetry`.
        options: of `RedisUrl.open`.
    """
    redis = url.open(retry=RedisRetry(is_patient), **options)
    pool = redis.connection_pool
    pool.connection_class = type(
        "StateCheckingConnection", (_StateCheckingConnection, pool.connection_class), {}
    )
    return redis


class RedisRetry(Retry):
    """Retries every second while `is_patient()` is true; otherwise retries once, immediately.

    While it is false, a timeout is not retried: the retry would wait for the full timeout again.
    """

    def __init__(self, is_patient: Callable[[], bool]) -> None:
        super().__init__(NoBackoff(), retries=-1)
        self._is_patient = is_patient

    def __deepcopy__(self, memo: object) -> Self:
        """Return this object: redis-py copies the policy for each connection."""
        return self

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """Do as `Retry.call_with_retry`, but count and pause by this class' rules."""
        failures = 0

        def failed(error: Exception, *counted: int) -> None:
            nonlocal failures
            failures += 1
            try:
                fail(error, *counted)
            except WatchError:  # redis-py would repeat the whole transaction without a pause
                self._pause_or_raise(error)
                raise
            if failures > 1 or isinstance(error, RedisTimeoutError):
                self._pause_or_raise(error)

        return super().call_with_retry(do, failed, is_retryable, with_failure_count)

    def _pause_or_raise(self, error: Exception) -> None:
        if not self._is_patient():
            raise error
        log.warning("Redis cannot be used: %s", error)
        time.sleep(RETRY_SECONDS)


class _StateCheckingConnection(AbstractConnection):
    """Raises `ServerUnusable` for a reply that reports a server-state error."""

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, **options)
        except ResponseError as error:
            if isinstance(error, STATE_ERROR_TYPES) or STATE_ERRORS.search(str(error)):
                raise ServerUnusable(str(error)) from error
            raise
