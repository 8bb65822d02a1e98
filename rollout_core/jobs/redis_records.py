"""The records of jobs and the announcements of workers in Redis: their keys, reader and writer."""

from datetime import datetime
from typing import Literal

from pydantic import (
    Field,
)

from rollout_core.contract import Frozen
from rollout_core.model.specs import ModelSpec

TASK = "worker.task.explain"
"""Import path of the function that a worker runs for a job; its one argument is the job's id."""


WORKERS_KEY = "rollout:workers"
"""A Redis hash: name of a worker → its last `Announcement`."""


KNOWN_SECONDS = 24 * 3600
"""How long a model stays known after the last beat of a worker that serves it."""


LIVE_SECONDS = 15
"""How long after its last beat a worker counts as alive."""


def queue_name(model: str) -> str:
    """Return the name of the one queue on which `model`'s workers listen."""
    return f"rollout-{model}"


def job_key(job_id: str) -> str:
    """Return the Redis key of a job's `JobRecord`."""
    return f"rollout:job:{job_id}"


class Announcement(Frozen):
    """What a worker says of itself at every beat."""

    model: ModelSpec
    checkpoint_sha256: str | None
    engine: Literal["torch", "fake"]
    device: str
    ready: bool = Field(description="False while its engine is loading.")
    seconds_per_job: float | None = Field(None, description="Mean of its latest jobs.")
    beat_at: datetime
