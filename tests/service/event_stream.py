"""A strict reader of Server-Sent Events, as the WHATWG's HTML standard says browsers read them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One event that a browser would dispatch."""

    type: str
    data: str
    last_event_id: str


class EventStream:
    """Parses lines; knows the last event id and the reconnection time, as EventSource does."""

    def __init__(self) -> None:
        self.last_event_id = ""
        self.retry_milliseconds: int | None = None
        self.comments = 0
        self._id_buffer = ""
        self._type = ""
        self._data: list[str] = []

    def events(self, lines: Iterable[str]) -> Iterator[Event]:
        """Yield the events of a stream, given its lines without their ends."""
        for line in lines:
            if line:
                self._field(line)
                continue
            self.last_event_id = self._id_buffer
            if self._data:
                yield Event(self._type or "message", "\n".join(self._data), self.last_event_id)
            self._type, self._data = "", []

    def _field(self, line: str) -> None:
        if line.startswith(":"):
            self.comments += 1
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._type = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id_buffer = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_milliseconds = int(value)
        elif name not in ("id", "retry"):
            raise AssertionError(f"a field that no browser knows: {line!r}")
