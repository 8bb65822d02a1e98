"""What a client sees that polls a job without a pause, and when."""

import time
from dataclasses import dataclass
from itertools import groupby
from threading import Event, Thread
from typing import Any

import httpx

from tests.system.system import ENDED, System
from tests.system.waiting import wait_until

POLL_SECONDS = 0.05
END_SECONDS = 60.0
"""How long after the end of a fault a job may take to end."""

SETTLE_SECONDS = 0.5
"""How long to keep polling a job that has ended."""


@dataclass(frozen=True)
class Observation:
    """An answer that differs from the previous one."""

    at: float
    state: str
    attempt: int = 0

    def __str__(self) -> str:
        return f"{self.state} ({self.attempt})" if self.attempt > 1 else self.state


class Watch:
    """Everything that a client sees of a job, from before the fault until the job's end."""

    def __init__(self, system: System, job_id: str | None = None) -> None:
        """Start to poll a job; without `job_id`, `follow` does."""
        self.observations: list[Observation] = []
        self.job_id = job_id
        self._system = system
        self._fault_at = self._recovery_at = time.monotonic()
        self._left = Event()
        self._thread = Thread(target=self._poll, name="watch", daemon=True)
        if job_id is not None:
            self.follow(job_id)

    def follow(self, job_id: str) -> None:
        """Start to poll a job."""
        self.job_id = job_id
        self._thread.start()
        self._system.before_closing(self._leave)
        wait_until(lambda: self.observations, END_SECONDS, "the first answer about the job")

    def mark_fault(self) -> None:
        """Record that the fault happens now; it also ends now, unless `mark_recovery` follows."""
        self._fault_at = self._recovery_at = time.monotonic()

    def mark_recovery(self) -> None:
        """Record that the fault has ended."""
        self._recovery_at = time.monotonic()

    def note(self, observation: str) -> None:
        """Record something else that a client saw."""
        self.observations.append(Observation(time.monotonic(), observation))

    def await_state(self, state: str, seconds: float = END_SECONDS) -> None:
        """Wait until the client sees `state`, after the fault."""
        wait_until(lambda: state in self.seen, seconds, f"the job to be {state}")

    def await_end(self) -> dict[str, Any]:
        """Return the job when it has ended and its state has stayed the same for a while.

        Raises:
            AssertionError: it did not end in time, or ended more than once.
        """
        left = END_SECONDS - (time.monotonic() - self._recovery_at)
        wait_until(lambda: self.observations[-1].state in ENDED, left, f"an end after {self.seen}")
        time.sleep(SETTLE_SECONDS)
        self._leave()
        ends = [each for each in self.observations if each.state in ENDED]
        assert len(ends) == 1, self.observations
        assert self.job_id is not None
        return self._system.job(self.job_id)

    @property
    def seen(self) -> tuple[str, ...]:
        """The states since the fault, and the one in which it happened."""
        before = [each for each in self.observations if each.at < self._fault_at][-1:]
        after = [each for each in self.observations if each.at >= self._fault_at]
        return tuple(state for state, _ in groupby(map(str, before + after)))

    @property
    def retry_seconds(self) -> float | None:
        """Time from the fault, or from its end, to the next attempt; None without one."""
        attempts = [each.attempt for each in self.observations if each.at < self._fault_at]
        for each in self.observations:
            if attempts and each.at >= self._fault_at and each.attempt > max(attempts):
                over = each.at >= self._recovery_at
                return each.at - (self._recovery_at if over else self._fault_at)
        return None

    @property
    def ended_seconds(self) -> float:
        """Time from the end of the fault until the job had ended."""
        return max(0.0, self.observations[-1].at - self._recovery_at)

    def _leave(self) -> None:
        self._left.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._left.wait(POLL_SECONDS):
            observation = self._observe()
            if not self.observations or str(observation) != str(self.observations[-1]):
                self.observations.append(observation)

    def _observe(self) -> Observation:
        asked_at = time.monotonic()
        try:
            response = self._system.client.get(f"/v1/jobs/{self.job_id}")
        except httpx.TransportError:
            return Observation(asked_at, "no answer")
        if response.is_error:
            return Observation(asked_at, str(response.status_code))
        job = response.json()
        return Observation(time.monotonic(), job["state"], job["attempt"])
