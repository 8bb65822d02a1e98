"""Programs of npm packages that tests compare with; see `scripts/node-packages`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.system.tools import require_tool

FOLDER = Path(__file__).parents[1] / "node"


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
