"""What the routes work with, built once per app and handed to each call."""

import re
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Path
from redis import Redis
from starlette.requests import Request

from rollout_core.jobs.store import ArtifactStore
from service.auth import ApiKeys
from service.errors import JobNotFound
from service.jobs import Jobs
from service.maintenance import Reconciler
from service.settings import Settings
from service.usage import Owner

JOB_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Services:
    """The collaborators of every route."""

    settings: Settings
    redis: Redis
    store: ArtifactStore
    queue: Jobs
    reconciler: Reconciler
    keys: ApiKeys | None


def _services(request: Request) -> Services:
    return cast(Services, request.state.services)


def _owner(request: Request) -> Owner | None:
    return cast(Owner | None, request.state.owner)


def _owner_name(owner: Annotated[Owner | None, Depends(_owner)]) -> str | None:
    return owner.name if owner else None


def _job_id(
    job_id: Annotated[str, Path(json_schema_extra={"pattern": f"^{JOB_ID.pattern}$"})],
) -> str:
    """Refuse what cannot be an id before it comes near a path; to the client it is just unknown."""
    if not JOB_ID.fullmatch(job_id):
        raise JobNotFound("there is no such job")
    return job_id


Use = Annotated[Services, Depends(_services)]
Caller = Annotated[Owner | None, Depends(_owner)]
CallerName = Annotated[str | None, Depends(_owner_name)]
KnownId = Annotated[str, Depends(_job_id)]
