"""Entry point of an engine: `python -m worker.child_main KIND FD OPTIONS`.

KIND is torch or fake; FD is the child's end of a socket pair; OPTIONS is JSON.
"""

import logging
import os
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection

from rollout_core.command import importing_much
from worker import engine_server
from worker.messages import EngineOptions
from worker.parent_death import die_with


def main() -> None:
    """Serve the supervisor until it closes the socket."""
    kind, fd, options = sys.argv[1:]
    logging.basicConfig(
        format="%(levelname)s %(name)s: %(message)s"
    )  # the supervisor adds the rest
    die_with(os.getppid())
    # A terminal signals the whole group, but the supervisor decides when its children stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Connection(int(fd)) as connection, suppress(BrokenPipeError):  # the supervisor has ended
        serve(kind, connection, options)


def serve(kind: str, connection: Connection, options: str) -> None:
    """Run an engine; import only what that kind needs."""
    engine_options = EngineOptions.model_validate_json(options)
    if kind == "fake":
        from worker import fake_engine

        engine_server.serve(connection, lambda: fake_engine.load(engine_options))
    elif kind == "torch":
        with importing_much():
            from worker import torch_engine

        engine_server.serve(connection, lambda: torch_engine.load(engine_options))
    else:
        sys.exit(f"no such kind of engine: {kind}")


if __name__ == "__main__":
    main()
