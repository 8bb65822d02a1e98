"""Says in plain words why a request is invalid: paths as the caller wrote them, and hints.

Pydantic's own paths and texts name parts of our models that a caller has never seen, such as the
members of a union. The JSON schema of the model tells the two apart.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from rollout_core.patterns import WORDS
from rollout_core.suggestions import enumerate_choices, suggest, suggest_or_list

Path = tuple[str | int, ...]
Schema = dict[str, Any]

MAX_FAULTS = 20
LISTING = "the fields are"
"""Begins the list of all fields, which is given once for all unknown fields of an object."""

PREFACE = "Value error, "
"""Pydantic puts this before the messages of our own validators."""

_KINDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
    "tuple_type": "a list",
    "list_type": "a list",
}
"""Errors that say only that the value has another type, and the type that is expected."""

_COUNTS = {
    "too_short": "needs at least {min_length} {unit}, but has {actual_length}",
    "too_long": "takes at most {max_length} {unit}",
}

_JSON_FAULTS = {
    "EOF while parsing a value": "it ends where a value is expected",
    "EOF while parsing an object": "it ends inside an object",
    "EOF while parsing a list": "it ends inside a list",
    "EOF while parsing a string": "it ends inside a text",
    "expected value": "a value is expected here",
    "key must be a string": "a field name in double quotes is expected here",
    "trailing comma": "a comma stands before the closing bracket",
    "trailing characters": "the JSON has ended, but more text follows",
    "expected `:`": "a colon is expected here",
    "expected `,` or `}`": "a comma or } is expected here",
    "expected `,` or `]`": "a comma or ] is expected here",
    "expected ident": "only true, false, null, numbers, texts, lists and objects are values",
}
_AT = re.compile(r"(?:Invalid JSON: )?(.*) at line (\d+) column (\d+)", re.DOTALL)


@dataclass(frozen=True)
class Fault:
    """One reason why a request is invalid: the path of the field, a text, and what was given."""

    path: Path
    message: str
    given: Any = None


def explain_errors(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """Return why a value is not a valid `model`, one fault a field and reason."""
    details = error.errors(include_url=False)[:MAX_FAULTS]
    if not details or details[0]["type"] == "json_invalid":
        return [Fault((), explain_json(item["msg"])) for item in details]
    schema = model.model_json_schema()
    found: dict[Path, list[tuple[Any, str]]] = {}
    listed: set[Path] = set()
    for item in details:
        path, place = _resolve(item["loc"], schema, unknown=item["type"] == "extra_forbidden")
        text = explain(item, _fields(place, item["loc"][-1:]))
        if LISTING in text and path[:-1] in listed:
            text = explain(item)
        elif LISTING in text:
            listed.add(path[:-1])
        found.setdefault(path, []).append((item, text))
    return [
        fault for path, reasons in found.items() for fault in _merge(path, reasons, list(found))
    ]


def in_plain_words(error: ValidationError, model: type[BaseModel]) -> ValidationError:
    """Return the error with the texts and paths of `explain_errors`."""
    lines = [
        InitErrorDetails(
            type=PydanticCustomError("invalid_field", "{text}", {"text": fault.message}),
            loc=fault.path,
            input=fault.given,
        )
        for fault in explain_errors(error, model)
    ]
    return ValidationError.from_exception_data(error.title, lines)


def explain(error: Mapping[str, Any], fields: Iterable[str] = ()) -> str:
    """Return one error of pydantic in plain words.

    Args:
        fields: the fields that exist where an unknown one was found.
    """
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "extra_forbidden":
        hint = suggest_or_list(str(error["loc"][-1]), fields, what=LISTING)
        return "no such field" + (f"; {hint}" if hint else "")
    if kind == "missing":
        return "this field is required"
    if kind in ("literal_error", "enum"):
        return _explain_choice(error.get("input"), str(context["expected"]))
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}"
    if kind in _COUNTS:
        least = context.get("min_length", context.get("max_length"))
        return _COUNTS[kind].format(unit="item" if least == 1 else "items", **context)
    if kind == "string_pattern_mismatch":
        return WORDS.get(context["pattern"], "has not the form that is expected here")
    return _plain(str(error["msg"]))


def explain_json(message: str) -> str:
    """Return a message of the JSON parser in plain words, with the line and the column."""
    match = _AT.fullmatch(message)
    if match is None:
        return f"not valid JSON: {message.removeprefix('Invalid JSON: ')}"
    fault, line, column = match.groups()
    return f"not valid JSON, at line {line}, column {column}: {_JSON_FAULTS.get(fault, fault)}"


def _plain(message: str) -> str:
    text = message.removeprefix(PREFACE)
    for before, after in (
        ("Input should be ", "must be "),
        ("String should ", "must "),
        ("Value should ", "must "),
    ):
        text = text.replace(before, after) if text.startswith(before) else text
    return text


def _explain_choice(given: object, expected: str) -> str:
    choices = re.findall(r"'([^']*)'", expected)
    text = f"must be {enumerate_choices(choices)}" if choices else f"must be {expected}"
    hint = suggest(given, choices) if isinstance(given, str) and len(choices) > 1 else ""
    return f"{text}; {hint}" if hint else text


def _merge(path: Path, reasons: list[tuple[Any, str]], paths: list[Path]) -> Iterator[Fault]:
    """Yield the reasons for one field, without those that only follow from others.

    A value fails for each member of a union. The members of its own type say more than those of
    another one. And a list whose items are invalid is reported as too short.
    """
    below = any(len(other) > len(path) and other[: len(path)] == path for other in paths)
    reasons = [pair for pair in reasons if not (below and pair[0]["type"] == "too_short")]
    given = reasons[0][0].get("input") if reasons else None
    telling = [text for item, text in reasons if item["type"] not in _KINDS]
    if telling:
        for text in dict.fromkeys(telling):
            yield Fault(path, text, given)
    elif reasons:
        kinds = dict.fromkeys(_KINDS[item["type"]] for item, _ in reasons)
        yield Fault(path, f"must be {enumerate_choices(kinds)}", given)


def _resolve(location: Path, root: Schema, *, unknown: bool) -> tuple[Path, list[Schema]]:
    """Return the steps of a location that the caller wrote, and the schemas at their parent.

    Args:
        unknown: the last step is a field that does not exist.
    """
    path: list[str | int] = []
    here, parent = _expand(root, root), [root]
    for number, step in enumerate(location):
        below = _below(step, here, root)
        if below or number == 0 or (unknown and number == len(location) - 1):
            path.append(step)
            parent, here = here, below
    return tuple(path), parent


def _below(step: str | int, here: list[Schema], root: Schema) -> list[Schema]:
    found = []
    for schema in here:
        if isinstance(step, int):
            inner = schema.get("items")
        else:
            inner = schema.get("properties", {}).get(step)
        if isinstance(inner, dict):
            found += _expand(inner, root)
    return found


def _expand(schema: Schema, root: Schema) -> list[Schema]:
    """Return the alternatives of a schema, with references resolved."""
    if "$ref" in schema:
        return _expand(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    members = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return [found for member in members for found in _expand(member, root)] or [schema]


def _fields(place: list[Schema], unknown: Path) -> list[str]:
    """Return the names of the fields at a place, of those objects that lack the `unknown` one."""
    objects = [schema.get("properties", {}) for schema in place]
    lacking = [names for names in objects if not names.keys() & set(unknown)]
    return list(dict.fromkeys(name for names in lacking for name in names))
