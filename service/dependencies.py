"""The services that routes use, and FastAPI dependencies that pass them to a route.

The dependencies are coroutines that do not wait: FastAPI would run plain functions in threads.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, cast

from fastapi import Depends, Path
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from redis import Redis
from starlette.requests import Request

from rollout_core.jobs.store import ArtifactStore
from rollout_core.suggestions import suggest_or_list
from service.auth import ApiKeys, authenticate, is_api_path
from service.deliveries import Deliverer
from service.errors import JobNotFound, UploadNotFound
from service.fetch import VideoFetcher
from service.inventory import JOB_ID
from service.job_watcher import JobWatcher
from service.jobs import Jobs
from service.maintenance import Reconciler
from service.metrics import Metrics
from service.pools import Pools
from service.sessions import Sessions
from service.settings import Settings
from service.stored_uploads import StoredUploads
from service.upload_store import UPLOAD_ID
from service.usage import Owner

REPEATED = "given more than once"

LIST_HEADERS = frozenset({"prefer", "if-none-match"})
"""Headers whose value is a list. One that is given twice is a longer list."""


@dataclass(frozen=True)
class Services:
    """Everything a route may use; built once per app.

    Attributes:
        scraped: the client of Redis that `metrics` reads with.
        link_origin: where redirected downloads come from; None if they come from the service.
    """

    settings: Settings
    metrics: Metrics
    scraped: Redis
    redis: Redis
    store: ArtifactStore
    jobs: Jobs
    uploads: StoredUploads
    reconciler: Reconciler
    keys: ApiKeys | None
    sessions: Sessions | None
    watcher: JobWatcher
    pools: Pools
    deliverer: Deliverer
    fetcher: VideoFetcher
    link_origin: str | None = None


async def _services(request: Request) -> Services:
    return cast(Services, request.state.services)


async def _owner(request: Request) -> Owner | None:
    return cast(Owner | None, request.state.owner)


async def _owner_name(owner: Annotated[Owner | None, Depends(_owner)]) -> str | None:
    return owner.name if owner else None


async def _job_id(
    job_id: Annotated[
        str,
        Path(description="`id` of a job.", json_schema_extra={"pattern": f"^{JOB_ID.pattern}$"}),
    ],
) -> str:
    """Return the id; answer 404 to a malformed one, before it is used in a path."""
    if not JOB_ID.fullmatch(job_id):
        raise JobNotFound("there is no such job")
    return job_id


async def _upload_id(
    upload_id: Annotated[
        str,
        Path(
            description="`id` of an upload.", json_schema_extra={"pattern": f"^{JOB_ID.pattern}$"}
        ),
    ],
) -> str:
    """Return the id; answer 404 to a malformed one, before it is used in a path."""
    if not UPLOAD_ID.fullmatch(upload_id):
        raise UploadNotFound("there is no such upload")
    return upload_id


async def refuse_unknown_input(request: Request) -> None:
    """Refuse what a call of the API would ignore: unknown or repeated inputs, and a body.

    Raises:
        RequestValidationError: the request has such an input.
    """
    if not is_api_path(request.scope):
        return
    route = cast(APIRoute, request.scope["route"])
    known = set(_names(route.dependant, "query_params"))
    names = [name for name, _ in request.query_params.multi_items()]
    found = [("query", name, _unknown(name, known)) for name in names if name not in known]
    found += [("query", name, REPEATED) for name in known if names.count(name) > 1]
    for name in sorted(set(_names(route.dependant, "header_params"))):
        if name.lower() not in LIST_HEADERS and len(request.headers.getlist(name)) > 1:
            found.append(("header", name, REPEATED))
    if found:
        raise RequestValidationError(
            [{"loc": (kind, name), "msg": message} for kind, name, message in found]
        )
    takes_body = "requestBody" in (route.openapi_extra or {})
    if request.headers.get("content-length", "0") != "0" and not takes_body:
        raise RequestValidationError([{"loc": ("body",), "msg": "this call takes no body"}])


def _names(dependant: Dependant, kind: Literal["query_params", "header_params"]) -> Iterator[str]:
    """Yield the names of the parameters of a route and of its dependencies."""
    yield from (field.alias for field in getattr(dependant, kind))
    for below in dependant.dependencies:
        yield from _names(below, kind)


def _unknown(name: str, known: Iterable[str]) -> str:
    """Return why a query parameter is refused, and which ones there are."""
    names = sorted(known)
    if not names:
        return "this call has no parameters"
    return f"no such parameter; {suggest_or_list(name, names, what='the parameters are')}"


async def authenticate_again(request: Request, services: Services) -> Owner | None:
    """Return the owner of the key or session, which may have ended while the body arrived.

    Raises:
        Unauthorized: it has.
    """
    if services.keys:
        await services.pools.run("upload", services.keys.refresh)
    return authenticate(request.scope)


ServicesDep = Annotated[Services, Depends(_services)]
OwnerDep = Annotated[Owner | None, Depends(_owner)]
OwnerNameDep = Annotated[str | None, Depends(_owner_name)]
JobIdDep = Annotated[str, Depends(_job_id)]
UploadIdDep = Annotated[str, Depends(_upload_id)]
