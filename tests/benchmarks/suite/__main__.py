"""Measures the project against named baselines; prints Markdown.

Usage: scripts/bench [--quick] [--device cpu|cuda] [--only SECTION ...] [--before REVISION]
                     [--json FILE] [--output FILE.md]
       scripts/bench --document FILE.json

`--quick` takes three minutes on two cores. `--before` measures another revision of the project
with the same benchmarks, section by section. A FILE of `--json` that exists keeps its other
sections, so that a run can be made in pieces. `--document` writes the tables and plots of a run to
docs/performance.md.
"""

import argparse
import json
import shlex
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.suite import machine, sections
from tests.benchmarks.suite.checkout import PRESENT, checked_out
from tests.benchmarks.suite.report import render
from tests.benchmarks.suite.run import run_sections
from tests.benchmarks.suite.section import Settings


def main() -> None:
    """Run the sections, or document a run."""
    options = parse(sys.argv[1:])
    if options.document:
        from tests.benchmarks.suite.document import document

        document(json.loads(options.document.read_text()))
        return
    report = measure(options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    text = render(report)
    if options.output:
        options.output.write_text(text)
    else:
        print(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", nargs="+", choices=[*sections.TITLES], metavar="SECTION")
    parser.add_argument("--before", metavar="REVISION")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--output", type=Path, metavar="FILE.md")
    parser.add_argument("--document", type=Path, metavar="FILE.json")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the sections that are asked for. Return the report, with what its file has already."""
    settings = Settings("quick" if options.quick else "full", options.device)
    with ExitStack() as stack:
        checkouts = {"now": PRESENT}
        if options.before:
            checkouts = {"before": stack.enter_context(checked_out(options.before))} | checkouts
        names = options.only or default_sections(options)
        found = run_sections(names, settings, checkouts)
        revisions = {
            label: {"commit": checkouts[label].commit, "sections": measured}
            for label, measured in found.items()
        }
    for label, known in known_revisions(options.json).items():
        measured = revisions.setdefault(label, known)
        measured["sections"] = known["sections"] | measured["sections"]
    return {
        "command": command(options),
        "date": datetime.now(UTC).date().isoformat(),
        "device": options.device,
        "scale": settings.scale,
        "rounds": settings.rounds,
        "machine": machine.describe(options.device),
        "revisions": revisions,
    }


def command(options: argparse.Namespace) -> str:
    """Return the command that repeats all pieces of a run, without the names of its files."""
    parts = ["scripts/bench", *(["--quick"] if options.quick else [])]
    if options.device != "cpu":
        parts += ["--device", options.device]
    if options.before:
        parts += ["--before", options.before]
    return shlex.join(parts)


def default_sections(options: argparse.Namespace) -> tuple[str, ...]:
    """Return what is measured unless sections are named."""
    if options.device == "cuda":
        return sections.ON_GPU
    return sections.QUICK if options.quick else sections.ON_CPU


def known_revisions(path: Path | None) -> dict[str, Any]:
    """Return what a file has of earlier runs."""
    if path is None or not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())["revisions"]
    return found


if __name__ == "__main__":
    main()
