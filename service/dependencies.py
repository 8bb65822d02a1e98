"""The services that routes use, and FastAPI dependencies that pass them to a route.

The dependencies are coroutines that do not wait: FastAPI would run plain functions in threads.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, cast

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
from service.pools import Pools
from service.settings import Settings
from service.stored_uploads import StoredUploads
from service.upload_store import UPLOAD_ID
from service.usage import Owner


@dataclass(frozen=True)
class Services:
    """Everything a route may use; built once per app."""

    settings: Settings
    redis: Redis
    store: ArtifactStore
    jobs: Jobs
    uploads: StoredUploads
    reconciler: Reconciler
    keys: ApiKeys | None
    watcher: JobWatcher
    pools: Pools
    deliverer: Deliverer
    fetcher: VideoFetcher


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
    """Refuse what a call of the API would ignore: unknown or repeated parameters, and a body.

    Raises:
        RequestValidationError: the request has such an input.
    """
    if not is_api_path(request.scope):
        return
    route = cast(APIRoute, request.scope["route"])
    known = set(_query_names(route.dependant))
    names = [name for name, _ in request.query_params.multi_items()]
    found = [(name, _unknown(name, known)) for name in names if name not in known]
    found += [(name, "given more than once") for name in known if names.count(name) > 1]
    if found:
        raise RequestValidationError(
            [{"loc": ("query", name), "msg": message} for name, message in found]
        )
    takes_body = "requestBody" in (route.openapi_extra or {})
    if request.headers.get("content-length", "0") != "0" and not takes_body:
        raise RequestValidationError([{"loc": ("body",), "msg": "this call takes no body"}])


def _query_names(dependant: Dependant) -> Iterator[str]:
    """Yield the names of the query parameters of a route and of its dependencies."""
    yield from (field.alias for field in dependant.query_params)
    for below in dependant.dependencies:
        yield from _query_names(below)


def _unknown(name: str, known: Iterable[str]) -> str:
    """Return why a query parameter is refused, and which ones there are."""
    names = sorted(known)
    if not names:
        return "this call has no parameters"
    return f"no such parameter; {suggest_or_list(name, names, what='the parameters are')}"


async def authenticate_again(request: Request, services: Services) -> Owner | None:
    """Return the owner of the key, which may have been revoked while the body arrived.

    Raises:
        Unauthorized: it was.
    """
    if services.keys:
        await services.pools.run("upload", services.keys.refresh)
    return authenticate(request.scope)


ServicesDep = Annotated[Services, Depends(_services)]
OwnerDep = Annotated[Owner | None, Depends(_owner)]
OwnerNameDep = Annotated[str | None, Depends(_owner_name)]
JobIdDep = Annotated[str, Depends(_job_id)]
UploadIdDep = Annotated[str, Depends(_upload_id)]
