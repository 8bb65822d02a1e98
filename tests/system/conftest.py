import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.system.processes import ROOT

PROGRAM = """
import sys
from pathlib import Path
for name in sys.argv[1:]:
    Path(name).write_text("something")
"""

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run(tmp_path) -> Iterator[Run]:
    """Start a program that writes files in `tmp_path`; a module of this package runs it."""
    (tmp_path / "writer.py").write_text(PROGRAM)
    processes = []

    def run(module: str, *options: str, names: tuple[str, ...]) -> subprocess.Popen[str]:
        paths = [str(tmp_path / name) for name in names]
        command = [sys.executable, "-m", module, *options, "writer", *paths]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
        processes.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        )
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()
