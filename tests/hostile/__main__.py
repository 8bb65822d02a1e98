"""Fuzz: `scripts/fuzz [--minutes N] [--mutants N] [--seed S]`."""

import argparse
import sys
import time
from pathlib import Path

from tests.hostile.fuzz import Account, Fuzzer, fuzzing

REPORT_SECONDS = 30.0
OUTPUT = Path("fuzz-output")
"""Keeps the mutants that killed media, or that ended as they must not."""


def main() -> None:
    """Fuzz for as long, or as often, as was asked; fail if anything ended as it must not."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--mutants", type=int, help="so many, however long it takes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with fuzzing(options.seed) as fuzzer:
        fuzz(fuzzer, minutes=options.minutes, mutants=options.mutants)
    report(fuzzer.account)
    sys.exit(bool(fuzzer.account.mistakes))


def fuzz(fuzzer: Fuzzer, *, minutes: float, mutants: int | None) -> None:
    """Try so many mutants, or as many as fit into the time; tell the account now and then."""
    ends_at = time.monotonic() + 60 * minutes
    next_report = time.monotonic() + REPORT_SECONDS
    while fuzzer.account.mutants < mutants if mutants else time.monotonic() < ends_at:
        fuzzer.try_one()
        if time.monotonic() >= next_report:
            next_report = time.monotonic() + REPORT_SECONDS
            print(fuzzer.account, flush=True)


def report(account: Account) -> None:
    """Print how the mutants ended, the account last, and keep those to look at."""
    for name, mutant in account.kept.items():
        OUTPUT.mkdir(exist_ok=True)
        (OUTPUT / name).write_bytes(mutant)
    for mistake in account.mistakes:
        print(mistake)
    print(f"failures: {dict(account.failures.most_common())}")
    print(f"deaths of media: {dict(account.deaths.most_common())}")
    print(f"slowest mutant: {account.slowest_seconds:.1f} s")
    print(account)


if __name__ == "__main__":
    main()
