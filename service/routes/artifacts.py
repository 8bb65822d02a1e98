"""Artifacts: the files of a job that has succeeded."""

from typing import Annotated

from fastapi import APIRouter, Header, Response

from rollout_core.contract import ExplainResult
from service import openapi
from service.artifacts import ArtifactResponse, find, not_modified
from service.dependencies import CallerName, KnownId, Use
from service.errors import (
    ArtifactExpired,
    ArtifactNotFound,
    JobNotFinished,
    JobNotFound,
    JobWithoutResult,
    RangeNotSatisfiable,
)

router = APIRouter(prefix="/v1/jobs/{job_id}/artifacts", tags=["artifacts"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.head("/{name}", include_in_schema=False)
@router.get(
    "/{name}",
    response_class=Response,
    responses={
        200: {
            "description": "The whole file, or with `Range` a 206 and a part of it",
            "model": ExplainResult,
            "headers": openapi.headers("ETag"),
            "content": {
                "application/octet-stream": _BINARY,
                "video/mp4": _BINARY,
                "image/png": _BINARY,
            },
        },
        206: {
            "description": "The part of the file that `Range` asks for",
            "headers": openapi.headers("ETag", "Content-Range"),
        },
        304: {
            "description": "`If-None-Match` names the file as it is",
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
def get_artifact(
    job_id: KnownId,
    name: str,
    services: Use,
    caller: CallerName,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Fetch `result.json`, `rollout.npz`, `sheet.png`, `overlay.mp4` or `faithfulness.png`.

    The ETag is the file's SHA-256.
    """
    path, artifact = find(services.store, services.queue.get(job_id, owner=caller), name)
    response = ArtifactResponse(path, artifact, job_id=job_id)
    if if_none_match and not_modified(if_none_match, response.headers["etag"]):
        return response.without_body()
    return response
