"""Processes that a test can kill and halt, and that are restarted as a container engine does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import RLock

from tests.system.forked import ForkedProgram

ROOT = Path(__file__).parents[2]

RESTART_SECONDS = 1.0
"""Pause before a dead process is restarted, as with a container engine."""

STOP_SECONDS = 20.0

MODULE = (sys.executable, "-m")
"""How a command begins that can be forked."""


class Process:
    """A process that is restarted when it dies."""

    def __init__(
        self,
        name: str,
        command: Callable[[], list[str]],
        log: Path,
        *,
        kept: bool = True,
        forked: bool = False,
    ) -> None:
        """Start the process.

        Args:
            command: returns the command line; called at each start.
            log: gets the output of every start.
            kept: whether `revive` restarts it.
            forked: start a command that begins with `MODULE` in a fraction of its time; see
                `forked`.
        """
        self.name = name
        self.log = log
        self.starts = 0
        self._command = command
        self._kept = kept
        self._forked = forked
        self._lock = RLock()
        self._died_at: float | None = None
        self._process: subprocess.Popen[bytes] | ForkedProgram
        self._start()

    @property
    def pid(self) -> int:
        """Process id since the latest start."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended; a halted process is alive."""
        return self._process.poll() is None

    @property
    def children(self) -> list[int]:
        """Process ids of its children, oldest first."""
        return _children(self.pid)

    def children_of_kind(self, kind: str) -> list[int]:
        """Process ids below a worker, of a kind: an engine "fake", "media-template", or "media".

        An engine has its kind in its command line, the others have it as their name. Oldest first.
        """
        below = [*self.children, *(pid for child in self.children for pid in _children(child))]
        return [pid for pid in below if kind in (*_command_line(pid), name_of(pid))]

    def kill(self) -> None:
        """Kill the process; `revive` restarts it if it is kept."""
        with self._lock:
            self._process.kill()
            self._process.wait()

    def kill_child(self, kind: str) -> bool:
        """Kill the oldest child of a kind, the one that works; return whether there was one."""
        with suppress(IndexError, ProcessLookupError):
            os.kill(self.children_of_kind(kind)[0], signal.SIGKILL)
            return True
        return False

    def take_down(self) -> None:
        """Kill the process; it is not restarted before `bring_up`."""
        with self._lock:
            self._kept = False
            self.kill()

    def bring_up(self) -> None:
        """Start the process again, and keep it from now on."""
        with self._lock:
            self._kept = True
            self._start()

    def halt(self) -> None:
        """Send SIGSTOP: the process neither runs nor ends."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT: the process continues."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """Send SIGTERM and return the exit status; the process is not restarted."""
        with self._lock:
            self._kept = False
            self.resume()
            self._process.terminate()
            try:
                return self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                return self._process.wait()

    def revive(self) -> None:
        """Restart the process if it is kept and has been dead for `RESTART_SECONDS`."""
        with self._lock:
            if self.alive or not self._kept:
                return
            self._died_at = self._died_at or time.monotonic()
            if time.monotonic() - self._died_at >= RESTART_SECONDS:
                self._start()

    def _start(self) -> None:
        self._died_at = None
        self.starts += 1
        command = self._command()
        if self._forked and tuple(command[:2]) == MODULE:
            module, *arguments = command[2:]
            self._process = ForkedProgram(module, arguments, log=self.log, folder=ROOT)
        else:
            self._process = _execute(command, self.log)


def _execute(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    supervision = [sys.executable, "-m", "service.die_with_parent", str(os.getpid())]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*supervision, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            start_new_session=True,
        )


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def name_of(pid: int) -> str:
    """Return the name that a process has given itself, or that of its program."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, shared pages included."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> dict[int, str]:
    """Return the open files of a process by descriptor, without those that it closes meanwhile."""
    names = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            names[int(descriptor.name)] = str(descriptor.readlink())
    return names


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in text.split()]


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
