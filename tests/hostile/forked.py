"""Media processes for the fuzzer, forked from a process that has loaded the libraries.

They run `worker.media` with its limits and its sandbox; only their start differs. It takes a tenth
of the time of a spawned process.
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
from worker.children import ChildProcess, Media
from worker.messages import MediaOptions
from worker.sandbox import MEDIA_ENVIRONMENT

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["__main__", "tests.hostile.forked"])


class ForkedMedia(Media):
    """A forked media process, with the methods of `Media`."""

    def __init__(self, options: MediaOptions) -> None:
        ours, theirs = socket.socketpair()
        with Connection(theirs.detach()) as connection:
            process = CONTEXT.Process(target=_serve, args=(connection, options), daemon=True)
            with patch.dict(os.environ, MEDIA_ENVIRONMENT):
                process.start()
        super().__init__(options, ChildProcess(_Popen(process), Connection(ours.detach())))  # type: ignore[arg-type]


class _Popen:
    """A multiprocessing process, with the methods of `subprocess.Popen` that `Child` uses."""

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
    with connection, suppress(BrokenPipeError):  # the supervisor has gone
        media.serve(connection, options)
