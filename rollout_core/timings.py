"""Divides the time of a job among its stages."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

TOTAL = "total"


@dataclass
class Timings:
    """Seconds spent in each stage, by name.

    Attributes:
        periods: first beginning and last end of each stage, by `time.monotonic`.

    Each moment belongs to one stage, so they add up: a stage within another one interrupts it.
    Between stages, no time counts.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    periods: dict[str, tuple[float, float]] = field(default_factory=dict)
    _stage: str | None = None
    _since: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside the context for this stage."""
        interrupted = self._stage
        self._enter(name)
        try:
            yield
        finally:
            self._enter(interrupted)

    def each(self, name: str, items: Iterator[T]) -> Iterator[T]:
        """Yield the items; the time to make each counts for this stage."""
        while True:
            with self.stage(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def with_total(self) -> dict[str, float]:
        """Return the seconds of each stage until now, and their sum as `TOTAL`."""
        self._enter(self._stage)
        return {**self.seconds, TOTAL: sum(self.seconds.values())}

    def _enter(self, name: str | None) -> None:
        now = time.monotonic()
        if self._stage is not None:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
            began, _ = self.periods.get(self._stage, (self._since, now))
            self.periods[self._stage] = began, now
        self._stage, self._since = name, now
