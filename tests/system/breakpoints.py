"""Runs a program that halts once, before a method is called or after it has returned.

    python -m tests.system.breakpoints {before|after} MODULE:CLASS.METHOD MARK PROGRAM ARGUMENT …

At the breakpoint, the program creates the file MARK and sends itself SIGSTOP. A test waits for the
file; then it may kill the program or let it continue. If MARK exists already, the program does not
halt, so a restarted program runs through.
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
    """Set the breakpoint, then run the program in this process."""
    when, point, mark, program, *arguments = sys.argv[1:]
    set_breakpoint(point, when, Path(mark))
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


def set_breakpoint(point: str, when: str, mark: Path) -> None:
    """Replace the method at `point` by one that halts."""
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
        # To this thread: with a signal to the process, this thread might run on for a moment.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


if __name__ == "__main__":
    main()
