"""What children write to their output: it becomes log records of the supervisor, within limits.

The engine and the template of media processes may write at any time, so a thread reads their output
as it comes. A media process may be compromised by its video; its output is read once, after its end
(see `worker.child`). In both cases a line is a text in a record of the supervisor, which has the
job id and the attempt. The formatter of `rollout_core.logs` escapes what could forge another one.
"""

import errno
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from threading import Thread
from typing import IO

from rollout_core.logs import shorten

MAX_LINE_LENGTH = 500
"""Most characters of a line that are logged."""

MAX_LINES = 200
"""Most lines of a process that is read as it writes, in each `LIMIT_SECONDS`."""

LIMIT_SECONDS = 60.0

READ_BYTES = 1 << 16

_ENDS = re.compile(rb"[\r\n]")

log = logging.getLogger(__name__)


@dataclass
class LineLimit:
    """Lets `MAX_LINES` through in each `LIMIT_SECONDS`, and counts the others."""

    skipped: int = 0
    _passed: int = 0
    _since: float = field(default_factory=time.monotonic)

    def admits(self) -> bool:
        """Return whether one more line may be logged now."""
        if time.monotonic() - self._since >= LIMIT_SECONDS:
            self._passed, self._since = 0, time.monotonic()
        self._passed += 1
        is_admitted = self._passed <= MAX_LINES
        self.skipped += not is_admitted
        return is_admitted

    def take_skipped(self) -> int:
        """Return how many lines were not let through since the last call."""
        skipped, self.skipped = self.skipped, 0
        return skipped


class OutputReader:
    """A thread that logs what a process writes, until the process has ended."""

    def __init__(self, name: str, pipe: IO[bytes]) -> None:
        """Read from now on; the pipe is closed at its end.

        Args:
            name: of the process, in the records.

        Raises:
            OSError: no thread can be started.
        """
        self._name = name
        self._limit = LineLimit()
        self._thread = Thread(target=self._run, args=(pipe,), name="child-output", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            pipe.close()
            raise OSError(errno.EAGAIN, str(error)) from error

    def finish(self, seconds: float) -> None:
        """Wait until all is logged that the process wrote before its end, but not for longer."""
        self._thread.join(seconds)

    def _run(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in _split(_chunks(pipe.fileno())):
                if self._limit.admits():
                    self._tell_skipped()
                    log_line(self._name, line)
        self._tell_skipped()

    def _tell_skipped(self) -> None:
        if skipped := self._limit.take_skipped():
            log.warning("%s wrote too much; left out: %d lines", self._name, skipped)


def log_line(name: str, line: bytes) -> None:
    """Log a line that the process `name` has written."""
    text = line[: 4 * MAX_LINE_LENGTH].decode(errors="replace")
    log.warning("%s wrote: %s", name, shorten(text, MAX_LINE_LENGTH))


def lines_of(output: bytes) -> list[bytes]:
    """Return the lines of an output that are not empty."""
    return [line for line in map(bytes.strip, _ENDS.split(output)) if line]


def _chunks(descriptor: int) -> Iterator[bytes]:
    while chunk := os.read(descriptor, READ_BYTES):
        yield chunk


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of an output; one that has no end comes in pieces."""
    rest = b""
    for chunk in chunks:
        *whole, rest = _ENDS.split(rest + chunk)
        yield from (line for line in map(bytes.strip, whole) if line)
        if len(rest) >= READ_BYTES:
            yield rest
            rest = b""
    yield from lines_of(rest)
