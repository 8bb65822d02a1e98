"""From the measured inputs to what a site of any size needs.

commands a second = jobs/s × (submit + job + calls that follow it) + busy workers × beats + idle
processor time of the API a second = jobs/s × (submit + upload + end + downloads + following)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

POLL_SECONDS = 2.0
VIDEO_MEGABYTES = 4.4
"""The film of docs/performance.md: 10 s of 720 lines."""

SMALL_SECONDS = 0.67
BASE_SECONDS = 2.76
"""Of a job of that film, as docs/performance.md has it: the small model without an overlay, and the
base model with one."""

WAIT_SHARE = 1.0
"""A job waits as long as it runs."""

FILES_READ = ("result.json", "rollout.npz")


@dataclass(frozen=True)
class Site:
    """A site whose workers are all busy.

    Attributes:
        job_seconds: of a worker for a job.
        upload: of each job a video of its own; False: the jobs are for a stored one.
        wait_seconds: of a job before it runs. Default: as long as it runs.
    """

    workers: int
    job_seconds: float
    follow: Literal["poll", "events"] = "poll"
    upload: bool = True
    wait_seconds: float | None = None

    @property
    def jobs(self) -> float:
        """Jobs a second."""
        return self.workers / self.job_seconds

    @property
    def waits(self) -> float:
        """Seconds that a job waits."""
        return WAIT_SHARE * self.job_seconds if self.wait_seconds is None else self.wait_seconds


class Inputs:
    """What was measured, as `scaling.json` has it."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._each = found["costs"]["figures"]["each"]
        self._megabytes = found["costs"]["figures"]["upload MB a core second"]
        self._files = found.get("files", {}).get("figures", {})
        runs = found["simulation"]["figures"]
        busiest = max(runs, key=lambda run: sum(run["commands"].values()))
        self.command_seconds = busiest["redis_share"] / sum(busiest["commands"].values())

    def commands_of(self, name: str) -> float:
        """Return the commands of Redis for one call, job or second."""
        return float(sum(self._each[name]["commands"].values()))

    def api_seconds_of(self, name: str) -> float:
        """Return the processor time of the API for one call, job or second."""
        return float(self._each[name]["api_ms"]) / 1e3

    def file_calls_of(self, name: str) -> float:
        """Return the file calls of API and supervisor for one call or job."""
        found = self._files.get(name, {})
        return float(sum(sum(calls.values()) for calls in found.values()))

    def commands(self, site: Site) -> float:
        """Return the commands of Redis a second."""
        job = self.commands_of("submit, form" if site.upload else "submit, JSON")
        job += self.commands_of("a job in its worker")
        job += self._following(site, self.commands_of)
        beats = site.workers * self.commands_of("busy worker, a second")
        return site.jobs * job + beats + self.commands_of("idle API, a second")

    def redis_cores(self, site: Site) -> float:
        """Return the processor time of Redis a second."""
        return self.commands(site) * self.command_seconds

    def api_cores(self, site: Site) -> float:
        """Return the processor time of the API a second."""
        job = self.api_seconds_of("submit, form" if site.upload else "submit, JSON")
        if site.upload:
            job += VIDEO_MEGABYTES / self._megabytes
        job += self.api_seconds_of("a job in its worker")
        job += sum(self.api_seconds_of(name) for name in FILES_READ)
        job += self._following(site, self.api_seconds_of)
        return site.jobs * job + self.api_seconds_of("idle API, a second")

    def file_calls(self, site: Site) -> float:
        """Return the file calls of all processes a second."""
        job = self.file_calls_of("submit, form" if site.upload else "submit, JSON")
        job += self.file_calls_of("a job in its worker")
        job += sum(self.file_calls_of(name) for name in FILES_READ)
        return site.jobs * (job + self._following(site, self.file_calls_of))

    def largest(self, job_seconds: float, cores: float, *, of: str, **options: Any) -> int:
        """Return how many workers need so many cores of `of`, "api_cores" or "redis_cores"."""
        low, high = 1, 10**6
        while low < high:
            middle = (low + high + 1) // 2
            site = Site(middle, job_seconds, **options)
            low, high = (middle, high) if getattr(self, of)(site) <= cores else (low, middle - 1)
        return low

    def _following(self, site: Site, cost_of: Any) -> float:
        """Return the cost of following a job to its end."""
        if site.follow == "events":
            open_stream = cost_of("poll, waits")
            seconds = site.waits + site.job_seconds
            return float(open_stream + seconds * cost_of("follow by events, a second"))
        waiting = site.waits / POLL_SECONDS * cost_of("poll, waits")
        running = site.job_seconds / POLL_SECONDS * cost_of("poll, runs")
        return float(waiting + running + cost_of("poll, ended"))
