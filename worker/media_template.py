"""The template of media processes: `python -m worker.media_template FD`.

It imports all that media needs, and then forks a media process for each order from the socket FD;
see `worker.fork_server`. It never decodes, and holds no thread: a fork would not copy it, but would
copy its locks. The sandbox is entered by each media process.

All its media processes have their code and libraries at the same addresses. Who learns these by
crashing one must not use them against the next: when one crashes, the template ends, and the
supervisor starts another.
"""

import gc
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from worker import media
from worker.fork_server import REPORT
from worker.messages import MediaOptions
from worker.parent_death import die_with
from worker.sandbox import require_no_threads

MAX_ORDER_BYTES = 1 << 16

CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP}
)
"""Signals of a process whose memory was damaged."""


@dataclass(frozen=True)
class Order:
    """A media process that is wanted: its options, and its ends of three lines.

    Attributes:
        messages: descriptor of the socket to the supervisor.
        output: descriptor of the pipe for all that it writes.
        reports: tells the supervisor when it has started, and how it has ended.
    """

    options: MediaOptions
    messages: int
    output: int
    reports: socket.socket


class Template:
    """Forks processes, and reports how they end."""

    def __init__(self, orders: socket.socket) -> None:
        """Take orders from a socket."""
        self._orders = orders
        self._pid = os.getpid()
        self._running: dict[int, tuple[int, socket.socket]] = {}

    def serve(self) -> Order | None:
        """Fork a process for each order.

        Returns:
            In a new process, its order. In the template None, once the supervisor has closed the
            socket, or a process has crashed.
        """
        while True:
            for ready in wait([self._orders, *self._running]):
                if isinstance(ready, int):
                    if self._reap(ready):
                        return None
                    continue
                order = self._receive()
                if order is None or self._fork(order):
                    return order

    def _receive(self) -> Order | None:
        content, descriptors, _, _ = socket.recv_fds(self._orders, MAX_ORDER_BYTES, 3)
        if not content:
            return None
        messages, output, reports = descriptors
        options = MediaOptions.model_validate_json(content)
        return Order(options, messages, output, socket.socket(fileno=reports))

    def _fork(self, order: Order) -> bool:
        """Fork a process for an order; return whether this is the new process."""
        require_no_threads()
        try:
            pid = os.fork()
        except OSError as error:
            order.reports.send(REPORT.pack(error.errno))
        else:
            if pid == 0:
                self._become_child(order)
                return True
            self._running[os.pidfd_open(pid)] = pid, order.reports.dup()
        self._forget(order)
        return False

    def _become_child(self, order: Order) -> None:
        """Keep nothing of the template but memory; report that this process has started."""
        die_with(self._pid)
        Path("/proc/self/comm").write_text("media")
        for descriptor in (1, 2):
            os.dup2(order.output, descriptor)
        os.close(order.output)
        self._orders.close()
        for pidfd, (_, reports) in self._running.items():
            os.close(pidfd)
            reports.close()
        pidfd = os.pidfd_open(os.getpid())
        socket.send_fds(order.reports, [REPORT.pack(os.getpid())], [pidfd])
        os.close(pidfd)
        order.reports.close()

    def _reap(self, pidfd: int) -> bool:
        """Report how a process has ended; return whether it has crashed.

        After a crash no more orders are taken before the report, so that the supervisor's next one
        fails at once.
        """
        pid, reports = self._running.pop(pidfd)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        has_crashed = -status in CRASHES
        if has_crashed:
            self._orders.close()
        with reports, suppress(BrokenPipeError):  # nobody waits for it any more
            reports.send(REPORT.pack(status))
        os.close(pidfd)
        return has_crashed

    def _forget(self, order: Order) -> None:
        """Close the ends of an order's lines: the new process has them."""
        os.close(order.messages)
        os.close(order.output)
        order.reports.close()


def main() -> None:
    """Fork media processes until the supervisor closes the socket; be one of them if forked."""
    die_with(os.getppid())
    # A terminal signals the whole group, but the supervisor decides when its children stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    media.preload()
    Path("/proc/self/comm").write_text("media-template")
    gc.freeze()  # else the garbage collector of each process would copy these pages
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        order = Template(orders).serve()
    if order is not None:
        with Connection(order.messages) as connection, suppress(BrokenPipeError):
            media.serve(connection, order.options)


if __name__ == "__main__":
    main()
