"""What a client sees that asks for a job all the time, and when."""

import time
from dataclasses import dataclass
from itertools import groupby
from threading import Event, Thread
from typing import Any

import httpx

from tests.system.system import ENDED, System, wait_until

POLL_SECONDS = 0.05
END_SECONDS = 60.0
"""No job may take longer to end once the cause of its trouble is gone."""

SETTLE_SECONDS = 0.5
"""How much longer to look at a job that has ended."""


@dataclass(frozen=True)
class Sight:
    """An answer that differs from the one before."""

    at: float
    state: str
    attempt: int = 0

    def __str__(self) -> str:
        return f"{self.state} ({self.attempt})" if self.attempt > 1 else self.state


class Watch:
    """Everything that a client sees of a job, from before the disaster until after it."""

    def __init__(self, system: System, job_id: str | None = None) -> None:
        """Begin to watch a job, or wait for `follow`."""
        self.sights: list[Sight] = []
        self.job_id = job_id
        self._system = system
        self._struck_at = self._relieved_at = time.monotonic()
        self._left = Event()
        self._thread = Thread(target=self._look, name="watch", daemon=True)
        if job_id is not None:
            self.follow(job_id)

    def follow(self, job_id: str) -> None:
        """Begin to watch a job."""
        self.job_id = job_id
        self._thread.start()
        self._system.before_closing(self._leave)
        wait_until(lambda: self.sights, END_SECONDS, "the first sight of the job")

    def strike(self) -> None:
        """Note that the disaster happens now, and unless `relieve` follows, that it is over."""
        self._struck_at = self._relieved_at = time.monotonic()

    def relieve(self) -> None:
        """Note that the cause of the trouble is gone."""
        self._relieved_at = time.monotonic()

    def note(self, sight: str) -> None:
        """Note what a client saw otherwise."""
        self.sights.append(Sight(time.monotonic(), sight))

    def await_sight(self, state: str, seconds: float = END_SECONDS) -> None:
        """Wait until the client sees `state`, after the disaster."""
        wait_until(lambda: state in self.seen, seconds, f"the job to be {state}")

    def await_end(self) -> dict[str, Any]:
        """Return the job when it has ended, and has been seen to stay as it is.

        Raises:
            AssertionError: it did not end in time, or ended more than once.
        """
        left = END_SECONDS - (time.monotonic() - self._relieved_at)
        wait_until(lambda: self.sights[-1].state in ENDED, left, f"an end after {self.seen}")
        time.sleep(SETTLE_SECONDS)
        self._leave()
        assert sum(sight.state in ENDED for sight in self.sights) == 1, self.sights
        assert self.job_id is not None
        return self._system.job(self.job_id)

    @property
    def seen(self) -> tuple[str, ...]:
        """The sights since the disaster, and the one during which it came."""
        before = [sight for sight in self.sights if sight.at < self._struck_at][-1:]
        after = [sight for sight in self.sights if sight.at >= self._struck_at]
        return tuple(sight for sight, _ in groupby(map(str, before + after)))

    @property
    def again_seconds(self) -> float | None:
        """Time from the disaster, or its end, to the next attempt; None if none was needed."""
        before = [sight.attempt for sight in self.sights if sight.at < self._struck_at]
        for sight in self.sights:
            if before and sight.at >= self._struck_at and sight.attempt > max(before):
                over = sight.at >= self._relieved_at
                return sight.at - (self._relieved_at if over else self._struck_at)
        return None

    @property
    def ended_seconds(self) -> float:
        """Time from the disaster, or its end, until the job had ended."""
        return max(0.0, self.sights[-1].at - self._relieved_at)

    def _leave(self) -> None:
        self._left.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._left.wait(POLL_SECONDS):
            sight = self._sight()
            if not self.sights or str(sight) != str(self.sights[-1]):
                self.sights.append(sight)

    def _sight(self) -> Sight:
        asked_at = time.monotonic()
        try:
            response = self._system.client.get(f"/v1/jobs/{self.job_id}")
        except httpx.TransportError:
            return Sight(asked_at, "no answer")
        if response.is_error:
            return Sight(asked_at, str(response.status_code))
        job = response.json()
        return Sight(time.monotonic(), job["state"], job["attempt"])
