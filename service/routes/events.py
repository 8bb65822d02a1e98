"""A job's events, as Server-Sent Events."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from rollout_core.jobs.schemas import Job
from service import openapi
from service.auth import API_PREFIX
from service.dependencies import JobIdDep, OwnerNameDep, ServicesDep
from service.errors import JobNotFound
from service.job_events import RETRY_MILLISECONDS, deleted, events_of, is_final
from service.problems import NothingFollows
from service.routes.artifacts import with_present_urls

router = APIRouter(prefix=f"{API_PREFIX}/jobs", tags=["jobs"])

LastEventId = Annotated[
    str | None, Header(max_length=200, description="Id of the last event that the client got.")
]


async def _followed(
    job_id: JobIdDep,
    services: ServicesDep,
    owner: OwnerNameDep,
    last_event_id: LastEventId = None,
) -> Job:
    """Return the job before the stream begins, so that an error still has its status."""
    job = await services.pools.run("lookup", services.jobs.get, job_id, owner=owner)
    if is_final(last_event_id):
        raise NothingFollows
    return job


FollowedJob = Annotated[Job, Depends(_followed)]


@router.get(
    "/{job_id}/events",
    response_class=EventSourceResponse,
    responses={
        200: openapi.JOB_EVENTS,
        204: {"description": "The client has had the last event. It does not connect again."},
        **openapi.problems(JobNotFound),
    },
)
async def follow_job(
    job: FollowedJob, services: ServicesDep, last_event_id: LastEventId = None
) -> AsyncIterator[ServerSentEvent]:
    """Send the job at each change of its state, its progress, and at last how it ended."""
    yield ServerSentEvent(retry=RETRY_MILLISECONDS)
    last_id = last_event_id
    async with services.watcher.watching(job) as watch:
        for event in events_of(job, last_id):
            last_id = event.id
            yield event
        if job.ended_at is not None:
            return
        async for latest in watch.changes():
            if latest is None:
                yield deleted(job)
                return
            for event in events_of(with_present_urls(latest), last_id):
                last_id = event.id
                yield event


@router.head("/{job_id}/events", include_in_schema=False)
async def look_at_events(_: FollowedJob) -> Response:
    """Return the headers of the stream."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    response = Response(media_type=EventSourceResponse.media_type, headers=headers)
    del response.headers["Content-Length"]
    return response
