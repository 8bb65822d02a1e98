"""The OpenAPI document, with parts FastAPI cannot derive: problem documents, the upload form."""

import json
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from rollout_core.contract import JobOptions, JobRequest
from rollout_core.errors import RolloutError
from rollout_core.jobs.schemas import JobEvent
from service import auth, openapi_rules
from service.errors import SessionEnded, Unauthorized
from service.openapi_examples import (
    add_examples,
    plain_problem_example,
    problem_example,
)
from service.openapi_rules import SCHEMAS
from service.openapi_webhooks import WEBHOOKS
from service.problems import MEDIA_TYPE, Problem, all_codes, status_of
from service.sessions import COOKIE
from service.uploads import REQUEST_PART, VIDEO_PART

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
    "description": "A form with the video, or JSON that names a video which the service has.",
    "content": {
        "multipart/form-data": {
            "schema": {"$ref": f"{SCHEMAS}JobForm"},
            "encoding": {
                VIDEO_PART: {"contentType": ", ".join(VIDEO_TYPES)},
                REQUEST_PART: {"contentType": "application/json"},
            },
        },
        "application/json": {"schema": {"$ref": f"{SCHEMAS}JobRequest"}},
    },
}
"""The bodies of the call that creates a job; the route reads them from the raw stream."""

REQUEST_MODELS: tuple[type[BaseModel], ...] = (JobOptions, JobRequest)
"""Models of the bodies that routes read themselves. FastAPI does not see them."""

JOB_FORM: dict[str, Any] = {
    "type": "object",
    "description": "A video, and what to explain of it.",
    "required": [VIDEO_PART],
    "additionalProperties": False,
    "properties": {
        VIDEO_PART: {
            "type": "string",
            "format": "binary",
            "description": "MP4, MOV, Matroska, WebM, AVI or MPEG-TS.",
        },
        REQUEST_PART: {"$ref": f"{SCHEMAS}JobOptions"},
    },
}

INFO = {
    "description": "Upload a video, follow its job until it ends, and fetch the files of its "
    "result: heat maps, a contact sheet, an overlay video and arrays. Errors are problem documents "
    "(RFC 9457) whose `code` is stable. Every answer has the header `X-Request-ID`: that of the "
    "request, or a new one. Answers may get more fields in later versions; a request with a field "
    "that does not exist is refused.",
    "contact": {"name": "The TimeSformer rollout authors"},
    "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
}

JOB_EVENTS: dict[str, Any] = {
    "description": "A stream of events, each with an id: `state` and `end`, whose data is the Job; "
    "`progress`, whose data is its Progress; `deleted`, whose data has the id of the job. It ends "
    "after `end` or `deleted`, and when the service shuts down.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}

VIDEO_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/octet-stream": {
            "schema": JOB_FORM["properties"][VIDEO_PART],
        },
    },
}
"""The body of the call that creates an upload. The media type of a video is ignored."""

KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key. Not needed if the service was started without a file of keys.",
}

SESSION_SCHEME = {
    "type": "apiKey",
    "in": "cookie",
    "name": COOKIE,
    "description": "The cookie that `POST /v1/session` sets, for pages of the service itself. A "
    "call that changes something also needs the `Origin` of the service.",
}

BY_KEY: dict[str, Any] = {"security": [{"key": []}]}
"""Marks a call that needs the key itself."""

WITHOUT_KEY: dict[str, Any] = {"security": []}

HEADERS = {
    "Location": "Path of what was created.",
    "Preference-Applied": "The preference that was honoured: wait=N.",
    "Retry-After": "Seconds to wait before the next request.",
    "ETag": "The SHA-256 of the file; a strong validator.",
    "Set-Cookie": "The cookie of the session; or an empty one, which ends it.",
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


def link_headers() -> dict[str, Any]:
    """Return the OpenAPI description of the headers of a redirect."""
    described = "Where the file is. Whoever has this URL can read it for a while."
    return {"Location": {"description": described, "schema": {"type": "string"}}}


def problems(*errors: type[RolloutError]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of a route's error answers, for its `responses`."""
    by_status: dict[int, list[type[RolloutError]]] = {}
    for error in errors:
        by_status.setdefault(status_of(error), []).append(error)
    described: dict[int | str, dict[str, Any]] = {
        str(status): _problem(status, by_status[status]) for status in sorted(by_status)
    }
    return {**described, "default": _problem(500, [RolloutError], "Any other error")}


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
        servers=[{"url": "/", "description": "The service that sent this document"}],
        separate_input_output_schemas=True,
    )
    document["info"].update(INFO)
    document["webhooks"] = deepcopy(WEBHOOKS)
    answers = {
        **document["components"]["schemas"],
        **_schemas_of(Problem, JobEvent, mode="serialization"),
    }
    answers["Problem"]["properties"]["code"]["enum"] = sorted(all_codes())
    requests = {**_schemas_of(*REQUEST_MODELS, mode="validation"), "JobForm": JOB_FORM}
    document["components"]["schemas"] = openapi_rules.join(
        openapi_rules.answer_schemas(answers, partial=frozenset({"Problem"})), requests
    )
    _require_keys(document)
    _strip_item_schemas(document)
    openapi_rules.simplify(document)
    openapi_rules.forbid_null_parameters(document)
    openapi_rules.describe_operations(document)
    add_examples(document)
    return document


def _strip_item_schemas(document: dict[str, Any]) -> None:
    """Remove what FastAPI says of the items of a stream: OpenAPI 3.1 does not know it."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                for content in response.get("content", {}).values():
                    content.pop("itemSchema", None)


def _schemas_of(*models: type[BaseModel], mode: JsonSchemaMode) -> dict[str, Any]:
    """Return the schemas of models, and of all models in them, by name."""
    _, found = models_json_schema(
        [(model, mode) for model in models], ref_template=f"{SCHEMAS}{{model}}"
    )
    definitions: dict[str, Any] = found["$defs"]
    return definitions


def _require_keys(document: dict[str, Any]) -> None:
    """Describe that the calls below `API_PREFIX` need a key or a session, and others do not."""
    document["components"]["securitySchemes"] = {"key": KEY_SCHEME, "session": SESSION_SCHEME}
    refused = problems(Unauthorized, SessionEnded)["401"]
    bad_request = _problem(400, [], "The request is not valid HTTP")
    example = plain_problem_example(400, "bad_request", "Bad Request", "invalid HTTP request")
    bad_request["content"][MEDIA_TYPE]["examples"] = {"bad_request": example}
    for path, _, operation in openapi_rules.operations(document):
        is_api = path.startswith(auth.API_PREFIX)
        operation.setdefault("security", [{"key": []}, {"session": []}] if is_api else [])
        if operation["security"]:
            operation["responses"]["401"] = refused
        if not is_api:
            operation["responses"]["400"] = bad_request


def _problem(
    status: int, errors: list[type[RolloutError]], description: str | None = None
) -> dict[str, Any]:
    examples = {error.code: problem_example(error, status) for error in errors}
    schema = {"$ref": f"{SCHEMAS}Problem"}
    names = () if description else _HEADERS_OF_PROBLEMS.get(status, ())
    titles = ". ".join(f"`{error.code}`: {error.title}" for error in errors)
    described: dict[str, Any] = {
        "description": description or titles,
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }
    return {**described, "headers": headers(*names)} if names else described
