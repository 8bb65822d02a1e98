"""Counts what this worker does, for its announcements; see `rollout_core.jobs.counters`.

One thread counts and reads: the one that runs jobs.
"""

from collections import Counter
from collections.abc import Mapping

from rollout_core.jobs.counters import StageSum, WorkerCounters

DIGITS = 3
"""Digits of seconds that are announced."""


class Counts:
    """The counts since this process started."""

    def __init__(self) -> None:
        """Begin at zero.

        Attributes:
            jobs: jobs that ended, by state.
            restarts: children that were lost, by kind, besides those that `Children` counts.
        """
        self.attempts = 0
        self.clips = 0
        self.jobs: Counter[str] = Counter()
        self.restarts: Counter[str] = Counter()
        self._explain_seconds = 0.0
        self._engine_seconds = 0.0
        self._stage_attempts: Counter[str] = Counter()
        self._stage_seconds: dict[str, float] = {}

    def add_explained(self, clips: int, seconds: float) -> None:
        """Count clips that the engine has explained in `seconds`."""
        self.clips += clips
        self._explain_seconds += seconds
        self._engine_seconds += seconds

    def add_engine_seconds(self, seconds: float) -> None:
        """Count seconds in which the engine computed something else."""
        self._engine_seconds += seconds

    def add_stages(self, seconds: Mapping[str, float]) -> None:
        """Count the seconds of each stage of an attempt that is over."""
        for stage, spent in seconds.items():
            self._stage_attempts[stage] += 1
            self._stage_seconds[stage] = self._stage_seconds.get(stage, 0.0) + spent

    def snapshot(self, restarts: Mapping[str, int]) -> WorkerCounters:
        """Return the counts now.

        Args:
            restarts: of children that are counted elsewhere, by kind.
        """
        return WorkerCounters(
            attempts=self.attempts,
            jobs=dict(self.jobs),
            restarts=dict(self.restarts + Counter(restarts)),
            stages={
                stage: StageSum(attempts=self._stage_attempts[stage], seconds=round(spent, DIGITS))
                for stage, spent in self._stage_seconds.items()
            },
            clips=self.clips,
            explain_seconds=round(self._explain_seconds, DIGITS),
            engine_seconds=round(self._engine_seconds, DIGITS),
        )
