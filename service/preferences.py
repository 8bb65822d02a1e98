"""How long a call may wait for the end of a job: `Prefer: wait=N` (RFC 7240), or `?wait=N`."""

import asyncio
import re
from typing import Annotated

from fastapi import Depends, Header, Query
from starlette.requests import Request
from starlette.responses import Response

from rollout_core.jobs.schemas import Job
from service.errors import JobNotFound
from service.job_watcher import JobWatcher

MAX_WAIT_SECONDS = 60

_WAIT = re.compile(r'\s*wait\s*=\s*(?:(\d{1,9})|"(\d{1,9})")\s*(?:;.*)?', re.IGNORECASE)


class Wait:
    """The seconds that a call may wait."""

    def __init__(self, seconds: int, *, is_preferred: bool) -> None:
        """Set the seconds; `is_preferred`: the header asks for them."""
        self.seconds = seconds
        self._is_preferred = is_preferred

    async def for_end(
        self, job: Job, watcher: JobWatcher, request: Request, response: Response
    ) -> Job:
        """Return the job once it has ended, the time is over, or the client is gone.

        Raises:
            JobNotFound: it was deleted meanwhile.
        """
        if self._is_preferred:
            response.headers["Preference-Applied"] = f"wait={self.seconds}"
        if self.seconds == 0 or job.ended_at is not None:
            return job
        waiting = asyncio.ensure_future(watcher.wait_for_end(job, self.seconds))
        leaving = asyncio.ensure_future(_until_disconnected(request))
        try:
            await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            latest = waiting.result() if waiting.done() else job
            if latest is None:
                raise JobNotFound(f"the job {job.id} was deleted meanwhile")
            return latest
        finally:
            for task in (waiting, leaving):
                task.cancel()
            await asyncio.gather(waiting, leaving, return_exceptions=True)


async def _wait(
    request: Request,
    _: Annotated[
        str | None,
        Header(
            alias="Prefer",
            description="`wait=N`: answer once the job has ended, after N seconds at most.",
        ),
    ] = None,
    wait: Annotated[
        int | None,
        Query(
            ge=0,
            le=MAX_WAIT_SECONDS,
            description="Answer once the job has ended, after this many seconds at most.",
        ),
    ] = None,
) -> Wait:
    """Read both; the parameter counts more. A header that is not understood is ignored."""
    if wait is not None:
        return Wait(wait, is_preferred=False)
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        if match := _WAIT.fullmatch(preference):
            seconds = min(int(match[1] or match[2]), MAX_WAIT_SECONDS)
            return Wait(seconds, is_preferred=True)
    return Wait(0, is_preferred=False)


async def _until_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


WaitDep = Annotated[Wait, Depends(_wait)]
