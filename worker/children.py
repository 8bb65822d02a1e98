"""The supervisor's child processes: start them, exchange messages, watch timeouts, kill them.

A child is `python -m worker.child_main` with one end of a socket pair. It is spawned, never
forked, and the kernel kills it when the supervisor dies. Every way in which a child can break
raises one exception, `ChildLost`.
"""

import errno
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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

TICK_SECONDS = 0.25
"""A wait for a child calls the heartbeat this often."""

STALL_SECONDS = 4
"""Timeout for the transfer of one message, however steadily its bytes arrive.

There is no heartbeat during a transfer, so this is less than a lease.
"""

EXIT_SECONDS = 2.0
"""Time for a child to exit by itself after its socket was closed."""

REAP_SECONDS = 2.0
"""Wait this long for a killed media process: the kernel may still write to a slow disk for it."""

GONE_SECONDS = 1.0
"""Time for a child to exit after it closed its socket. With STALL_SECONDS, less than a lease."""

CLIP_ALLOWANCE = 20
"""Timeout for a clip, as a multiple of the seconds that a clip took at the warm-up.

The slowest method, with all options, takes 5 times as long as the warm-up; see docs/methods.md.
"""

LEAST_ENGINE_SECONDS = 10.0
"""Shortest timeout for the engine that is computed from the warm-up."""

MAX_OUTPUT_BYTES = 1 << 16
"""Most bytes read from a child's output. A pipe holds as many."""

MAX_OUTPUT_LINES = 50
"""Lines of the output that are logged: the last ones."""

MAX_MEDIA_FILES = 64
"""Most files that a media process may have at a time."""

BLOCK_BYTES = 512
"""Unit of `st_blocks`."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""Error numbers of a process or a machine without descriptors, memory or processes to give."""

M = TypeVar("M", bound=AnyMessage)

log = logging.getLogger(__name__)


class ChildLost(Exception):
    """A child died, hung or sent something invalid. It has been killed."""


class ChildFailure(Exception):
    """A child answered with `Failed`. It still works."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.detail)
        self.error = JobError(code=failed.code, title=failed.title, detail=failed.detail)


@dataclass(frozen=True)
class ChildProcess:
    """A running process, and the supervisor's end of its socket."""

    process: subprocess.Popen[bytes]
    connection: Connection


def start_process(
    kind: str,
    options: Frozen,
    environment: Mapping[str, str] | None = None,
    *,
    output: int | None = None,
) -> ChildProcess:
    """Start `worker.child_main` as `kind`.

    Output is inherited, or captured in a pipe that is read only after exit; a child that fills the
    pipe blocks and times out.

    Args:
        environment: the environment variables; None: those of the supervisor.
        output: None, or `subprocess.PIPE`.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arguments = [kind, str(theirs.fileno()), options.model_dump_json()]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.child_main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            pass_fds=[theirs.fileno()],
            env=environment,
        )
        return ChildProcess(process, Connection(ours.detach()))


class Child:
    """One child process, the connection to it, and the timeout of its next answer."""

    max_message_bytes: ClassVar[int] = wire.MAX_MESSAGE_BYTES
    reap_seconds: ClassVar[float | None] = None

    def __init__(self, name: str, started: ChildProcess) -> None:
        """Watch a process that was started; `name` is used in errors and log lines."""
        self.name = name
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
                output = (pipe.read(MAX_OUTPUT_BYTES) or b"").decode(errors="replace").strip()
            for line in output.splitlines()[-MAX_OUTPUT_LINES:]:
                log.warning("%s wrote: %s", self.name, line)

    def _describe_exit(self) -> str:
        try:
            # The socket closes a moment before the process has ended.
            status = self._process.wait(GONE_SECONDS)
        except subprocess.TimeoutExpired:
            return "stopped in the middle of a message"
        return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"


class Engine(Child):
    """The child that holds the model."""

    def __init__(self, kind: str, options: EngineOptions, load_seconds: float) -> None:
        """Start an engine, which must send `Ready` within `load_seconds`."""
        super().__init__("the engine", start_process(kind, options))
        self.model: Ready | None = None
        self.expect(load_seconds)

    def receive(self) -> tuple[Message, Arrays]:
        """Do as `Child.receive`, and keep the `Ready` message."""
        message, arrays = super().receive()
        if isinstance(message, Ready):
            self.model = message
        return message, arrays

    def expect_work(self, clips: int, clip_seconds: float | None) -> None:
        """Start the timeout for running the model on `clips` clips.

        Args:
            clip_seconds: timeout for one clip; None: CLIP_ALLOWANCE times the warm-up's seconds.
        """
        if clip_seconds is not None:
            self.expect(clips * clip_seconds)
            return
        measured = self.require_model().clip_seconds
        self.expect(max(LEAST_ENGINE_SECONDS, clips * CLIP_ALLOWANCE * measured))

    def require_model(self) -> Ready:
        """Return the engine's `Ready` message; raise `ChildLost` if it has not sent one."""
        if self.model is None:
            raise self.kill_as_lost("has not loaded its model")
        return self.model


