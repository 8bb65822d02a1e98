"""The events of a job, as Server-Sent Events: `state`, `progress`, and `end` or `deleted`.

Each event has an id that says where in its life the job was. A client that comes back with the id
of the last event that it got misses nothing that still matters, and gets nothing twice.
"""

from collections.abc import Iterator

from fastapi.sse import ServerSentEvent

from rollout_core.jobs.schemas import Job

END = "end"
DELETED = "deleted"

RETRY_MILLISECONDS = 1000
"""Time after which a client should connect again if the stream breaks."""


def is_final(event_id: str | None) -> bool:
    """Return whether no event follows the one with this id."""
    return event_id in (END, DELETED)


def events_of(job: Job, last_id: str | None) -> Iterator[ServerSentEvent]:
    """Yield what a client does not know yet of a job, given the id of the last event it got."""
    if job.ended_at is not None:
        yield ServerSentEvent(event="end", id=END, data=job)
        return
    waits = f"{job.queue_position or 0}-{job.waiting_for or 'none'}"
    state_id = f"{job.attempt}-{job.state}-{waits}"
    if last_id is None or not f"{last_id}-".startswith(f"{state_id}-"):
        yield ServerSentEvent(event="state", id=state_id, data=job)
    if job.progress is not None:
        step = job.progress
        progress_id = f"{state_id}-{step.stage}-{step.done}-{step.total}"
        if progress_id != last_id:
            yield ServerSentEvent(event="progress", id=progress_id, data=step)


def deleted(job: Job) -> ServerSentEvent:
    """Return the event for a job that was deleted while it was followed."""
    return ServerSentEvent(event="deleted", id=DELETED, data={"id": job.id})
