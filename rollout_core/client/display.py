"""Progress on a terminal: one line for each video that is under way.

Without a terminal, a line is written when a video enters a new phase. Results go to standard
output, everything else to standard error.
"""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import TextIO

REDRAW_SECONDS = 0.1
BAR_CELLS = 24


class Display:
    """The lines of all videos. Threads may share it."""

    def __init__(
        self, out: TextIO | None = None, err: TextIO | None = None, *, quiet: bool = False
    ) -> None:
        """Make a display.

        Args:
            quiet: show no progress.
        """
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._quiet = quiet
        self._live = not quiet and self._err.isatty()
        self._lines: dict[str, str] = {}
        self._phases: dict[str, str] = {}
        self._drawn = 0
        self._drawn_at = 0.0
        self._lock = RLock()

    def show(
        self, name: str, phase: str, done: int | None = None, total: int | None = None
    ) -> None:
        """Say what happens to a video; with `total`, as a bar."""
        with self._lock:
            is_new = self._phases.get(name) != phase
            self._phases[name] = phase
            bar = _bar(done or 0, total) if total else ""
            self._lines[name] = f"{printable(name)}: {printable(phase)} {bar}".rstrip()
            if self._live:
                self._draw(at_once=is_new or (total is not None and done == total))
            elif is_new and not self._quiet:
                self._write(self._err, f"{printable(name)}: {printable(phase)}")

    def end(self, name: str, result: str | None = None) -> None:
        """Remove the line of a video, and print its result."""
        with self._lock:
            self._lines.pop(name, None)
            self._phases.pop(name, None)
            if result is not None:
                self.print(result)
            elif self._live:
                self._draw(at_once=True)

    def print(self, text: str) -> None:
        """Write a line to standard output."""
        with self._lock, self._aside():
            self._write(self._out, text)

    def complain(self, text: str) -> None:
        """Write a line to standard error."""
        with self._lock, self._aside():
            self._write(self._err, text)

    def close(self) -> None:
        """Remove all lines."""
        with self._lock:
            self._lines.clear()
            if self._live:
                self._draw(at_once=True)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Take the lines away, and draw them again below what is written meanwhile."""
        if self._live:
            self._erase()
        yield
        if self._live:
            self._draw(at_once=True)

    def _draw(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if not at_once and now - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at = now
        self._erase()
        size = shutil.get_terminal_size()
        lines = list(self._lines.values())[: max(1, size.lines - 2)]
        self._err.write("".join(f"{line[: size.columns - 1]}\n" for line in lines))
        self._err.flush()
        self._drawn = len(lines)

    def _erase(self) -> None:
        if self._drawn:
            self._err.write(f"\x1b[{self._drawn}F\x1b[J")
            self._err.flush()
        self._drawn = 0

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        stream.write(f"{text}\n")
        stream.flush()


def printable(text: str) -> str:
    """Return a text without what could steer a terminal: names of files and of others' jobs."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _bar(done: int, total: int) -> str:
    share = min(1.0, done / total)
    filled = round(share * BAR_CELLS)
    return f"{share:4.0%} [{'#' * filled}{'.' * (BAR_CELLS - filled)}]"
