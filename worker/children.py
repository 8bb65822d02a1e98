"""The supervisor's children: the engine, and a media process for each job.

The engine is spawned as `python -m worker.child_main` with one end of a socket pair, and never
forked: a fork is fatal once CUDA is initialised. A media process is forked by a template, see
`worker.fork_server`. The kernel kills all of them when the supervisor dies.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from stat import S_ISREG

from rollout_core.contract import Frozen
from worker.child import GONE_SECONDS, Child, ChildProcess
from worker.child_output import OutputReader
from worker.cores import thread_environment
from worker.engine_gpu import EngineGpu
from worker.fork_server import ForkServer
from worker.messages import EngineOptions, MediaOptions, Message, Ready
from worker.wire import Arrays

REAP_SECONDS = 2.0
"""Wait this long for a killed media process: the kernel may still write to a slow disk for it."""

OUTPUT_SECONDS = 0.5
"""Wait this long until the last output of a killed engine is logged."""

CLIP_ALLOWANCE = 20
"""Timeout for a clip, as a multiple of the seconds that a clip took at the warm-up.

The slowest method, with all options, takes 5 times as long as the warm-up; see docs/methods.md.
"""

LEAST_ENGINE_SECONDS = 10.0
"""Shortest timeout for the engine that is computed from the warm-up."""

CPU = "cpu"
"""Device of an engine that uses no GPU."""

MAX_MEDIA_FILES = 64
"""Most files that a media process may have at a time."""

BLOCK_BYTES = 512
"""Unit of `st_blocks`."""


def start_process(
    kind: str, options: Frozen, environment: dict[str, str] | None = None
) -> ChildProcess:
    """Start `worker.child_main` as `kind`. Its output is a pipe; see `OutputReader`.

    Its OpenMP threads are as many as the cores, and sleep while they wait; see `worker.cores`.

    Args:
        environment: variables that it gets besides.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arguments = [kind, str(theirs.fileno()), options.model_dump_json()]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.child_main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            env=os.environ | thread_environment(os.environ) | (environment or {}),
        )
        return ChildProcess(process, Connection(ours.detach()))


class Engine(Child):
    """The child that holds the model."""

    def __init__(
        self,
        kind: str,
        options: EngineOptions,
        load_seconds: float,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Start an engine, which must send `Ready` within `load_seconds`."""
        started = start_process(kind, options, environment)
        super().__init__("the engine", started)
        assert started.process.stdout is not None
        self._output = OutputReader(self.name, started.process.stdout)
        self.model: Ready | None = None
        self.expect(load_seconds)

    def receive(self) -> tuple[Message, Arrays]:
        """Do as `Child.receive`, and keep the `Ready` message."""
        message, arrays = super().receive()
        if isinstance(message, Ready):
            self.model = message
        return message, arrays

    def _log_output(self) -> None:
        """Wait for the thread that logs the output as it comes."""
        self._output.finish(OUTPUT_SECONDS)

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
    """The child that decodes and renders one job's video, in a process of its own.

    Do not trust it once it has opened a video: it may have been compromised by the video.
    """

    max_message_bytes = 1 << 28  # a clip of 96 frames of 224×224 has 14 MiB
    reap_seconds = REAP_SECONDS

    def __init__(self, options: MediaOptions, started: ChildProcess) -> None:
        """Watch a media process that was started with these options."""
        self.options = options
        super().__init__("the media process", started)

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
    """The engine, and a media process for each job."""

    def __init__(
        self,
        engine_kind: str,
        engine_options: EngineOptions,
        media_options: MediaOptions,
        *,
        load_seconds: float,
        start_media: Callable[[MediaOptions], Media] | None = None,
        gpu: EngineGpu | None = None,
    ) -> None:
        """Start the engine, and the template of media processes.

        Args:
            load_seconds: timeout for the engine to load its model.
            gpu: the one that every engine uses; it is released by `close`. Default: as CUDA finds.
            start_media: starts a media process; default: it is forked from a template.
        """
        self._engine_kind = engine_kind
        self._engine_options = engine_options
        self._media_options = media_options
        self._load_seconds = load_seconds
        self._start_media = start_media
        self.gpu = gpu
        self._engine_restarts = 0
        self.engine = self._start_engine()
        self.template = self._start_template()

    @property
    def ready(self) -> bool:
        """Whether the engine has loaded its model and is alive."""
        return self.engine.model is not None and self.engine.alive

    @property
    def restarts(self) -> dict[str, int]:
        """How often the engine and the template were replaced, by kind of child."""
        template = self.template.restarts if self.template else 0
        return {"engine": self._engine_restarts, "template": template}

    def take_media(self) -> Media:
        """Start a media process; do not wait until it runs.

        The caller must kill it after the job: it may have been compromised by the video.
        """
        options = self._media_options
        if self._start_media is not None:
            return self._start_media(options)
        assert self.template is not None
        return Media(options, self.template.fork(options))

    def wake(self) -> None:
        """Prepare for a job; the children are awake. See `worker.lazy_children`."""

    def restart_dead(self) -> None:
        """Start a new engine or a new template if the present one is dead."""
        if not self.engine.alive:
            self.engine.kill()
            self.engine = self._start_engine()
            self._engine_restarts += 1
        if self.template is not None:
            self.template.restart_if_dead()

    def release_unused_gpu(self) -> None:
        """Release the GPU if the engine, which has loaded its model, runs on the CPU.

        The PyTorch that is installed may have no CUDA.
        """
        if self.gpu is not None and self.engine.require_model().device == CPU:
            self.gpu.release()
            self.gpu = None

    def close(self) -> None:
        """Stop the engine, release its GPU, and kill the template."""
        if self.template is not None:
            self.template.close()
        self.engine.stop()
        if self.gpu is not None:
            self.gpu.release()

    def _start_engine(self) -> Engine:
        environment = self.gpu.environment if self.gpu else {}
        return Engine(self._engine_kind, self._engine_options, self._load_seconds, environment)

    def _start_template(self) -> ForkServer | None:
        return None if self._start_media else ForkServer()


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
