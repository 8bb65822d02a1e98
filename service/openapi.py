"""The OpenAPI document, with parts FastAPI cannot derive: problem documents, the upload form."""

import json
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from rollout_core.contract import JobOptions, JobRequest
from rollout_core.errors import RolloutError
from service import auth
from service.errors import Unauthorized
from service.problems import MEDIA_TYPE, Problem, status_of
from service.uploads import REQUEST_PART, VIDEO_PART

_SCHEMAS = "#/components/schemas/"

VIDEO_TYPES = (
    "video/mp4",
    "video/quicktime",
    "video/matroska",
    "video/webm",
    "video/vnd.avi",
    "video/mp2t",
)
"""Media types of the accepted containers. The one that a client sends is ignored."""

UPLOAD_FORM: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [VIDEO_PART],
                "additionalProperties": False,
                "properties": {
                    VIDEO_PART: {
                        "type": "string",
                        "format": "binary",
                        "description": "MP4, MOV, Matroska, WebM, AVI or MPEG-TS.",
                    },
                    REQUEST_PART: {"$ref": f"{_SCHEMAS}JobOptions"},
                },
            },
            "encoding": {
                VIDEO_PART: {"contentType": ", ".join(VIDEO_TYPES)},
                REQUEST_PART: {"contentType": "application/json"},
            },
        },
        "application/json": {"schema": {"$ref": f"{_SCHEMAS}JobRequest"}},
    },
}
"""The body of the call that creates a job; the route reads it from the raw stream."""

_VIDEO_SCHEMA = UPLOAD_FORM["content"]["multipart/form-data"]["schema"]["properties"][VIDEO_PART]

JOB_EVENTS: dict[str, Any] = {
    "description": "A stream of events, each with an id: `state` and `end`, whose data is the Job; "
    "`progress`, whose data is its Progress; `deleted`, whose data has the id of the job. It ends "
    "after `end` or `deleted`, and when the service shuts down.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}

VIDEO_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": _VIDEO_SCHEMA},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [VIDEO_PART],
                "additionalProperties": False,
                "properties": {VIDEO_PART: _VIDEO_SCHEMA},
            },
            "encoding": {VIDEO_PART: {"contentType": ", ".join(VIDEO_TYPES)}},
        },
    },
}
"""The body of the call that creates an upload. The media type of a video is ignored."""

KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key. Not needed if the service was started without a file of keys.",
}

HEADERS = {
    "Location": "Path of what was created.",
    "Preference-Applied": "The preference that was honoured: wait=N.",
    "Retry-After": "Seconds to wait before the next request.",
    "ETag": "The SHA-256 of the file; a strong validator.",
    "WWW-Authenticate": "The scheme to use: Bearer.",
    "Content-Range": "The bytes sent and the file size; each part of several ranges has its own.",
}

_HEADERS_OF_PROBLEMS = {
    401: ("WWW-Authenticate",),
    416: ("Content-Range",),
    429: ("Retry-After",),
    503: ("Retry-After",),
    507: ("Retry-After",),
}


def headers(*names: str) -> dict[str, Any]:
    """Return the OpenAPI description of an answer's headers."""
    return {name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in names}


def problems(*errors: type[RolloutError]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of a route's error answers, for its `responses`."""
    titles: dict[int, list[str]] = {}
    for error in errors:
        titles.setdefault(status_of(error), []).append(f"`{error.code}`: {error.title}")
    described: dict[int | str, dict[str, Any]] = {
        str(status): _problem(". ".join(titles[status]), *_HEADERS_OF_PROBLEMS.get(status, ()))
        for status in sorted(titles)
    }
    return {**described, "default": _problem("Any other error")}


def install(app: FastAPI) -> None:
    """Make `app.openapi()` return the complete document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def render(app: FastAPI) -> str:
    """Return the document in the form that is committed."""
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


def _build(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        routes=app.routes,
        tags=app.openapi_tags,
        separate_input_output_schemas=app.separate_input_output_schemas,
    )
    for model in (Problem, JobOptions, JobRequest):
        schema = model.model_json_schema(ref_template=f"{_SCHEMAS}{{model}}")
        definitions = schema.pop("$defs")
        document["components"]["schemas"].update({**definitions, model.__name__: schema})
    _strip_item_schemas(document)
    _require_keys(document)
    return document


def _strip_item_schemas(document: dict[str, Any]) -> None:
    """Remove what FastAPI says of the items of a stream: OpenAPI 3.1 does not know it."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                for content in response.get("content", {}).values():
                    content.pop("itemSchema", None)


def _require_keys(document: dict[str, Any]) -> None:
    """Describe that the calls below `API_PREFIX` need a key."""
    document["components"]["securitySchemes"] = {"key": KEY_SCHEME}
    refused = problems(Unauthorized)["401"]
    for path, operations in document["paths"].items():
        if path.startswith(auth.API_PREFIX):
            for operation in operations.values():
                operation["security"] = [{"key": []}]
                operation["responses"]["401"] = refused


def _problem(description: str, *names: str) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}Problem"}}}
    described = {"headers": headers(*names)} if names else {}
    return {"description": description, "content": content, **described}
