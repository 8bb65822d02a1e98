"""The crash table: each moment of a job at which a part may fail, and what follows.

    python -m tests.chaos.crash_table [--at-once N] [NAME …]

Injects the faults (all, or those named), N at a time, and prints a table with measured times.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

from tests.chaos.faults import FAULTS, Fault
from tests.system.system import System, open_system
from tests.system.waiting import wait_until

CLEAN_SECONDS = 30.0
"""How long after a job's end Redis may still hold something about it."""

HEAD = """\
| what dies, and when | what a client sees | new attempt after | ended after |
|---|---|---|---|"""


@dataclass(frozen=True)
class Row:
    """What was measured for one fault.

    Times count from the fault, or from its end if it lasts.

    Attributes:
        seen: the states in order; the attempt follows if it is not the first.
        retry_seconds: to the next attempt; None if the first one succeeded.
        ended_seconds: to the end of the job.
        start_seconds: what the start of a worker took before the fault.
    """

    window: str
    seen: tuple[str, ...]
    retry_seconds: float | None
    ended_seconds: float
    start_seconds: float

    def __str__(self) -> str:
        again = "–" if self.retry_seconds is None else f"{self.retry_seconds:.1f} s"
        seen = " → ".join(self.seen)
        return f"| {self.window} | {seen} | {again} | {self.ended_seconds:.1f} s |"


def play(fault: Fault, *, forked: bool = False) -> Row:
    """Inject a fault into a new system; check the job's end and what is left of the job.

    Args:
        forked: see `open_system`. Times are then shorter than those of real starts.

    Raises:
        AssertionError: the job did not end as it must, or left something behind.
    """
    with open_system(forked=forked) as system:
        watch = fault.play(system)
        assert watch.job_id is not None
        require_one_end(system, watch.job_id)
        require_clean_redis(system)
        start_seconds = system.start_seconds
    return Row(fault.window, watch.seen, watch.retry_seconds, watch.ended_seconds, start_seconds)


@contextmanager
def playing(
    faults: Iterable[Fault], at_once: int, *, forked: bool = False
) -> Iterator[dict[Fault, Future[Row]]]:
    """Inject faults in parallel; yield a future row for each. `forked` is as for `play`."""
    with ThreadPoolExecutor(at_once) as pool:
        yield {fault: pool.submit(play, fault, forked=forked) for fault in faults}


def require_one_end(system: System, job_id: str) -> None:
    """Check that the store holds exactly one end of a job, and none of its attempts."""
    ends = system.ends_of(job_id)
    assert len(ends) == 1, ends
    wait_until(
        lambda: not system.attempts_of(job_id),
        CLEAN_SECONDS,
        "the files of attempts to be removed",
    )


def require_clean_redis(system: System) -> None:
    """Check that Redis soon holds nothing about jobs; all of them have ended."""

    def is_clean() -> bool:
        with system.redis as redis:
            kept = redis.scan_iter("rollout:job:*"), redis.scan_iter("rq:job:*")
            queues = redis.scan_iter("rq:queue:*", _type="list"), redis.scan_iter("rq:wip:*")
            return not list(chain(*kept, *queues))

    wait_until(is_clean, CLEAN_SECONDS, "Redis to be clean")


def main() -> int:
    """Print the table; return 1 if a check failed."""
    parser = argparse.ArgumentParser(
        prog="scripts/chaos --table", description="Inject faults and print the crash table."
    )
    parser.add_argument("--at-once", type=int, default=2, help="Faults to run in parallel.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="Faults; default: all.")
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if not options.names or fault.name in options.names]
    wrong = 0
    print(HEAD, flush=True)
    with playing(faults, options.at_once) as rows:
        for fault, row in rows.items():
            error = row.exception()
            wrong += error is not None
            print(f"| {fault.window} | WRONG: {error} | | |" if error else row.result(), flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
