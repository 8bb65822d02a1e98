"""Rules that make the OpenAPI document fit for generators of clients.

They hold for the whole document, so that a new call or field needs no rule of its own.

- Requests and answers have schemas of their own where they differ. A request refuses unknown
  fields, and a field with a default may be left out. An answer has all of its fields, and may get
  more of them in later versions.
- A default moves into the description. openapi-python-client drops each schema with a default that
  is an object or a list, and openapi-typescript makes each field with a default a required one.
- An operation with several bodies has an optional parameter: without one, openapi-python-client
  writes a module that cannot be imported.
- One allowed value is an `enum`, not a `const`, which the same generator drops in a union.
- Alternatives of alternatives are joined into one list. A tuple of like items is an array.
"""

import json
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

SCHEMAS = "#/components/schemas/"
REQUEST_SUFFIX = "Input"
"""Ends the name of a request's schema if the schema of answers with the same name differs."""

JSON_MEDIA_TYPES = ("application/json", "application/problem+json")


def walk(node: Any) -> Iterator[Schema]:
    """Yield every object of a document, a parent before what is in it."""
    if isinstance(node, dict):
        yield node
        for value in list(node.values()):
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def operations(document: Schema, section: str = "paths") -> Iterator[tuple[str, str, Schema]]:
    """Yield each operation with its path and its method.

    Args:
        section: `paths`, or `webhooks`, whose calls have names instead of paths.
    """
    for path, item in document[section].items():
        for method, operation in item.items():
            if isinstance(operation, dict) and "responses" in operation:
                yield path, method, operation


def answer_schemas(schemas: dict[str, Schema], *, partial: frozenset[str]) -> dict[str, Schema]:
    """Return schemas as they are in answers.

    Args:
        partial: schemas of answers in which a field may be absent.
    """
    return {name: _answer(schema, name not in partial) for name, schema in schemas.items()}


def join(answers: dict[str, Schema], requests: dict[str, Schema]) -> dict[str, Schema]:
    """Return both kinds of schemas; those of requests get another name where they differ."""
    names = {name: f"{name}{REQUEST_SUFFIX}" for name in _differing(answers, requests)}
    renamed = json.loads(json.dumps(requests))
    for node in walk(renamed):
        if isinstance(reference := node.get("$ref"), str):
            name = reference.removeprefix(SCHEMAS)
            node["$ref"] = SCHEMAS + names.get(name, name)
    return {**answers, **{names.get(name, name): schema for name, schema in renamed.items()}}


def simplify(document: Schema) -> None:
    """Write what generators cannot read in a way in which they can."""
    for rule in (_flatten_alternatives, _const_to_enum, _same_items):
        for node in walk(document):
            rule(node)
    for node in walk(document["components"]["schemas"]):
        _describe_default(node)
    for name, schema in document["components"]["schemas"].items():
        schema["title"] = name
        for node in walk(schema.get("properties", {})):
            if isinstance(node.get("title"), str):
                del node["title"]


def forbid_null_parameters(document: Schema) -> None:
    """Describe an optional parameter by its value alone: it is left out, never null."""
    for _, _, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            schema = parameter["schema"]
            members = [item for item in schema.get("anyOf", ()) if item.get("type") != "null"]
            if len(members) == 1:
                del schema["anyOf"]
                parameter["schema"] = {**schema, **members[0]}
            for name in ("title", "description"):
                parameter["schema"].pop(name, None)


def describe_operations(document: Schema) -> None:
    """Give each operation a summary, its answers descriptions, and binary contents first.

    A generator that reads one of several media types takes the first. Bytes are right for all.
    """
    schemas = document["components"]["schemas"]
    for _, _, operation in operations(document):
        operation["summary"] = _first_sentence(operation.get("description", ""))
        for status, response in operation["responses"].items():
            if content := response.get("content"):
                response["content"] = dict(sorted(content.items(), key=lambda item: _is_json(item)))
            if response["description"] == "Successful Response":
                response["description"] = _describe_answer(status, response, schemas)


def _first_sentence(text: str) -> str:
    first = text.partition("\n\n")[0].replace("\n", " ").replace("`", "")
    return first.partition(". ")[0].rstrip(".")


def _is_json(item: tuple[str, Any]) -> bool:
    return item[0] in JSON_MEDIA_TYPES


def _describe_answer(status: str, response: Schema, schemas: dict[str, Schema]) -> str:
    for media_type in response.get("content", {}).values():
        name = media_type.get("schema", {}).get("$ref", "").removeprefix(SCHEMAS)
        if name in schemas:
            return str(schemas[name]["description"]).partition("\n\n")[0]
    return "Done; the answer has no content" if status == "204" else "Done"


def _answer(schema: Schema, complete: bool) -> Schema:
    copy: Schema = json.loads(json.dumps(schema))
    for node in walk(copy):
        if node.get("additionalProperties") is False:
            del node["additionalProperties"]
    if complete and "properties" in copy:
        copy["required"] = list(copy["properties"])
        for field in copy["properties"].values():
            field.pop("default", None)
    return copy


def _differing(answers: dict[str, Schema], requests: dict[str, Schema]) -> set[str]:
    """Return the names whose schemas differ, or that lead to such a schema."""
    shared = answers.keys() & requests.keys()
    found = {name for name in shared if answers[name] != requests[name]}
    while True:
        grown = found | {name for name in shared if _references(requests[name]) & found}
        if grown == found:
            return found
        found = grown


def _references(schema: Schema) -> set[str]:
    references = (node.get("$ref") for node in walk(schema))
    return {name.removeprefix(SCHEMAS) for name in references if isinstance(name, str)}


def _flatten_alternatives(node: Schema) -> None:
    for key in ("oneOf", "anyOf"):
        if isinstance(node.get(key), list):
            node[key] = list(_alternatives(node, key))


def _alternatives(node: Schema, key: str) -> Iterator[Schema]:
    for member in node[key]:
        if set(member) == {key}:
            yield from _alternatives(member, key)
        else:
            yield member


def _describe_default(node: Schema) -> None:
    if "default" in node and _is_schema(node):
        default = node.pop("default")
        if default is not None:
            text = f"Default: `{json.dumps(default)}`."
            node["description"] = " ".join(filter(None, (node.get("description"), text)))


def _const_to_enum(node: Schema) -> None:
    if isinstance(node.get("const"), str) and _is_schema(node):
        node["enum"] = [node.pop("const")]


def _same_items(node: Schema) -> None:
    """Write a tuple whose items are all alike as an array of a fixed length."""
    prefix = node.get("prefixItems")
    if isinstance(prefix, list) and prefix and all(item == prefix[0] for item in prefix):
        del node["prefixItems"]
        node["items"] = prefix[0]


def _is_schema(node: Schema) -> bool:
    """Return whether an object is a schema, not a map of properties with such names."""
    return any(key in node for key in ("type", "anyOf", "oneOf", "allOf", "$ref"))
