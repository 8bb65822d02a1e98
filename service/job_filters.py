"""Which jobs a page of the list shows."""

from typing import NamedTuple

from rollout_core.jobs.records import JobState
from rollout_core.jobs.schemas import Job


class JobFilter(NamedTuple):
    """What a job must be like; None: it does not matter."""

    state: JobState | None = None
    tag: str | None = None
    model: str | None = None

    def accepts(self, job: Job) -> bool:
        """Return whether a job has all that is given."""
        return (
            self.state in (None, job.state)
            and self.tag in (None, job.tag)
            and self.model in (None, job.model)
        )
