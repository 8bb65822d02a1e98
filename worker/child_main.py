"""Entry point of a child process: `python -m worker.child_main KIND FD OPTIONS`.

KIND is media, torch or fake; FD is the child's end of a socket pair; OPTIONS is JSON.
"""

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
    # A terminal signals the whole group, but the supervisor decides when its children stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Connection(int(fd)) as connection, suppress(BrokenPipeError):  # the supervisor has ended
        serve(kind, connection, options)


def die_with(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent ends; exit if it has ended already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit("the supervisor has ended")


def serve(kind: str, connection: Connection, options: str) -> None:
    """Run a media process or an engine; import only what that kind needs."""
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
