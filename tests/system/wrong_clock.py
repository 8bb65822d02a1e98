"""Runs a program whose clock is wrong.

    python -m tests.system.wrong_clock SECONDS PROGRAM ARGUMENT …

The program's `time.time`, and the times that RQ takes from `datetime`, are SECONDS ahead; with a
negative number they are behind. Other uses of `datetime` are right.
"""

import runpy
import sys
import time
from datetime import UTC, datetime, timedelta

from rq import executions, intermediate_queue, job, registry, utils
from rq.worker import base


def main() -> None:
    """Set the clock, then run the program in this process."""
    seconds, program, *arguments = sys.argv[1:]
    set_clock(float(seconds))
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


def set_clock(seconds: float) -> None:
    """Set this process' clock ahead, or behind."""
    right = time.time
    time.time = lambda: right() + seconds
    for module in (base, executions, intermediate_queue, job, registry, utils):
        module.now = lambda: datetime.now(UTC) + timedelta(seconds=seconds)


if __name__ == "__main__":
    main()
