"""One format of log lines for all processes: text, or JSON.

    2026-11-27T21:07:22.123Z INFO worker.runner job_id=3f… attempt=1 request_id=9c…: succeeded

A line says what it is about: the request, the job, its attempt, its owner. These are not arguments
of each call. They are set once, for the present task (`set_about`) or for all threads of a process
that does one thing at a time (`process_about`), and every line within has them.

A message may have been chosen by a video or by a caller. It is one line without control characters,
of bounded length, and comes after the fields, so it can forge neither a line nor a field.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

PACKAGES = ("rollout_core", "service", "worker")
"""Only their levels follow the setting: details of other libraries may contain secrets."""

MAX_MESSAGE_LENGTH = 4000
"""Most characters of a message."""

MAX_TRACEBACK_LENGTH = 16_000
"""Most characters of a traceback; of a longer one the end is kept."""

_WORD = re.compile(r'[^ "]*[^ ":]')

INDENT = "    "
"""Before each line of a traceback in the text format, so that none of them looks like a record."""

FormatSetting = Annotated[
    LogFormat, Field(description="Form of log lines on standard error; json: one object a line.")
]
LevelSetting = Annotated[LogLevel, Field(description="Least level of log lines.")]

DEFAULT_FORMAT: LogFormat = "text"
DEFAULT_LEVEL: LogLevel = "info"


@dataclass(frozen=True)
class About:
    """What a line is about, as far as that is known."""

    request_id: str | None = None
    job_id: str | None = None
    attempt: int | None = None
    owner: str | None = None
    trace_id: str | None = None

    def known(self) -> dict[str, Any]:
        """Return the fields that are known."""
        return {name: value for name, value in vars(self).items() if value is not None}


_of_task: ContextVar[About] = ContextVar("log_about", default=About())  # noqa: B039, frozen
_of_process = About()


def present() -> About:
    """Return what a line that is written now is about."""
    return replace(_of_process, **_of_task.get().known())


def begin_about(**known: Any) -> None:
    """Let the rest of the present task be about these fields of `About` alone."""
    _of_task.set(About(**known))


def set_about(**known: Any) -> None:
    """Add fields of `About` to what the rest of the present task is about."""
    _of_task.set(replace(_of_task.get(), **known))


def forget_about() -> None:
    """Let the rest of the present task be about nothing: it serves others than who started it."""
    _of_task.set(About())


@contextmanager
def only_about(**known: Any) -> Iterator[None]:
    """Let the present task be about these fields of `About` alone inside the context."""
    token = _of_task.set(About(**known))
    try:
        yield
    finally:
        _of_task.reset(token)


@contextmanager
def task_about(**known: Any) -> Iterator[None]:
    """Add fields of `About` to what the present task is about inside the context."""
    token = _of_task.set(replace(_of_task.get(), **known))
    try:
        yield
    finally:
        _of_task.reset(token)


@contextmanager
def process_about(**known: Any) -> Iterator[None]:
    """Add fields of `About` to what all threads of this process are about inside the context."""
    global _of_process
    before = _of_process
    _of_process = replace(before, **known)
    try:
        yield
    finally:
        _of_process = before


def configure(style: LogFormat, level: LogLevel) -> None:
    """Write all log lines of this process to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    number = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, number))
    for package in PACKAGES:
        logging.getLogger(package).setLevel(number)
    logging.captureWarnings(capture=True)


def writes_json() -> bool:
    """Return whether this process writes its log lines as JSON."""
    return any(isinstance(item.formatter, JsonFormatter) for item in logging.getLogger().handlers)


@contextmanager
def telling_exit(command: str) -> Iterator[None]:
    """Let the last words of a process, a SystemExit with a text, be a record if lines are JSON."""
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.code, str) or not writes_json():
            raise
        logging.getLogger(command).critical("%s", end.code)
        raise SystemExit(1) from end


def tell(command: str, text: str) -> None:
    """Tell who started a command something, in one line; in a record if lines are JSON."""
    if writes_json():
        logging.getLogger(command).warning("%s", text)
    else:
        print(f"{command}: {text}", file=sys.stderr)  # noqa: T201


def escape(text: str) -> str:
    """Return a text as one line: with escapes for every character that is not printable."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def shorten(text: str, length: int) -> str:
    """Return the start of a text that is longer than `length` characters, and how much is left."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text) - length} more)"


def time_of(record: logging.LogRecord) -> str:
    """Return the time of a record: UTC, ISO 8601, in milliseconds."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


class TextFormatter(logging.Formatter):
    """Writes a record as a line: time, level, logger, fields, message; then its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and an indented line for each of the traceback."""
        fields = "".join(f" {name}={_quote(value)}" for name, value in _fields(record).items())
        head = f"{time_of(record)} {record.levelname} {record.name}{fields}"
        lines = [f"{head}: {_message(record)}"]
        lines += [INDENT + escape(line) for line in _traceback(self, record).splitlines()]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """Writes a record as a JSON object on one line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object. Its keys are those of the text, `exception` for the traceback."""
        found: dict[str, Any] = {
            "time": time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        found = found | _fields(record) | found  # no field replaces one that every line has
        if lines := _traceback(self, record).splitlines():
            found["exception"] = "\n".join(map(escape, lines))
        return json.dumps(found, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a record is about, and the fields that its call gave as `extra["fields"]`."""
    known = _of_process.known() | _of_task.get().known()
    return known | getattr(record, "fields", {})


def _message(record: logging.LogRecord) -> str:
    return escape(shorten(record.getMessage(), MAX_MESSAGE_LENGTH))


def _quote(value: object) -> str:
    """Return a value as one word without spaces, colons at its end, or quotes; else in quotes."""
    text = escape(str(value))
    return text if _WORD.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    text = "\n".join(parts)
    left = len(text) - MAX_TRACEBACK_LENGTH
    return text if left <= 0 else f"({left} more) …{text[left:]}"
