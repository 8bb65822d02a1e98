"""Media processes by the thousand: forked from one that has loaded its libraries already.

What they do is what `worker.media` does, limits and confinement included; only their beginning
is another. It takes a tenth of the time.
"""

import os
import socket
import subprocess
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from unittest.mock import patch

from worker import media
from worker.children import Media
from worker.messages import MediaOptions
from worker.sandbox import MEDIA_ENVIRONMENT

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["__main__", "tests.hostile.forked"])


class ForkedMedia(Media):
    """A media process for the supervisor's code; see there."""

    def __init__(self, options: MediaOptions) -> None:
        self.options = options
        ours, theirs = socket.socketpair()
        with Connection(theirs.detach()) as connection:
            process = CONTEXT.Process(target=_serve, args=(connection, options), daemon=True)
            with patch.dict(os.environ, MEDIA_ENVIRONMENT):
                process.start()
        self._process = _Popen(process)  # type: ignore[assignment]
        self.name = "the media process"
        self.connection = Connection(ours.detach())
        self._due = None
        self._allowed_seconds = 0.0


class _Popen:
    """A process of multiprocessing, with the methods of `subprocess.Popen` that `Child` uses."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        self.pid = process.pid
        self.stdout = None
        self.kill = process.kill

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("media", timeout or 0.0)
        return self._process.exitcode


def _serve(connection: Connection, options: MediaOptions) -> None:
    with connection, suppress(BrokenPipeError):  # nobody is left to answer
        media.serve(connection, options)
