"""A child process of the supervisor: exchange messages with it, watch its timeout, kill it.

Every way in which a child can break raises one exception, `ChildLost`. Which children there are,
and how they are started: see `worker.children`.
"""

import errno
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from threading import Timer
from typing import IO, Any, ClassVar, Protocol, TypeVar

from numpy.typing import NDArray

from rollout_core.jobs.records import JobError
from worker import wire
from worker.child_output import lines_of, log_line
from worker.messages import AnyMessage, Failed, Message, Working
from worker.wire import Arrays, WireError

TICK_SECONDS = 0.25
"""A wait for a child calls the heartbeat this often."""

STALL_SECONDS = 4
"""Timeout for the transfer of one message, however steadily its bytes arrive.

There is no heartbeat during a transfer, so this is less than a lease.
"""

EXIT_SECONDS = 2.0
"""Time for a child to exit by itself after its socket was closed."""

GONE_SECONDS = 1.0
"""Time for a child to exit after it closed its socket. With STALL_SECONDS, less than a lease."""

MAX_OUTPUT_BYTES = 1 << 16
"""Most bytes read from a child's output. A pipe holds as many."""

MAX_OUTPUT_LINES = 50
"""Lines of the output that are logged: the last ones."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""Error numbers of a process or a machine without descriptors, memory or processes to give."""

M = TypeVar("M", bound=AnyMessage)


class ChildLost(Exception):
    """A child died, hung or sent something invalid. It has been killed."""


class ChildFailure(Exception):
    """A child answered with `Failed`. It still works."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.detail)
        self.error = JobError(code=failed.code, title=failed.title, detail=failed.detail)


class Process(Protocol):
    """What a child needs of its process; `subprocess.Popen` has it."""

    @property
    def pid(self) -> int:
        """Process id."""

    @property
    def stdout(self) -> IO[bytes] | None:
        """The captured output; None if it is inherited."""

    def poll(self) -> int | None:
        """Return the exit status, negative after a signal; None while the process runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; raise `subprocess.TimeoutExpired` if the process still runs."""

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""


@dataclass(frozen=True)
class ChildProcess:
    """A running process, and the supervisor's end of its socket."""

    process: Process
    connection: Connection


class Child:
    """One child process, the connection to it, and the timeout of its next answer."""

    max_message_bytes: ClassVar[int] = wire.MAX_MESSAGE_BYTES
    reap_seconds: ClassVar[float | None] = None

    def __init__(self, name: str, started: ChildProcess) -> None:
        """Watch a process that was started; `name` is used in errors and log lines.

        Attributes:
            lost: whether it broke; see `ChildLost`.
        """
        self.name = name
        self.lost = False
        self.connection = started.connection
        self._process = started.process
        self._due: float | None = None
        self._allowed_seconds = 0.0

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    @property
    def busy(self) -> bool:
        """Whether an answer of the child is expected."""
        return self._due is not None

    def expect(self, within_seconds: float) -> None:
        """Start the timeout: the child counts as hung if it sends nothing for this long."""
        self._allowed_seconds = within_seconds
        self._due = time.monotonic() + within_seconds

    def restart_timeout(self) -> None:
        """Start the timeout again with the same length."""
        self.expect(self._allowed_seconds)

    def send(self, message: Message, **arrays: NDArray[Any]) -> None:
        """Send a message with its arrays.

        Raises:
            ChildLost: the child has ended, or does not read.
            OSError: this process has no free file descriptor.
        """
        try:
            with self._message_timeout():
                wire.send(self.connection, message, **arrays)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            raise self.kill_as_lost() from error

    def receive(self) -> tuple[Message, Arrays]:
        """Receive a message with its arrays.

        Raises:
            ChildLost: the child has ended, stopped within a message, or sent something invalid.
            OSError: this process has no free file descriptor.
        """
        try:
            with self._message_timeout():
                received = wire.receive(self.connection, max_bytes=self.max_message_bytes)
        except WireError as error:
            raise self.kill_as_lost(str(error)) from error
        except (EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                raise
            raise self.kill_as_lost() from error
        self._due = None
        return received

    def check_timeout(self) -> None:
        """Raise `ChildLost` if an answer is expected and its timeout has expired."""
        if self._due is not None and time.monotonic() > self._due:
            raise self.kill_as_lost(f"did not answer within {self._allowed_seconds:g} seconds")

    def check_alive(self) -> None:
        """Raise `ChildLost` if the process has ended."""
        if not self.alive:
            raise self.kill_as_lost()

    def kill_as_lost(self, reason: str | None = None) -> ChildLost:
        """Kill the child; return a `ChildLost` with the reason, or with its exit status."""
        if reason is None:
            reason = self._describe_exit()
        self.lost = True
        self.kill()
        return ChildLost(f"{self.name} {reason}")

    def kill(self) -> None:
        """Kill the process, wait up to `reap_seconds` until it is gone, and log what it wrote."""
        self.connection.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self.reap_seconds)
        self._due = None
        self._log_output()

    def stop(self) -> None:
        """Close the socket, so that the process exits; kill it if it has not after 2 s."""
        self.connection.close()
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    @contextmanager
    def _message_timeout(self) -> Iterator[None]:
        """Shut the socket down if one message takes longer than STALL_SECONDS.

        A timeout for each read is not enough: a child that sends its bytes slowly, one by one,
        would never reach it.
        """
        with socket.socket(fileno=os.dup(self.connection.fileno())) as line:
            timer = Timer(STALL_SECONDS, line.shutdown, [socket.SHUT_RDWR])
            timer.start()
            try:
                yield
            finally:
                timer.cancel()
                timer.join()

    def _log_output(self) -> None:
        """Log the captured output, without waiting for more."""
        if self._process.stdout and not self._process.stdout.closed:
            with self._process.stdout as pipe:
                # A process that the child started may still hold the other end open.
                os.set_blocking(pipe.fileno(), False)
                output = pipe.read(MAX_OUTPUT_BYTES) or b""
            for line in lines_of(output)[-MAX_OUTPUT_LINES:]:
                log_line(self.name, line)

    def _describe_exit(self) -> str:
        try:
            # The socket closes a moment before the process has ended.
            status = self._process.wait(GONE_SECONDS)
        except subprocess.TimeoutExpired:
            return "stopped in the middle of a message"
        return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"


def next_message(
    child: Child,
    kind: type[M] | tuple[type[M], ...],
    heartbeat: Callable[[], None],
    others: Iterable[Child] = (),
) -> tuple[M, Arrays]:
    """Wait for a child's next message, and call `heartbeat` at every tick.

    A `Working` message only restarts the child's timeout, unless it is the kind waited for.

    Args:
        kind: of the message; another kind is an error.
        others: children that must stay alive during the wait.

    Raises:
        ChildLost: the child died, hung or sent something invalid, or one of `others` died.
        ChildFailure: the child answered with `Failed`.
    """
    while True:
        heartbeat()
        if wait([child.connection], TICK_SECONDS):
            message, arrays = child.receive()
            if isinstance(message, Working) and kind is not Working:
                child.restart_timeout()
                continue
            if isinstance(message, Failed):
                raise ChildFailure(message)
            if not isinstance(message, kind):
                raise child.kill_as_lost(f"sent an unexpected {message.kind!r}")
            return message, arrays
        child.check_timeout()
        for other in others:
            other.check_alive()
