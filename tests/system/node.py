"""Programs of npm packages that tests compare with; see `scripts/node-packages`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.system.tools import require_tool

FOLDER = Path(__file__).parents[1] / "node"

NODE_FLAGS = ("--experimental-eventsource", "--test-reporter=junit")
"""Node 20 has the EventSource of browsers, but not without a flag."""


def require_node_package(name: str) -> str:
    """Return the path of node. Without the package the test is skipped, and fails in CI."""
    node = require_tool("node")
    if not (FOLDER / "node_modules" / name).is_dir():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")
    return node


def run_node(package: str, script: str, options: dict[str, Any], *, seconds: float = 120) -> Any:
    """Run a script of `FOLDER`, which uses a package; return the JSON that it prints."""
    command = [require_node_package(package), script, json.dumps(options)]
    done = subprocess.run(
        command, cwd=FOLDER, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_node_tests(script: Path, *, seconds: float = 300, **values: Any) -> None:
    """Run the tests of a file for `node:test`.

    Args:
        values: given to the script as JSON, in the environment variable `VALUES`.

    Raises:
        AssertionError: tests have failed; it names each, and says why.
    """
    failed = _failed_node_tests(script, seconds, values)
    assert not failed, "\n".join(f"{name}\n{reason}" for name, reason in failed.items())


def _failed_node_tests(script: Path, seconds: float, values: dict[str, Any]) -> dict[str, str]:
    command = [require_tool("node"), *NODE_FLAGS, script.name]
    done = subprocess.run(
        command,
        cwd=script.parent,
        env=os.environ | {"VALUES": json.dumps(values)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    cases = list(ElementTree.fromstring(done.stdout).iter("testcase")) if done.stdout else []
    assert cases, f"{script.name} has no test: {done.stderr}"
    failed = {
        case.get("name", ""): failure.text or ""
        for case in cases
        if (failure := case.find("failure")) is not None
    }
    assert bool(failed) == bool(done.returncode), done.stderr
    return failed