class Media(Child):
    """The child that decodes and renders one job's video.

    Do not trust it once it has opened a video: it may have been compromised by the video.
    """

    max_message_bytes = 1 << 28  # a clip of 96 frames of 224×224 has 14 MiB
    reap_seconds = REAP_SECONDS

    def __init__(self, options: MediaOptions, started: ChildProcess | None = None) -> None:
        """Watch a media process: the one that was `started`, or a new one."""
        self.options = options
        super().__init__(
            "the media process",
            started or start_process("media", options, MEDIA_ENVIRONMENT, output=subprocess.PIPE),
        )

    def check_disk_use(self, folder: Path) -> None:
        """Raise `ChildLost` if there are too many files, or if together they are too large.

        The kernel limits the size of each file only. Files that were removed but are still open
        count too. Those of a process that is being killed, for example for its memory, cannot be
        read.
        """
        try:
            sizes = [*_file_sizes(folder), *_file_sizes(Path(f"/proc/{self.pid}/fd"), removed=True)]
        except PermissionError as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GONE_SECONDS)
            raise self.kill_as_lost("hides its files" if self.alive else None) from error
        if len(sizes) > MAX_MEDIA_FILES or sum(sizes) > self.options.file_bytes:
            raise self.kill_as_lost("filled its folder")


class Children:
    """The engine, and a spare media process for the next job."""

    def __init__(
        self,
        engine_kind: str,
        engine_options: EngineOptions,
        media_options: MediaOptions,
        *,
        load_seconds: float,
        start_media: Callable[[MediaOptions], Media] | None = None,
    ) -> None:
        """Start both.

        Args:
            load_seconds: timeout for the engine to load its model.
            start_media: starts a media process; default: `Media`.
        """
        self._engine_kind = engine_kind
        self._engine_options = engine_options
        self._media_options = media_options
        self._load_seconds = load_seconds
        self._start_media = start_media or Media
        self.engine = self._start_engine()
        self.spare_media = self._start_media(media_options)

    @property
    def ready(self) -> bool:
        """Whether the engine has loaded its model and is alive."""
        return self.engine.model is not None and self.engine.alive

    def take_media(self) -> Media:
        """Return the spare media process, and start the next one.

        The caller must kill it after the job: it may have been compromised by the video.
        """
        if not self.spare_media.alive:
            self.spare_media.kill()
            self.spare_media = self._start_media(self._media_options)
        media, self.spare_media = self.spare_media, self._start_media(self._media_options)
        return media

    def wake(self) -> None:
        """Prepare for a job; the children are awake. See `worker.lazy_children`."""

    def restart_dead_engine(self) -> None:
        """Start a new engine if the present one is dead."""
        if not self.engine.alive:
            self.engine.kill()
            self.engine = self._start_engine()

    def close(self) -> None:
        """Stop the engine, and kill the spare media process."""
        self.spare_media.kill()
        self.engine.stop()

    def _start_engine(self) -> Engine:
        return Engine(self._engine_kind, self._engine_options, self._load_seconds)


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


def _file_sizes(folder: Path, *, removed: bool = False) -> Iterator[int]:
    """Yield the bytes that each file takes on the disk, or its length if that is more.

    Args:
        removed: `folder` holds descriptors; yield only regular files that are in no folder.
    """
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # it was removed meanwhile
                status = path.stat(follow_symlinks=removed)
                if not removed or (S_ISREG(status.st_mode) and status.st_nlink == 0):
                    yield max(status.st_size, BLOCK_BYTES * status.st_blocks)
