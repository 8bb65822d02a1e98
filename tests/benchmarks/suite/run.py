"""Runs sections, each in a process of its own, in one or two revisions of the project."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.suite.checkout import Checkout
from tests.benchmarks.suite.section import Settings

LIMIT_SECONDS = 1800
ERROR_LINES = 3
OUR_SETTINGS = "ROLLOUT_"
"""Environment variables that begin so would change what is measured."""


def run_sections(
    names: Sequence[str], settings: Settings, checkouts: Mapping[str, Checkout]
) -> dict[str, dict[str, Any]]:
    """Run each section in every checkout before the next section.

    Returns:
        For each label of a checkout: name of a section → its measurements, as JSON; or `skipped`
        or `error`, with the reason.
    """
    found: dict[str, dict[str, Any]] = {label: {} for label in checkouts}
    for name in names:
        for label, checkout in checkouts.items():
            print(f"{name} ({label})", flush=True)
            found[label][name] = run_section(name, settings, checkout)
    return found


def run_section(name: str, settings: Settings, checkout: Checkout) -> dict[str, Any]:
    """Run one section; return its measurements, or why there are none."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "section.json"
        arguments = [name, settings.scale, settings.device, str(path)]
        command = [checkout.python, "-m", "tests.benchmarks.suite.one", *arguments]
        try:
            done = subprocess.run(
                command,
                cwd=checkout.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {LIMIT_SECONDS} s"}
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-ERROR_LINES:]
            return {"error": " ".join(last) or f"exit status {done.returncode}"}
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(OUR_SETTINGS)}
