"""Other values of constants, in a separate process."""

import os
import subprocess
import sys

import pytest

from tests.system import waiting
from tests.system.constants import set_constant
from tests.system.processes import ROOT

PROGRAM = """
import sys
from tests.system import waiting
print(waiting.WAIT_SECONDS, waiting.LAST_POLL_SECONDS, sys.argv)
"""


def test_the_program_sees_the_other_values_and_its_own_arguments(tmp_path):
    (tmp_path / "printer.py").write_text(PROGRAM)
    chosen = ("tests.system.waiting:WAIT_SECONDS=3", "tests.system.waiting:LAST_POLL_SECONDS=0.5")
    printed = subprocess.run(
        [sys.executable, "-m", "tests.system.constants", *chosen, "printer", "a:b=1", "c"],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed == f"3.0 0.5 {[str(tmp_path / 'printer.py'), 'a:b=1', 'c']}\n"


def test_a_constant_keeps_its_type(monkeypatch):
    monkeypatch.setattr(waiting, "WAIT_SECONDS", 30)
    set_constant("tests.system.waiting:WAIT_SECONDS=3")
    assert (waiting.WAIT_SECONDS, type(waiting.WAIT_SECONDS)) == (3, int)


def test_a_constant_that_is_not_there_is_an_error():
    with pytest.raises(AttributeError, match="WAITING"):
        set_constant("tests.system.waiting:WAITING=3")
