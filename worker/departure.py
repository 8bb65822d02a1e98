"""The worker's leave: announced by a signal, and taken once the running job has had its time."""

import time

ECHO_SECONDS = 1.0
"""Signals come twice to a worker that gets the terminal's as well as its parent's."""


class Leaving(Exception):
    """The worker goes, and what it was doing is left to others."""


class Departure:
    """Whether the worker has been told to leave, and how long its job may still go on."""

    def __init__(self, drain_seconds: float) -> None:
        """Allow a running job so much time from the moment that we are told."""
        self._drain_seconds = drain_seconds
        self._told_at: float | None = None
        self._leave_at: float | None = None

    @property
    def told(self) -> bool:
        """Whether a signal has come."""
        return self._told_at is not None

    def tell(self) -> None:
        """Leave when the job is done or its time is over; told again, leave at once."""
        now = time.monotonic()
        if self._told_at is None:
            self._told_at, self._leave_at = now, now + self._drain_seconds
        elif now - self._told_at >= ECHO_SECONDS:
            self._leave_at = now

    def require_stay(self) -> None:
        """Raise `Leaving` if the time is over."""
        if self._leave_at is not None and time.monotonic() >= self._leave_at:
            raise Leaving
