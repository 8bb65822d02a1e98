"""Examples for the OpenAPI document: values of a real run, and one for each error code.

`examples.json` has them by the name of a schema. What is inside such a value is also the example
of the schema that describes it, so not every schema needs one of its own.
"""

import json
from importlib.resources import files
from typing import Any

from rollout_core.errors import RolloutError
from service.openapi_rules import SCHEMAS, operations

Schema = dict[str, Any]

DETAILS = {
    "artifact_not_found": "the job has no artifact of this name; it has result.json, sheet.png",
    "form_invalid": "the form has no part named 'video'; "
    "its parts are 'video' (the file) and 'request' (JSON)",
    "internal": "internal error of the service",
    "invalid_request": "request.metod: no such field; did you mean method?",
    "job_not_found": "there is no such job",
    "queue_full": "64 jobs wait for 'moving-things' already",
    "range_not_satisfiable": "the file has 935650 bytes",
    "unauthorized": "the API key is not known",
    "unknown_model": "'moving-thing' is not known; known: moving-things; "
    "did you mean moving-things?",
    "upload_too_large": "the body has 600000000 bytes; at most 536870912 are accepted",
    "video_container_unsupported": "the file is not MP4, MOV, Matroska, WebM, AVI or MPEG-TS",
}
"""Details of problems as the service writes them; for other codes the class says what is wrong."""

INVALID_FIELD = {"field": "request.metod", "message": "no such field; did you mean method?"}


def problem_example(error: type[RolloutError], status: int) -> Schema:
    """Return a problem document of an error, as a named example."""
    meaning = (error.__doc__ or error.title).partition("\n")[0].rstrip(".")
    value = {
        "type": f"urn:rollout:problem:{error.code}",
        "title": error.title,
        "status": int(status),
        "detail": DETAILS.get(error.code, meaning),
        "code": error.code,
    }
    if error.code == "invalid_request":
        value["errors"] = [INVALID_FIELD]
    return {"summary": error.title, "value": value}


def plain_problem_example(status: int, code: str, title: str, detail: str) -> Schema:
    """Return a problem document that no error class describes, as a named example."""
    kind = f"urn:rollout:problem:{code}"
    value = {"type": kind, "title": title, "status": status, "detail": detail, "code": code}
    return {"summary": title, "value": value}


def add_examples(document: Schema) -> None:
    """Add examples to the schemas, and to the JSON bodies and answers of all operations."""
    schemas = document["components"]["schemas"]
    given = json.loads(files("service").joinpath("examples.json").read_text(encoding="utf-8"))
    found: dict[str, list[Any]] = {name: given[name] for name in given if name in schemas}
    for name, values in list(found.items()):
        for value in values:
            _harvest(schemas[name], value, schemas, found)
    for name, values in found.items():
        schemas[name]["examples"] = values
    for _, _, operation in (*operations(document), *operations(document, "webhooks")):
        for part in (operation.get("requestBody", {}), *operation["responses"].values()):
            for media_type in part.get("content", {}).values():
                _add_to_content(media_type, found)


def _add_to_content(media_type: Schema, found: dict[str, list[Any]]) -> None:
    name = media_type.get("schema", {}).get("$ref", "").removeprefix(SCHEMAS)
    if name in found and not media_type.keys() & {"example", "examples"}:
        media_type["example"] = found[name][0]


def _harvest(
    schema: Schema, value: Any, schemas: dict[str, Schema], found: dict[str, list[Any]]
) -> None:
    """Make what is inside `value` the example of the schema that describes it."""
    for member in schema.get("anyOf", ()):
        if value is not None or member.get("type") == "null":
            _harvest(member, value, schemas, found)
    if "$ref" in schema and isinstance(value, dict):
        name = schema["$ref"].removeprefix(SCHEMAS)
        found.setdefault(name, [value])
        _harvest(schemas[name], value, schemas, found)
    if isinstance(value, dict):
        for field, inner in schema.get("properties", {}).items():
            if field in value:
                _harvest(inner, value[field], schemas, found)
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            _harvest(schema["items"], item, schemas, found)
