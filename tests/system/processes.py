"""Processes that can be killed, halted and starved, and are started again as containers are."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import RLock

ROOT = Path(__file__).parents[2]

RESTART_SECONDS = 1.0
"""What a container engine lets pass before it starts a dead process again."""

STOP_SECONDS = 20.0


class Process:
    """A process, and those that follow it when it dies."""

    def __init__(
        self, name: str, command: Callable[[], list[str]], log: Path, *, kept: bool = True
    ) -> None:
        """Start what `command` returns, which is asked again at each start.

        Args:
            log: gets the output of all of them.
            kept: whether `revive` starts it again.
        """
        self.name = name
        self.log = log
        self.starts = 0
        self._command = command
        self._kept = kept
        self._lock = RLock()
        self._died_at: float | None = None
        self._start()

    @property
    def pid(self) -> int:
        """Process id of the present one."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended; a halted process is alive."""
        return self._process.poll() is None

    @property
    def children(self) -> list[int]:
        """Process ids of its children, oldest first."""
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return []
        return [int(pid) for pid in text.split()]

    def children_of_kind(self, kind: str) -> list[int]:
        """Process ids of a worker's children of a kind, such as "media", oldest first."""
        return [pid for pid in self.children if kind in _command_line(pid)]

    def kill(self) -> None:
        """Kill it; it comes back if it is kept."""
        with self._lock:
            self._process.kill()
            self._process.wait()

    def kill_child(self, kind: str) -> bool:
        """Kill the oldest child of a kind, which is the one at work; say whether there was one."""
        with suppress(IndexError, ProcessLookupError):
            os.kill(self.children_of_kind(kind)[0], signal.SIGKILL)
            return True
        return False

    def take_down(self) -> None:
        """Kill it, and keep it down until `bring_up`."""
        with self._lock:
            self._kept = False
            self.kill()

    def bring_up(self) -> None:
        """Start it again, for good."""
        with self._lock:
            self._kept = True
            self._start()

    def halt(self) -> None:
        """Stop it where it stands: it neither runs nor dies."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """Ask it to leave, and return its exit status; it does not come back."""
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
        """Start it again if it has been dead for long enough, and shall live."""
        with self._lock:
            if self.alive or not self._kept:
                return
            self._died_at = self._died_at or time.monotonic()
            if time.monotonic() - self._died_at >= RESTART_SECONDS:
                self._start()

    def _start(self) -> None:
        self._died_at = None
        self.starts += 1
        tether = [sys.executable, "-m", "service.die_with_parent", str(os.getpid())]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*tether, *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        os.kill(pid, 0)
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def resident_bytes(pid: int) -> int:
    """Memory of a process that is its own, or shared with others, and not swapped out."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> dict[int, str]:
    """What a process has open, by descriptor; it may close some of it meanwhile."""
    names = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            names[int(descriptor.name)] = str(descriptor.readlink())
    return names


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
