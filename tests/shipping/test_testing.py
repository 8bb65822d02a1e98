"""What teams that call the service get with the package: the plugin, the suite, and no torch."""

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from importlib.resources import files

from tests.shipping.distributions import PROJECT

MODULE = "rollout_core.testing.plugin"


def test_pytest_finds_the_plugin():
    (found,) = [item for item in entry_points(group="pytest11") if item.dist.name == PROJECT]
    assert (found.name, found.value) == ("rollout_service", MODULE)


def test_the_plugin_imports_nothing_but_pytest():
    code = (
        f"import pytest, sys; before = {{*sys.modules}}; import {MODULE}; "
        "print(*sorted({*sys.modules} - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["rollout_core", "rollout_core.testing", MODULE]


def test_the_suite_and_its_video_are_in_a_package_of_the_wheel(root):
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "rollout_core" in wheel["packages"]
    assert wheel.keys() == {"packages"}  # nothing is left out
    suite = {item.name for item in files("rollout_core.testing.contract").iterdir()}
    assert {"__init__.py", "conftest.py", "test_jobs.py", "test_artifacts.py"} <= suite
    assert (files("rollout_core") / "demo" / "sample.mp4").is_file()
