"""Times calls in turn, so that other work on the machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

Call = Callable[[], object]


class Seconds(NamedTuple):
    """Time that passed, and CPU time."""

    wall: float
    cpu: float


class Spread(NamedTuple):
    """The median of several measurements, and the middle half of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return median and quartiles of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def scaled(self, factor: float) -> "Spread":
        """Return all three values times a positive factor."""
        return Spread(*(factor * value for value in self))


@dataclass(frozen=True)
class Timing:
    """Seconds of one call in each round: time that passed, and CPU time of all threads."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    @property
    def seconds(self) -> Spread:
        """Time that passed."""
        return Spread.of(self.wall)

    @property
    def milliseconds(self) -> Spread:
        """Time that passed, in milliseconds."""
        return self.seconds.scaled(1e3)

    @property
    def cpu_seconds(self) -> Spread:
        """CPU time of all threads."""
        return Spread.of(self.cpu)

    def over(self, baseline: "Timing") -> Spread:
        """Return the ratio to a baseline that was timed in the same rounds, round by round."""
        return ratio(self.wall, baseline.wall)

    def cpu_over(self, baseline: "Timing") -> Spread:
        """Return the ratio of the CPU times, round by round."""
        return ratio(self.cpu, baseline.cpu)

    def __add__(self, other: "Timing") -> "Timing":
        """Return the sums, round by round."""
        return Timing(_sums(self.wall, other.wall), _sums(self.cpu, other.cpu))


def ratio(values: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Return the spread of the ratios of values of the same round."""
    return Spread.of([value / base for value, base in zip(values, baseline, strict=True)])


def timed(call: Call) -> Seconds:
    """Return the seconds that pass during a call, and the CPU seconds of all threads."""
    began, began_cpu = time.perf_counter(), time.process_time()
    call()
    return Seconds(time.perf_counter() - began, time.process_time() - began_cpu)


def interleaved(calls: Mapping[str, Call], rounds: int, *, warm_ups: int = 1) -> dict[str, Timing]:
    """Time every call once in each round. Every second round goes backwards.

    Args:
        warm_ups: rounds before, which do not count.
    """
    return measured({name: partial(timed, call) for name, call in calls.items()}, rounds, warm_ups)


def measured(
    timers: Mapping[str, Callable[[], Seconds]], rounds: int, warm_ups: int = 1
) -> dict[str, Timing]:
    """Do as `interleaved` does, with calls that return their own time."""
    for _ in range(warm_ups):
        for timer in timers.values():
            timer()
    taken: dict[str, list[Seconds]] = {name: [] for name in timers}
    for number in range(rounds):
        for name in list(timers)[:: -1 if number % 2 else 1]:
            taken[name].append(timers[name]())
    return {name: Timing(*zip(*each, strict=True)) for name, each in taken.items()}


def fastest(calls: Mapping[str, Call], rounds: int = 2) -> str:
    """Return the name of the call with the shortest time of all rounds, after a warm-up."""
    timings = interleaved(calls, rounds)
    return min(timings, key=lambda name: min(timings[name].wall))


def _sums(left: Sequence[float], right: Sequence[float]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))
