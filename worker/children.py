"""Child processes as the supervisor sees them: started, spoken with, waited for, stopped.

A child is `python -m worker.child_main`, with one end of a socket pair. It is spawned, never
forked, and dies with the supervisor. However it fails, the supervisor gets one exception,
`ChildLost`.
"""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from stat import S_ISREG
from threading import Timer
from typing import Any, ClassVar, TypeVar

from numpy.typing import NDArray

from rollout_core.contract import Frozen
from rollout_core.jobs.records import JobError
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
from worker.sandbox import MEDIA_ENVIRONMENT
from worker.wire import Arrays, WireError

M = TypeVar("M", bound=AnyMessage)

TICK_SECONDS = 0.25
"""How often a wait for children looks at the clock."""

STALL_SECONDS = 4
"""A child that takes longer over one message, however steadily, is taken for hung.

Less than a lease: nothing can beat meanwhile.
"""

EXIT_SECONDS = 2.0
"""How long a child may take to leave after its socket was closed."""

GONE_SECONDS = 1.0
"""How long after its socket a child may be gone; with a stall before, still less than a lease."""

CLIP_ALLOWANCE = 20
"""A clip may take so many times what it took at the warm-up.

The slowest of methods takes 5 times as long, with everything that can be asked for; see the README.
"""

LEAST_ENGINE_SECONDS = 10.0
"""However fast the engine is, it may be silent for so long."""


MAX_OUTPUT_BYTES = 1 << 16
"""What is read of a child's output; a pipe holds as much."""

MAX_OUTPUT_LINES = 50
"""What is logged of it: the last."""

MAX_MEDIA_FILES = 64
"""Media may have so many files at a time."""

BLOCK_BYTES = 512
"""Unit of `st_blocks`."""

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

    max_message_bytes: ClassVar[int] = wire.MAX_MESSAGE_BYTES

    def __init__(
        self,
        name: str,
        kind: str,
        options: Frozen,
        environment: Mapping[str, str] | None = None,
        *,
        output: int | None = None,
    ) -> None:
        """Start `worker.child_main` as `kind`; it inherits our environment unless one is given.

        Its output is ours, or a pipe: that is read once it has ended, so one that writes much comes
        to a stop, and is taken for hung.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [kind, str(theirs.fileno()), options.model_dump_json()]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.child_main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                pass_fds=[theirs.fileno()],
                env=environment,
            )
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
            with self._in_time():
                wire.send(self.connection, message, **arrays)
        except OSError as error:
            raise self.lost() from error

    def receive(self) -> tuple[Message, Arrays]:
        """Receive a message, with the arrays that go with it.

        Raises:
            ChildLost: it is no more, stopped in the middle, or sent something else.
        """
        try:
            with self._in_time():
                received = wire.receive(self.connection, max_bytes=self.max_message_bytes)
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

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """Cut the line if one message takes too long: `heartbeat` must go on.

        A limit on each read would not do: a byte now and then would never reach it.
        """
        with socket.socket(fileno=os.dup(self.connection.fileno())) as line:
            cut = Timer(STALL_SECONDS, line.shutdown, [socket.SHUT_RDWR])
            cut.start()
            try:
                yield
            finally:
                cut.cancel()
                cut.join()

    def _log_output(self) -> None:
        """Log what the child wrote, if it wrote to us, without waiting for more."""
        if self._process.stdout and not self._process.stdout.closed:
            with self._process.stdout as pipe:
                os.set_blocking(pipe.fileno(), False)  # a child of the child may still hold it
                output = (pipe.read(MAX_OUTPUT_BYTES) or b"").decode(errors="replace").strip()
            for line in output.splitlines()[-MAX_OUTPUT_LINES:]:
                log.warning("%s wrote: %s", self.name, line)

    def _last_words(self) -> str:
        try:
            # The socket closes a moment before the process is gone.
            status = self._process.wait(GONE_SECONDS)
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
    """The child that decodes and renders one job's video, and may have fallen to it."""

    max_message_bytes = 1 << 28  # a clip of 96 frames of 224×224 has 14 MiB

    def __init__(self, options: MediaOptions) -> None:
        self.options = options
        super().__init__(
            "the media process", "media", options, MEDIA_ENVIRONMENT, output=subprocess.PIPE
        )

    def require_modest(self, folder: Path) -> None:
        """Raise `ChildLost` if it has too many files, or more in them than one may hold.

        The kernel bounds each file. Those that it has removed but not closed count, too.
        """
        sizes = [*_sizes_of(folder), *_sizes_of(Path(f"/proc/{self.pid}/fd"), removed=True)]
        if len(sizes) > MAX_MEDIA_FILES or sum(sizes) > self.options.file_bytes:
            raise self.lost("filled its folder")


def next_message(
    child: Child,
    kind: type[M] | tuple[type[M], ...],
    heartbeat: Callable[[], None],
    others: Iterable[Child] = (),
) -> tuple[M, Arrays]:
    """Wait for a child's next message, which must be of that kind; call `heartbeat` at every tick.

    Raises:
        ChildLost: the child, or one of `others`, died, hung or spoke nonsense.
        ChildFailure: the child answered with a deliberate failure.
    """
    while True:
        heartbeat()
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


def _sizes_of(folder: Path, *, removed: bool = False) -> Iterator[int]:
    """Yield how much each file takes; of descriptors, each file that no folder has any more."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # it has just gone
                status = path.stat(follow_symlinks=removed)
                if not removed or (S_ISREG(status.st_mode) and status.st_nlink == 0):
                    yield max(status.st_size, BLOCK_BYTES * status.st_blocks)


class Children:
    """An engine, and a media process that waits for the next job."""

    def __init__(
        self,
        engine_kind: str,
        engine_options: EngineOptions,
        media_options: MediaOptions,
        *,
        load_seconds: float,
    ) -> None:
        """Start both; the engine may take `load_seconds` to load its model."""
        self._engine_kind = engine_kind
        self._engine_options = engine_options
        self._media_options = media_options
        self._load_seconds = load_seconds
        self.engine = self._start_engine()
        self._spare_media = Media(media_options)

    @property
    def ready(self) -> bool:
        """Whether the engine has loaded its model and lives."""
        return self.engine.model is not None and self.engine.alive

    def take_media(self) -> Media:
        """Hand over the media process that waits, and start the next one.

        The caller kills it when its job is done: it has seen a stranger's bytes.
        """
        if not self._spare_media.alive:
            self._spare_media.kill()
            self._spare_media = Media(self._media_options)
        media, self._spare_media = self._spare_media, Media(self._media_options)
        return media

    def restart_dead_engine(self) -> None:
        """Start a new engine in the place of one that is dead."""
        if not self.engine.alive:
            self.engine.kill()
            self.engine = self._start_engine()

    def close(self) -> None:
        """End both."""
        self._spare_media.kill()
        self.engine.stop()

    def _start_engine(self) -> Engine:
        return Engine(self._engine_kind, self._engine_options, self._load_seconds)
