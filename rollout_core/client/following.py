"""Follows a job: by its event stream, and by asking again where there is none."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from httpx2 import ServerSentEvent

from rollout_core.client.errors import ClientError, RolloutConnectionError, WaitTimeout
from rollout_core.client.sender import Sender, is_missing_call, job_path, parse
from rollout_core.client.transport import Call, Stream
from rollout_core.jobs.records import JobState, Progress
from rollout_core.jobs.schemas import Job

EventKind = Literal["state", "progress", "end"]

OPEN_STATES: tuple[JobState, ...] = ("queued", "running")

STREAM_SILENCE_SECONDS = 45.0
"""The service sends something every 15 s."""

LONG_POLL_SECONDS = 20
FIRST_POLL_SECONDS = 0.2
MOST_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job.

    Attributes:
        kind: `end` is the last event.
        job: as it is now; None for `progress`.
        progress: of the present stage, if the job runs.
    """

    kind: EventKind
    job: Job | None
    progress: Progress | None


class Following:
    """Waits for the end of jobs."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    async def wait(self, job: Job | str, *, timeout_seconds: float | None = None) -> Job:
        """Return the job once it has ended.

        Raises:
            WaitTimeout: it has not ended after `timeout_seconds`. It goes on.
            RolloutApiError, RolloutConnectionError: it cannot be followed.
        """
        if isinstance(job, Job) and job.state not in OPEN_STATES:
            return job
        # Without a timeout, the stream tells of the end soonest. Its silence cannot be cut short.
        events = self.events(job) if timeout_seconds is None else self._poll(job, timeout_seconds)
        ended = None
        async for event in events:
            ended = event.job
        if ended is None:
            raise ClientError("the events of the job have no end")
        return ended

    async def events(self, job: Job | str) -> AsyncIterator[JobEvent]:
        """Yield what happens to a job, up to its end. Lost connections are made again."""
        last_id, failures, has_worked = "", 0, False
        while True:
            failure: ClientError = RolloutConnectionError("the stream of events has ended")
            try:
                async with self._sender.stream(_events_call(job, last_id)) as stream:
                    if not _has_events(stream):
                        break
                    async for sent in stream.events():
                        failures, has_worked = 0, True
                        last_id = sent.id or last_id
                        event = _read_event(sent)
                        if event is not None:
                            yield event
                        if event is not None and event.kind == "end":
                            return
            except ClientError as error:
                failure = error
            if is_missing_call(failure):
                break
            broke = isinstance(failure, RolloutConnectionError) and not failure.unsent
            if broke and not has_worked:
                break  # a proxy on the way may keep back what is not complete
            failures += 1
            await self._sender.pause(failures, failure)
        async for event in self._poll(job):
            yield event

    async def _poll(
        self, job: Job | str, timeout_seconds: float | None = None
    ) -> AsyncIterator[JobEvent]:
        """Ask again and again; where the service can, it answers when the job has ended."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        pause, before = FIRST_POLL_SECONDS, None
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            wait = LONG_POLL_SECONDS if left is None else min(LONG_POLL_SECONDS, int(left))
            answer = await self._sender.send(_wait_call(job, wait))
            now = parse(Job, answer.body)
            for event in _differences(before, now):
                yield event
            if now.state not in OPEN_STATES:
                return
            if left is not None and left <= 0:
                raise WaitTimeout(f"job {now.id} is still {now.state} after {timeout_seconds:g} s")
            if wait == 0 or "preference-applied" not in answer.headers:
                await self._sender.driver.sleep(pause if left is None else min(pause, left))
                pause = min(MOST_POLL_SECONDS, pause * 1.5)
            before = now


def _events_call(job: Job | str, last_id: str) -> Call:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if last_id:
        headers["Last-Event-ID"] = last_id
    return Call(
        "GET", job_path(job, "events"), headers=headers, read_seconds=STREAM_SILENCE_SECONDS
    )


def _wait_call(job: Job | str, seconds: int) -> Call:
    """Ask for a job. A service that does not know the header ignores it."""
    headers = {"Prefer": f"wait={seconds}"} if seconds else {}
    return Call("GET", job_path(job), headers=headers, read_seconds=seconds + 30)


def _has_events(stream: Stream) -> bool:
    return stream.headers.get("content-type", "").startswith("text/event-stream")


def _read_event(sent: ServerSentEvent) -> JobEvent | None:
    """Return what an event says; None for a kind that this release does not know."""
    if sent.event == "progress":
        return JobEvent("progress", None, parse(Progress, sent.data))
    if sent.event == "state" or sent.event == "end":
        job = parse(Job, sent.data)
        return JobEvent("end" if sent.event == "end" else "state", job, job.progress)
    return None


def _differences(before: Job | None, now: Job) -> list[JobEvent]:
    if now.state not in OPEN_STATES:
        return [JobEvent("end", now, None)]
    if before is None or (before.state, before.attempt) != (now.state, now.attempt):
        return [JobEvent("state", now, now.progress)]
    if now.progress is not None and now.progress != before.progress:
        return [JobEvent("progress", None, now.progress)]
    return []
