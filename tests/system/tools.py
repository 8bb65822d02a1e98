"""Programs of the machine that tests compare with or stand behind; see `scripts/tools`."""

import os
import shutil

import pytest

SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))


def require_tool(name: str) -> str:
    """Return the path of a program. Without it the test is skipped, and fails where CI is set."""
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")
    return path
