"""Child processes as the supervisor sees them: started, spoken with, waited for, stopped.

A child is `python -m worker.child`, with one end of a socket pair. It is spawned, never forked,
and dies with the supervisor. However it fails, the supervisor gets one exception, `ChildLost`.
"""

import logging
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from numpy.typing import NDArray

from rollout_core.contract import Frozen, JobError
from worker import wire
from worker.messages import (
    AnyMessage,
    EngineOptions,
    Failed,
    MediaOptions,
    Message,
    Ready,
    Working,
)
from worker.wire import Arrays, WireError

M = TypeVar("M", bound=AnyMessage)

TICK_SECONDS = 0.25
"""How often a wait for children looks at the clock."""

STALL_SECONDS = 4
"""A child that stops in the middle of a message for so long is taken for hung.

Less than a lease: nothing can beat meanwhile.
"""

EXIT_SECONDS = 2.0
"""How long a child may take to leave after its socket was closed."""

CLIP_ALLOWANCE = 20
"""A clip may take so many times what it took at the warm-up.

The slowest of methods takes 5 times as long, with everything that can be asked for; see the README.
"""

LEAST_ENGINE_SECONDS = 10.0
"""However fast the engine is, it may be silent for so long."""

MEDIA_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MiB of the limited address space
    "OPENBLAS_NUM_THREADS": "1",  # so does each of its threads
}
"""All that a media process knows of our environment: no addresses, no secrets."""


log = logging.getLogger(__name__)


class ChildLost(Exception):
    """A child died, hung or spoke nonsense; it has been killed."""


class ChildFailure(Exception):
    """A child answered with a deliberate failure, and is well."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.detail)
        self.error = JobError(code=failed.code, title=failed.title, detail=failed.detail)


class Child:
    """One child process and the supervisor's end of its socket."""

    def __init__(
        self,
        name: str,
        kind: str,
        options: Frozen,
        environment: Mapping[str, str] | None = None,
        *,
        output: int | None = None,
    ) -> None:
        """Start `worker.child` as `kind`; it inherits our environment unless one is given.

        Its output is ours, or a pipe: that is read once it has ended, so one that writes much comes
        to a stop, and is taken for hung.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [kind, str(theirs.fileno()), options.model_dump_json()]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.child", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                pass_fds=[theirs.fileno()],
                env=environment,
            )
        _bound_stalls(ours)
        self.name = name
        self.connection = Connection(ours.detach())
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
        """Whether it owes an answer."""
        return self._due is not None

    def expect(self, within_seconds: float) -> None:
        """Take the child for hung if it says nothing for so long from now on."""
        self._allowed_seconds = within_seconds
        self._due = time.monotonic() + within_seconds

    def expect_as_before(self) -> None:
        """Give the child as long again as it had for what it said last."""
        self.expect(self._allowed_seconds)

    def send(self, message: Message, **arrays: NDArray[Any]) -> None:
        """Send a message, with the arrays that go with it.

        Raises:
            ChildLost: it does not read, or is no more.
        """
        try:
            wire.send(self.connection, message, **arrays)
        except OSError as error:
            raise self.lost() from error

    def receive(self) -> tuple[Message, Arrays]:
        """Receive a message, with the arrays that go with it.

        Raises:
            ChildLost: it is no more, stopped in the middle, or sent something else.
        """
        try:
            received = wire.receive(self.connection)
        except WireError as error:
            raise self.lost(str(error)) from error
        except (EOFError, OSError) as error:
            raise self.lost() from error
        self._due = None
        return received

    def require_punctual(self) -> None:
        """Raise `ChildLost` if the answer that the child owes, if any, is overdue."""
        if self._due is not None and time.monotonic() > self._due:
            raise self.lost(f"did not answer within {self._allowed_seconds:g} seconds")

    def require_alive(self) -> None:
        """Raise `ChildLost` if the process has ended."""
        if not self.alive:
            raise self.lost()

    def lost(self, offence: str | None = None) -> ChildLost:
        """Make sure that the child is gone, and say how: for its offence, or as it wanted."""
        if offence is None:
            offence = self._last_words()
        self.kill()
        return ChildLost(f"{self.name} {offence}")

    def kill(self) -> None:
        """End the process at once."""
        self.connection.close()
        self._process.kill()
        self._process.wait()
        self._due = None
        self._log_output()

    def stop(self) -> None:
        """Let the process leave by itself, and end it if it does not."""
        self.connection.close()
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def _log_output(self) -> None:
        """Log what the child wrote, if it wrote to us; no more than a pipe holds."""
        if self._process.stdout and not self._process.stdout.closed:
            with self._process.stdout as pipe:
                output = pipe.read().decode(errors="replace").strip()
            if output:
                log.warning("%s wrote: %s", self.name, output)

    def _last_words(self) -> str:
        try:
            # The socket closes a moment before the process is gone.
            status = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "stopped in the middle of a message"
        return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"


class Engine(Child):
    """The child that holds the model."""

    def __init__(self, kind: str, options: EngineOptions, load_seconds: float) -> None:
        """Start an engine; it owes us `Ready` within `load_seconds`."""
        super().__init__("the engine", kind, options)
        self.model: Ready | None = None
        self.expect(load_seconds)

    def receive(self) -> tuple[Message, Arrays]:
        """As `Child.receive`; remembers what the engine says of its model."""
        message, arrays = super().receive()
        if isinstance(message, Ready):
            self.model = message
        return message, arrays

    def expect_work(self, clips: int, clip_seconds: float | None) -> None:
        """Take the engine for hung if running the model on so many clips takes far too long.

        Args:
            clip_seconds: what one clip may take; default: as the warm-up suggests.
        """
        if clip_seconds is not None:
            self.expect(clips * clip_seconds)
            return
        measured = self.require_model().clip_seconds
        self.expect(max(LEAST_ENGINE_SECONDS, clips * CLIP_ALLOWANCE * measured))

    def require_model(self) -> Ready:
        """Return what the engine said of its model."""
        if self.model is None:
            raise self.lost("has not loaded its model")
        return self.model


class Media(Child):
    """The child that decodes and renders one job's video."""

    def __init__(self, options: MediaOptions) -> None:
        super().__init__(
            "the media process", "media", options, MEDIA_ENVIRONMENT, output=subprocess.PIPE
        )


def next_message(
    child: Child,
    kind: type[M] | tuple[type[M], ...],
    pulse: Callable[[], None],
    others: Iterable[Child] = (),
) -> tuple[M, Arrays]:
    """Wait for a child's next message, which must be of that kind; call `pulse` at every tick.

    Raises:
        ChildLost: the child, or one of `others`, died, hung or spoke nonsense.
        ChildFailure: the child answered with a deliberate failure.
    """
    while True:
        pulse()
        if wait([child.connection], TICK_SECONDS):
            message, arrays = child.receive()
            if isinstance(message, Working) and kind is not Working:
                child.expect_as_before()
                continue
            if isinstance(message, Failed):
                raise ChildFailure(message)
            if not isinstance(message, kind):
                raise child.lost(f"sent {message.kind!r}")
            return message, arrays
        child.require_punctual()
        for other in others:
            other.require_alive()


def _bound_stalls(ours: socket.socket) -> None:
    """Let the kernel end reads and writes that make no progress; `pulse` must go on."""
    limit = struct.pack("ll", STALL_SECONDS, 0)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
