"""The function that RQ calls for a job: `rollout_core.jobs.redis_records.TASK`.

Its path must not change: jobs in the queue name it.
"""

from collections.abc import Callable
from contextvars import ContextVar

runner: ContextVar[Callable[[str], None]] = ContextVar("runner")
"""Runs a job in this process, given the job's id. The supervisor sets it around each job."""


def explain(job_id: str) -> None:
    """Run a job in the supervisor that took it from the queue."""
    runner.get()(job_id)
