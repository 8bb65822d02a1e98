"""Artifacts: the files of a job that has succeeded."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

from fastapi import APIRouter, Header
from fastapi import Path as Parameter
from starlette.requests import Request
from starlette.responses import Response

from rollout_core.contract import Artifact, ExplainResult
from rollout_core.jobs.folder_store import FileOnDisk
from rollout_core.jobs.media_types import content_disposition, disposition_of, media_type_of
from rollout_core.jobs.schemas import Job
from rollout_core.jobs.store import ArtifactStore, StoredFile
from service import openapi
from service.auth import API_PREFIX
from service.dependencies import JobIdDep, OwnerNameDep, ServicesDep
from service.errors import (
    ArtifactExpired,
    ArtifactNotFound,
    JobNotFinished,
    JobNotFound,
    JobWithoutResult,
    RangeNotSatisfiable,
)
from service.file_answers import FileAnswer, unless_current
from service.hosts import present_root_path
from service.object_answers import ObjectAnswer, link_to
from service.pools import in_pool

if TYPE_CHECKING:  # obstore is needed with a bucket only
    from rollout_core.jobs.object_store import StoredObject

router = APIRouter(prefix=f"{API_PREFIX}/jobs/{{job_id}}/artifacts", tags=["artifacts"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.get(
    "/{name}",
    response_class=Response,
    responses={
        200: {
            "description": "The whole file; with `Range`, the answer is 206 and a part of it",
            "model": ExplainResult,
            "headers": openapi.headers("ETag"),
            "content": {
                "application/octet-stream": _BINARY,
                "video/mp4": _BINARY,
                "image/png": _BINARY,
                "image/jpeg": _BINARY,
            },
        },
        206: {
            "description": "The part of the file given by `Range`",
            "headers": openapi.headers("ETag", "Content-Range"),
        },
        302: {
            "description": "A link to the file in the bucket of the store, for ten minutes, if the "
            "service is set so. Follow it without the API key",
            "headers": openapi.link_headers(),
        },
        304: {
            "description": "`If-None-Match` contains the ETag of the file",
            "headers": openapi.headers("ETag"),
        },
        **openapi.problems(
            JobNotFound,
            ArtifactNotFound,
            JobNotFinished,
            JobWithoutResult,
            ArtifactExpired,
            RangeNotSatisfiable,
        ),
    },
)
@in_pool("artifact")
def get_artifact(
    job_id: JobIdDep,
    name: Annotated[str, Parameter(description="`name` of an artifact.", examples=["sheet.png"])],
    request: Request,
    services: ServicesDep,
    owner: OwnerNameDep,
    if_none_match: Annotated[
        str | None, Header(description="An ETag that you have; if it is current, 304.")
    ] = None,
) -> Response:
    """Fetch a file of the result, by its name among the artifacts of the job.

    The ETag is the file's SHA-256.
    """
    file, artifact = find(services.store, services.jobs.get(job_id, owner=owner), name)
    if isinstance(file, FileOnDisk):
        return ArtifactResponse(file.path, artifact, job_id=job_id).unless_current(if_none_match)
    stored = cast("StoredObject", file)
    media_type = media_type_of(name)
    disposition = content_disposition(_file_name(job_id, artifact), media_type)
    headers = {"Content-Type": media_type, "Content-Disposition": disposition}
    whole = ObjectAnswer(stored, headers | _headers(artifact))
    answer = unless_current(whole, if_none_match)
    redirects = services.settings.downloads == "redirect" and request.method == "GET"
    return link_to(stored) if answer is whole and redirects else answer


def artifact_url(job_id: str, name: str) -> str:
    """Return the path at which this service answers the present request with an artifact."""
    return present_root_path() + router.url_path_for("get_artifact", job_id=job_id, name=name)


def with_present_urls(job: Job) -> Job:
    """Return a job, which may have been read for other requests, with the URLs of this one."""
    if job.result is None:
        return job
    artifacts = tuple(
        file.model_copy(update={"url": artifact_url(job.id, file.name)})
        for file in job.result.artifacts
    )
    return job.model_copy(update={"result": job.result.model_copy(update={"artifacts": artifacts})})


def find(store: ArtifactStore, job: Job, name: str) -> tuple[StoredFile, Artifact]:
    """Return an artifact, and its description.

    Raises:
        JobNotFinished: the job waits or runs.
        JobWithoutResult: the job failed or was canceled.
        ArtifactExpired: the files were removed because of their age.
        ArtifactNotFound: the job has no artifact of this name.
    """
    if job.result is None:
        _raise_without_result(job)
    if store.has_expired(job.id):
        raise ArtifactExpired("the files of this job were removed because of their age")
    for artifact in job.result.artifacts:
        if artifact.name == name and (file := store.artifact(job.id, name)):
            return file, artifact
    names = ", ".join(artifact.name for artifact in job.result.artifacts)
    raise ArtifactNotFound(f"the job has no artifact of this name; it has {names}")


class ArtifactResponse(FileAnswer):
    """The answer with a file, which never changes but may be deleted."""

    def __init__(self, path: Path, artifact: Artifact, *, job_id: str) -> None:
        """Answer with the file at `path`.

        Raises:
            ArtifactNotFound: the file has just been deleted.
        """
        try:
            stat_result = path.stat()
        except FileNotFoundError as error:
            raise ArtifactNotFound("the file has just been deleted") from error
        media_type = media_type_of(artifact.name)
        super().__init__(
            path,
            stat_result=stat_result,
            media_type=media_type,
            filename=_file_name(job_id, artifact),
            content_disposition_type=disposition_of(media_type),
            headers=_headers(artifact),
        )


def _headers(artifact: Artifact) -> dict[str, str]:
    return {
        "ETag": f'"{artifact.sha256}"',
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
    }


def _file_name(job_id: str, artifact: Artifact) -> str:
    """Return the name under which a browser saves an artifact."""
    return f"{job_id[:8]}-{artifact.name}"


def _raise_without_result(job: Job) -> NoReturn:
    if job.state in ("failed", "canceled"):
        raise JobWithoutResult(f"the job is {job.state}; it has no artifacts")
    raise JobNotFinished(f"the job is {job.state}; it has no artifacts yet")
