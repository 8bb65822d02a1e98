"""What logs and traces say of a job in its worker: how long it waited, its attempts, their stages.

The supervisor makes all spans. Its children have no sockets, and it knows their times.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rollout_core import logs, tracing
from rollout_core.jobs.records import JobRecord, JobState, Origin, Ticket
from rollout_core.timings import Timings

LOST = {"rollout.state": "lost"}
"""Of the span of an attempt that another one should follow."""

log = logging.getLogger(__name__)


class Timed(Protocol):
    """What a trace needs of an attempt; `worker.attempt.Attempt` has it."""

    timings: Timings
    clips: int


A = TypeVar("A", bound=Timed)


@contextmanager
def of_job(ticket: Ticket, origin: Origin) -> Iterator[None]:
    """Let log lines inside the context say whose job it is, and which request submitted it."""
    trace_id = tracing.trace_id_of(origin.traceparent)
    with logs.process_about(owner=ticket.owner, request_id=origin.request_id, trace_id=trace_id):
        yield


@contextmanager
def of_attempt(ticket: Ticket, record: JobRecord, origin: Origin) -> Iterator[None]:
    """Let log lines and spans inside the context belong to an attempt.

    A span of the time in the queue precedes that of the first attempt.
    """
    job = {"rollout.job_id": ticket.id, "rollout.model": ticket.model}
    numbered: dict[str, str | int] = {**job, "rollout.attempt": record.attempt}
    parent = origin.traceparent
    if record.attempt == 1 and record.started_at:
        now = time.monotonic()
        waited = (record.started_at - ticket.created_at).total_seconds()
        tracing.add_span("queue", now - max(0.0, waited), now, parent=parent, attributes=job)
    with (
        logs.process_about(attempt=record.attempt),
        tracing.span("attempt", parent=parent, attributes=numbered),
    ):
        yield


@contextmanager
def of_stages(attempt: A) -> Iterator[A]:
    """Make a span of each stage of an attempt when the context ends, however it ends.

    The clips of a video are decoded and explained in turns. A stage has one span, from its first
    beginning to its last end; its attribute `rollout.seconds` is the time that it took of these.
    """
    try:
        yield attempt
    finally:
        tracing.annotate({"rollout.clips": attempt.clips})
        for stage, (began, ended) in attempt.timings.periods.items():
            seconds = attempt.timings.seconds[stage]
            known = {"rollout.seconds": seconds, "rollout.clips": attempt.clips}
            tracing.add_span(stage, began, ended, attributes=known)


def log_end(state: JobState, seconds: float, why: str | None = None) -> None:
    """Log the end of a job, and add it to the span of its attempt.

    Args:
        seconds: that its last attempt took.
    """
    tracing.annotate({"rollout.state": state})
    text = f": {why}" if why else ""
    fields = {"state": state, "seconds": round(seconds, 3)}
    log.info("%s after %.1f s%s", state, seconds, text, extra={"fields": fields})
