"""Runs a program that halts, once, where a function of it begins or has just returned.

    python -m tests.system.breakpoints {before|after} MODULE:CLASS.METHOD MARK PROGRAM ARGUMENT …

There the program writes the file MARK and stops, as by SIGSTOP: whoever waits for the file may
look around, kill it, or let it go on. Where MARK exists, the program runs as ever, so one that
is started again does not halt again.
"""

import runpy
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any


def main() -> None:
    """Become the program."""
    when, point, mark, program, *arguments = sys.argv[1:]
    set_breakpoint(point, when, Path(mark))
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


def set_breakpoint(point: str, when: str, mark: Path) -> None:
    """Put what halts in the place of the method at `point`."""
    module, _, path = point.partition(":")
    owner_name, _, name = path.rpartition(".")
    owner = getattr(import_module(module), owner_name)
    setattr(owner, name, _halting(getattr(owner, name), when, mark))


def _halting(function: Callable[..., Any], when: str, mark: Path) -> Callable[..., Any]:
    @wraps(function)
    def halting(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            _halt(mark)
        answer = function(*args, **kwargs)
        if when == "after":
            _halt(mark)
        return answer

    return halting


def _halt(mark: Path) -> None:
    if not mark.exists():
        mark.touch()
        # To this thread: sent to the process, another thread may take it while this one runs on.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


if __name__ == "__main__":
    main()
