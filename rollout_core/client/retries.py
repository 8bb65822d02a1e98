"""When a call is made again, and after which pause."""

import random
from dataclasses import dataclass

from rollout_core.client.errors import ClientError, RolloutApiError, RolloutConnectionError

PASSING_STATUSES = (429, 502, 503, 504)
"""Statuses that say nothing about the request itself. 502 and 504 are those of a proxy."""

PASSING_CODES = ("idempotency_in_progress",)


@dataclass(frozen=True)
class Retries:
    """How often and how long a client tries again.

    Attributes:
        attempts: further attempts after the first.
        first_seconds: pause before the second attempt; it doubles each time.
        most_seconds: longest pause that the client chooses.
        patience_seconds: longest `Retry-After` that is waited for; a longer one is an error.
    """

    attempts: int = 5
    first_seconds: float = 0.5
    most_seconds: float = 10.0
    patience_seconds: float = 60.0

    def pause(self, failures: int, failure: ClientError) -> float | None:
        """Return the seconds to wait after so many failures in a row; None to give up."""
        if failures > self.attempts:
            return None
        asked: float | None = getattr(failure, "retry_after_seconds", None)
        if asked is not None and asked > self.patience_seconds:
            return None
        own: float = min(self.most_seconds, self.first_seconds * 2 ** (failures - 1))
        # Jitter keeps clients that failed together from coming back together.
        jitter: float = random.uniform(0.5, 1)  # noqa: S311 (not a secret)
        return (asked or 0) + own * jitter


def may_retry(failure: ClientError, *, repeatable: bool) -> bool:
    """Return whether a failed call can be made again without doing anything twice.

    Args:
        repeatable: whether a second call has no effect if the first one was carried out.
    """
    if isinstance(failure, RolloutConnectionError):
        return repeatable or failure.unsent
    if isinstance(failure, RolloutApiError):
        passes = failure.status in PASSING_STATUSES or failure.code in PASSING_CODES
        return repeatable and passes
    return False
