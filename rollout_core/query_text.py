"""The short forms of a query: text for the command line, and for requests in JSON."""

import re

CLS = "cls"
_COUNT = r"[0-9]{1,9}"
_NUMBER = r"(?:[0-9]{1,9}\.?[0-9]{0,9}|\.[0-9]{1,9})"
_PATCH = re.compile(
    rf"(?:(?P<clip>{_COUNT}):)?(?P<frame>{_COUNT}):(?P<row>{_COUNT}):(?P<column>{_COUNT})"
)
_POINT = re.compile(rf"(?P<x>{_NUMBER}):(?P<y>{_NUMBER})@(?P<seconds>{_NUMBER})")

JSON_PATTERN = rf"^((({_COUNT}):)?{_COUNT}:{_COUNT}:{_COUNT}|{_NUMBER}:{_NUMBER}@{_NUMBER})$"
"""Regular expression of both short forms, for JSON Schema."""

FORMS = (
    "write 'cls', a patch [CLIP:]FRAME:ROW:COLUMN such as '3:4:5', "
    "or a point X:Y@SECONDS such as '320:180@2.5'"
)
"""Explains what a query may be, for errors."""


def read_query(value: object) -> object:
    """Return the fields of a query in short form; anything else unchanged.

    Raises:
        ValueError: a text has neither form, or the value cannot be a query.
    """
    if isinstance(value, str) and value != CLS:
        if match := _PATCH.fullmatch(value):
            return {name: int(text) for name, text in match.groupdict().items() if text}
        if match := _POINT.fullmatch(value):
            return {name: float(text) for name, text in match.groupdict().items()}
        raise ValueError(f"this is not a query: {FORMS}")
    if value is None or isinstance(value, (bool, int, float)):
        raise ValueError(f"this is not a query: {FORMS}")
    return value
