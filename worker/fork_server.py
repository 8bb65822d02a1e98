"""Starts media processes by forking them from a template, which takes milliseconds.

    supervisor ──spawns──▶ template ──forks──▶ media, one for each job

The template is `python -m worker.media_template`: it has imported all that media needs, and has
touched no upload. It starts with the worker; orders that come before it is ready wait in its
socket. It ends with the supervisor, and its media processes end with it.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from struct import Struct
from typing import IO

from worker.child import ChildProcess
from worker.child_output import OutputReader
from worker.messages import MediaOptions
from worker.sandbox import MEDIA_ENVIRONMENT

TEMPLATE = (sys.executable, "-P", "-m", "worker.media_template")
"""Command line of a template; the descriptor of its socket follows."""

REPORT = Struct("i")
"""A report about a process that was ordered: its process id, with a pidfd; at last its exit status.
If it cannot be forked there is one report, the number of the error, without a pidfd."""

NOT_FORKED = 255
"""Stands for the exit status of a process that could not be forked."""


class ForkServer:
    """A template, and what it forks.

    The kernel ends a template with the thread that started it, so all calls come from one thread
    that lives as long as the process.
    """

    def __init__(self) -> None:
        """Start a template; do not wait until it is ready.

        Attributes:
            restarts: how often a template that had died was replaced.
        """
        self.restarts = 0
        self._start()

    @property
    def pid(self) -> int:
        """Process id of the template."""
        return self._template.pid

    def fork(self, options: MediaOptions) -> ChildProcess:
        """Start a media process; do not wait until it runs.

        Its output is captured in a pipe that is read only after its exit: a process that fills the
        pipe blocks and times out.

        Raises:
            OSError: there is no free file descriptor, or no process can be started.
        """
        self.restart_if_dead()
        try:
            return self._order(options)
        except (BrokenPipeError, ConnectionResetError):  # it ends, or has ended since
            self.close()
            self._replace()
            return self._order(options)

    def restart_if_dead(self) -> None:
        """Replace a template that has died."""
        if self._template.poll() is not None:
            self._orders.close()
            self._replace()

    def close(self) -> None:
        """Kill the template, and with it what it has forked."""
        self._orders.close()
        self._template.kill()
        self._template.wait()

    def _replace(self) -> None:
        self.restarts += 1
        self._start()

    def _start(self) -> None:
        self._orders, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            self._template = subprocess.Popen(
                [*TEMPLATE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env=MEDIA_ENVIRONMENT,
            )
        assert self._template.stdout is not None
        OutputReader("the template of media processes", self._template.stdout)

    def _order(self, options: MediaOptions) -> ChildProcess:
        """Send the ends of three lines to the template: messages, output, reports."""
        with ExitStack() as given, ExitStack() as kept:
            ours, theirs = socket.socketpair()
            kept.enter_context(ours)
            given.enter_context(theirs)
            reports, reporting = socket.socketpair(type=socket.SOCK_SEQPACKET)
            kept.enter_context(reports)
            given.enter_context(reporting)
            readable, writable = os.pipe()
            output = kept.enter_context(os.fdopen(readable, "rb"))
            given.callback(os.close, writable)
            ends = [theirs.fileno(), writable, reporting.fileno()]
            socket.send_fds(self._orders, [options.model_dump_json().encode()], ends)
            kept.pop_all()
        process = ForkedProcess(self._template, reports, output)
        return ChildProcess(process, Connection(ours.detach()))


class ForkedProcess:
    """A process that a template forked, with what `worker.child.Process` asks for."""

    def __init__(
        self, template: subprocess.Popen[bytes], reports: socket.socket, stdout: IO[bytes]
    ) -> None:
        """Follow the reports about a process that was ordered."""
        self.stdout = stdout
        self._template = template
        self._reports = reports
        self._pid: int | None = None
        self._pidfd = -1
        self._status: int | None = None

    @property
    def pid(self) -> int:
        """Process id. It is known before the first message of the process; else wait for it.

        Raises:
            ProcessLookupError: the template died before it forked the process.
        """
        while self._pid is None and self._status is None:
            self._take_report(None)
        if self._pid is None:
            raise ProcessLookupError(errno.ESRCH, "the process was never started")
        return self._pid

    def poll(self) -> int | None:
        """Return the exit status, negative after a signal; None while the process runs."""
        while self._status is None and self._take_report(0):
            pass
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status.

        Raises:
            subprocess.TimeoutExpired: the process still runs.
        """
        ends_at = None if timeout is None else time.monotonic() + timeout
        while self._status is None:
            left = None if ends_at is None else max(0.0, ends_at - time.monotonic())
            if not self._take_report(left):
                raise subprocess.TimeoutExpired("media", timeout or 0.0)
        return self._status

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended.

        If it has not been forked yet, its template may hang, so that is killed instead.
        """
        if self.poll() is not None:
            return
        if self._pid is None:
            self._template.kill()
        else:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _take_report(self, timeout: float | None) -> bool:
        """Wait up to `timeout` seconds for the next report; return whether there was one.

        Raises:
            OSError: the process could not be forked. Raised once.
        """
        if not wait([self._reports], timeout):
            return False
        report, descriptors, _, _ = socket.recv_fds(self._reports, REPORT.size, 1)
        if not report:  # the template has died, so the kernel kills the process
            self._end(-signal.SIGKILL)
        elif self._pid is None and not descriptors:
            self._end(NOT_FORKED)
            (number,) = REPORT.unpack(report)
            raise OSError(number, os.strerror(number))
        elif self._pid is None:
            (self._pid,), (self._pidfd,) = REPORT.unpack(report), descriptors
        else:
            self._end(*REPORT.unpack(report))
        return True

    def _end(self, status: int) -> None:
        self._status = status
        self._reports.close()
        if self._pid is not None:
            os.close(self._pidfd)
