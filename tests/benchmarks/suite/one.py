"""Runs one section in a process of its own, so that its failure leaves the others alone.

python -m tests.benchmarks.suite.one SECTION SCALE DEVICE FILE.json
"""

import json
import sys
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.benchmarks.suite import machine
from tests.benchmarks.suite.section import Section, Settings

PACKAGE = "tests.benchmarks.suite.sections"
OUR_PACKAGES = ("rollout_core", "service", "worker", "tests")


def main() -> None:
    """Run the section and write its measurements."""
    name, scale, device, path = sys.argv[1:]
    found = measure(f"{PACKAGE}.{name}", Settings(scale, device))  # type: ignore[arg-type]
    Path(path).write_text(json.dumps(found))


def measure(module: str, settings: Settings) -> dict[str, Any]:
    """Run the section in a module. Return it as JSON, or why it was skipped."""
    before, began = machine.load(), time.monotonic()
    try:
        section: Section = import_module(module).run(settings)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in OUR_PACKAGES:
            raise
        return {"skipped": f"needs {error.name}, which is not installed here"}
    taken = {"seconds": time.monotonic() - began, "load": [before, machine.load()]}
    return asdict(section) | taken


if __name__ == "__main__":
    main()
