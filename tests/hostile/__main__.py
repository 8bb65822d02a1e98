"""Fuzz the media process: `scripts/fuzz [--minutes N] [--mutants N] [--seed S]`."""

import argparse
import sys
import time
from pathlib import Path

from tests.hostile.fuzz import Counts, Fuzzer, fuzzing

REPORT_SECONDS = 30.0
OUTPUT = Path("fuzz-output")
"""Gets the mutants that killed media or ended in a wrong way."""


def main() -> None:
    """Fuzz as the flags say; exit with status 1 if a mutant ended in a wrong way."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description="Send damaged videos through the media process."
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="Duration; default: 1.")
    parser.add_argument("--mutants", type=int, help="Number of mutants; replaces --minutes.")
    parser.add_argument("--seed", type=int, default=0, help="Of the mutants; default: 0.")
    options = parser.parse_args()
    with fuzzing(options.seed) as fuzzer:
        fuzz(fuzzer, minutes=options.minutes, mutants=options.mutants)
    report(fuzzer.counts)
    sys.exit(bool(fuzzer.counts.mistakes))


def fuzz(fuzzer: Fuzzer, *, minutes: float, mutants: int | None) -> None:
    """Try mutants for `minutes`, or as many as `mutants`; print the counts every 30 s."""
    ends_at = time.monotonic() + 60 * minutes
    next_report = time.monotonic() + REPORT_SECONDS
    while fuzzer.counts.mutants < mutants if mutants else time.monotonic() < ends_at:
        fuzzer.try_one()
        if time.monotonic() >= next_report:
            next_report = time.monotonic() + REPORT_SECONDS
            print(fuzzer.counts, flush=True)


def report(counts: Counts) -> None:
    """Print how the mutants ended, the counts last; write the kept mutants to `OUTPUT`."""
    for name, mutant in counts.kept.items():
        OUTPUT.mkdir(exist_ok=True)
        (OUTPUT / name).write_bytes(mutant)
    for mistake in counts.mistakes:
        print(mistake)
    print(f"failures: {dict(counts.failures.most_common())}")
    print(f"deaths of media: {dict(counts.deaths.most_common())}")
    print(f"slowest mutant: {counts.slowest_seconds:.1f} s")
    print(counts)


if __name__ == "__main__":
    main()
