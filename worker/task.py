"""The function that RQ calls for a job, by its path: `rollout_core.jobs.redis_records.TASK`."""

from collections.abc import Callable
from contextvars import ContextVar

runner: ContextVar[Callable[[str], None]] = ContextVar("runner")
"""What carries a job out in this process; the supervisor sets it around each job."""


def explain(job_id: str) -> None:
    """Bring a job to its end, inside the supervisor that took it."""
    runner.get()(job_id)
