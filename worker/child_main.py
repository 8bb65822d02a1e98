"""Where a child process begins: `python -m worker.child_main KIND FD OPTIONS`."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection

from worker.messages import EngineOptions, MediaOptions

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""


def main() -> None:
    """Serve the supervisor until it closes the socket."""
    kind, fd, options = sys.argv[1:]
    die_with(os.getppid())
    # A signal to the whole group is the supervisor's to answer: it may have a job to finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Connection(int(fd)) as connection, suppress(BrokenPipeError):  # nobody is left to answer
        serve(kind, connection, options)


def die_with(parent_pid: int) -> None:
    """Ask the kernel to kill us when our parent ends, however it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit("the supervisor is gone")


def serve(kind: str, connection: Connection, options: str) -> None:
    """Become a media process or an engine; only then import what that needs."""
    if kind == "media":
        from worker import media

        media.serve(connection, MediaOptions.model_validate_json(options))
    elif kind == "fake":
        from worker import engine_server, fake_engine

        engine_options = EngineOptions.model_validate_json(options)
        engine_server.serve(connection, lambda: fake_engine.load(engine_options))
    elif kind == "torch":
        from worker import engine_server, torch_engine

        engine_options = EngineOptions.model_validate_json(options)
        engine_server.serve(connection, lambda: torch_engine.load(engine_options))
    else:
        sys.exit(f"no such kind of child: {kind}")


if __name__ == "__main__":
    main()
