"""From the measured inputs to what a site of any size needs.

commands a second = jobs/s × (submit + job + calls that follow it) + busy workers × beats + idle
processor time of Redis a second = commands/s × mean + jobs/s × order(jobs that run, that wait)
processor time of the API a second = jobs/s × (submit + upload + end + downloads + following)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.scaling.clients import POLL_SECONDS, Follow

VIDEO_MEGABYTES = 4.4
"""The film of docs/performance.md: 10 s of 720 lines."""

SMALL_SECONDS = 0.67
BASE_SECONDS = 2.76
"""Of a job of that film, as docs/performance.md has it: the small model without an overlay, and the
base model with one."""

WAIT_SHARE = 1.0
"""A job waits as long as it runs."""

MAX_QUEUED = 1000
"""Of a model, by default."""

FILES_READ = ("result.json", "rollout.npz")

FOLLOWING = {"events": "events of a job, a second", "wait": "wait for a job, a second"}
"""What a call that follows a job costs in a second, by the way to follow."""


@dataclass(frozen=True)
class Site:
    """A site whose workers are all busy.

    Attributes:
        job_seconds: of a worker for a job.
        upload: of each job a video of its own; False: the jobs are for a stored one.
        wait_seconds: of a job before it runs. Default: as long as it runs.
        idle_workers: besides those that are busy.
    """

    workers: float
    job_seconds: float
    follow: Follow = "poll"
    upload: bool = True
    wait_seconds: float | None = None
    idle_workers: float = 0

    @property
    def jobs(self) -> float:
        """Jobs a second."""
        return self.workers / self.job_seconds

    @property
    def waits(self) -> float:
        """Seconds that a job waits."""
        return WAIT_SHARE * self.job_seconds if self.wait_seconds is None else self.wait_seconds

    @property
    def waiting(self) -> float:
        """Jobs that wait."""
        return min(MAX_QUEUED, self.waits * self.jobs)


class Inputs:
    """What was measured, as `scaling.json` has it."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._each = found["costs"]["figures"]["each"] | found["following"]["figures"]
        self._megabytes = found["costs"]["figures"]["upload MB a core second"]
        self._files = found.get("files", {}).get("figures", {})
        runs = found["simulation"]["figures"]
        busiest = max(runs, key=lambda run: sum(run["commands"].values()))
        self.order_per_running, self.order_per_waiting = _order_seconds(found)
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
        beats += site.idle_workers * self.commands_of("idle worker, a second")
        return site.jobs * job + beats + self.commands_of("idle API, a second")

    def redis_cores(self, site: Site) -> float:
        """Return the processor time of Redis a second."""
        order = 0.0  # of a job that waits alone
        if site.waiting:
            order = self.order_per_running * site.workers + self.order_per_waiting * site.waiting
        return self.commands(site) * self.command_seconds + site.jobs * order

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
        if site.follow != "poll":
            seconds = site.waits + site.job_seconds
            return float(cost_of("poll, waits") + seconds * cost_of(FOLLOWING[site.follow]))
        waiting = site.waits / POLL_SECONDS * cost_of("poll, waits")
        running = site.job_seconds / POLL_SECONDS * cost_of("poll, runs")
        return float(waiting + running + cost_of("poll, ended"))


def _order_seconds(found: Mapping[str, Any]) -> tuple[float, float]:
    """Return the seconds in which Redis orders a queue, for each job that runs, and that waits.

    From the rows without, with some and with `MAX_QUEUED` jobs that wait.
    """
    rows = {row["waiting"]: row for row in found["growth"]["figures"]["to queue a job"]}
    few = min(waiting for waiting in rows if waiting)
    lone, some, many = rows[0], rows[few], rows[MAX_QUEUED]
    each = (many["redis_ms"] - some["redis_ms"]) / (MAX_QUEUED - few) / 1e3
    running = (some["redis_ms"] - lone["redis_ms"]) / 1e3 - few * each
    return running / some["running"], each
