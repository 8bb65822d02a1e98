"""What a system has used: commands and processor time of Redis, processor time of processes."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

from redis import Redis

from tests.benchmarks.suite.processes import cpu_seconds

OWN_COMMANDS = {"info", "config|resetstat"}
"""Commands of the measurement itself."""


@dataclass(frozen=True)
class Use:
    """What was used, since the start or between two moments.

    Attributes:
        seconds: that have passed.
        commands: that Redis executed by name, those inside transactions and scripts included.
        command_seconds: time in which it executed them, by name. A script's includes its commands'.
        redis_seconds: processor time of Redis, with what it reads and writes.
        cpu_seconds: processor time of each process and all below it, by name.
        calls: file calls below the data directory of each counted process; see `counted`.
    """

    seconds: float
    commands: Counter[str]
    command_seconds: Mapping[str, float]
    redis_seconds: float
    cpu_seconds: Mapping[str, float]
    calls: Mapping[str, Counter[str]] = field(default_factory=dict)

    def since(self, before: Self) -> Self:
        """Return what was used since an earlier moment."""
        return type(self)(
            self.seconds - before.seconds,
            self.commands - before.commands,
            _minus(self.command_seconds, before.command_seconds),
            self.redis_seconds - before.redis_seconds,
            _minus(self.cpu_seconds, before.cpu_seconds),
            {name: self.calls[name] - before.calls.get(name, Counter()) for name in self.calls},
        )

    @property
    def all_commands(self) -> int:
        """Number of commands of all names."""
        return self.commands.total()


def read_use(
    redis: Redis,
    processes: Mapping[str, int] | None = None,
    calls: Mapping[str, Counter[str]] | None = None,
) -> Use:
    """Return what was used since the start.

    Args:
        processes: process ids by name.
        calls: the file calls of counted processes, by name.
    """
    stats = cast("dict[str, dict[str, Any]]", redis.info("commandstats"))
    named = {name.removeprefix("cmdstat_"): found for name, found in stats.items()}
    counted = {name: found for name, found in named.items() if name not in OWN_COMMANDS}
    cpu = cast("dict[str, float]", redis.info("cpu"))
    return Use(
        time.monotonic(),
        Counter({name: int(found["calls"]) for name, found in counted.items()}),
        {name: found["usec"] / 1e6 for name, found in counted.items()},
        cpu["used_cpu_user"] + cpu["used_cpu_sys"],
        {name: cpu_seconds([pid]) for name, pid in (processes or {}).items()},
        calls or {},
    )


def quantile(values: list[float], share: float) -> float:
    """Return the value below which a share of the values lies; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _minus(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in after.items()}
