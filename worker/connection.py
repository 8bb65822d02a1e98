"""The worker's connections to Redis, to which a server that is ill is like one that is away.

A server whose disk or memory is full, or which has become a replica, answers each command that
writes with an error of its own. To RQ those are bugs, for which it gives up. Here they are
connection errors: nothing is lost by asking again later.
"""

import logging
import re
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError, WatchError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

RETRY_SECONDS = 1.0

ILLNESSES = re.compile(r"\b(MISCONF|OOM|READONLY|NOREPLICAS|MASTERDOWN)\b")
"""Codes of errors that tell of the server, not of the command; LOADING is known to redis-py."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class ServerIll(RedisConnectionError):
    """The server answers, but cannot do its work."""


def connect(url: str, is_patient: Callable[[], bool] = lambda: False, **options: Any) -> Redis:
    """Return a client that tries again at once what a cut connection may have cost.

    While `is_patient`, it tries for ever.
    """
    redis = Redis.from_url(url, retry=Patience(is_patient), **options)
    pool = redis.connection_pool
    pool.connection_class = type("WaryConnection", (_Wary, pool.connection_class), {})
    return redis


class Patience(Retry):
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


class _Wary(AbstractConnection):
    """Takes an answer that tells of an ill server for a connection that has failed."""

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, **options)
        except ResponseError as error:
            if isinstance(error, (OutOfMemoryError, ReadOnlyError)) or ILLNESSES.search(str(error)):
                raise ServerIll(str(error)) from error
            raise
