"""The fields of a request as flags of the command, and back."""

import argparse
from types import NoneType
from typing import Any, get_args

from pydantic.fields import FieldInfo

from rollout_core import query_text
from rollout_core.contract import FakeScript, Frozen, JobOptions, Overlay, Webhook

SPECIAL = ("target", "query", "overlay", "fake", "webhook")
NESTED: dict[str, type[Frozen]] = {"overlay.": Overlay, "fake.": FakeScript}
"""Fields that have fields of their own, by the prefix of these flags."""

TARGET_HELP = (
    "class to explain, by index or label, or predicted; may be repeated for contribution_rollout "
    "and difference, the first one is drawn"
)
QUERY_HELP = (
    "token to explain: cls, a patch [CLIP:]FRAME:ROW:COLUMN counted from 0, or the patch at a "
    "point X:Y@SECONDS of the video; may be repeated, the first one is drawn"
)


def add_request_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every field of a request. A flag that is not given sets nothing."""
    group = parser.add_argument_group("request", "all optional; see docs/api.md")
    for name, field in JobOptions.model_fields.items():
        if name not in SPECIAL:
            _add_flag(group, name, field)
    group.add_argument("--target", action="append", metavar="CLASS", help=TARGET_HELP)
    group.add_argument("--query", action="append", metavar="QUERY", help=QUERY_HELP)
    for prefix, nested in NESTED.items():
        for name, field in nested.model_fields.items():
            _add_flag(group, prefix + name, field)
    group.add_argument("--no-overlay", action="store_true", help="make no overlay video")
    group.add_argument("--webhook", metavar="URL", help="address that is told of the job's end")
    events = get_args(get_args(Webhook.model_fields["events"].annotation)[0])
    group.add_argument("--webhook-event", action="append", choices=events, help="may be repeated")


def read_request(arguments: argparse.Namespace) -> JobOptions:
    """Return the request that the flags describe; only what was given is set.

    Raises:
        ValueError: a value is wrong, or does not go with another. A ValidationError is one.
    """
    given = vars(arguments)
    request = {name: given[name] for name in JobOptions.model_fields.keys() & given.keys()}
    for name in SPECIAL:
        request.pop(name, None)
    overlay, fake = (_given_below(prefix, given) for prefix in NESTED)
    if arguments.no_overlay and overlay:
        raise ValueError("--no-overlay does not go with flags of the overlay")
    if arguments.no_overlay or overlay:
        request["overlay"] = overlay or None
    if fake:
        request["fake"] = fake
    if arguments.target:
        targets = arguments.target
        request["target"] = targets if len(targets) > 1 else targets[0]
    if arguments.query:
        queries = [read_query(query) for query in arguments.query]
        request["query"] = queries if len(queries) > 1 else queries[0]
    if arguments.webhook_event and not arguments.webhook:
        raise ValueError("--webhook-event needs --webhook")
    if arguments.webhook:
        events = {"events": arguments.webhook_event} if arguments.webhook_event else {}
        request["webhook"] = {"url": arguments.webhook} | events
    return JobOptions(**request)


def read_query(text: str) -> Any:
    """Return the fields of a query in short form.

    Raises:
        ValueError: it is none.
    """
    try:
        return query_text.read_query(text)
    except ValueError as error:
        raise ValueError(
            f"query: {text!r} is not cls, [CLIP:]FRAME:ROW:COLUMN or X:Y@SECONDS"
        ) from error


def _given_below(prefix: str, given: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)
    }


def _add_flag(group: argparse._ArgumentGroup, name: str, field: FieldInfo) -> None:
    flag = f"--{name.replace('_', '-')}"
    text = (field.description or "").rstrip(".").replace("%", "%%")
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
    if field.annotation is bool:
        if field.default is True:
            options["help"] = f"Turn this off: {text}"
            group.add_argument(f"--no-{name}", action="store_false", **options)
        else:
            group.add_argument(flag, action="store_true", **options)
        return
    choices = _choices(field.annotation)
    metavar = None if choices else name.rpartition(".")[2].upper()
    group.add_argument(flag, choices=choices or None, metavar=metavar, **options)


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the words of a Literal, also of one that may be None."""
    found = get_args(annotation)
    if found and all(isinstance(value, str) for value in found):
        return found
    (inner, *more) = [kind for kind in found if kind is not NoneType] or (None,)
    return _choices(inner) if inner is not None and not more else ()
