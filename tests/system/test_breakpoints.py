"""Breakpoints in a separate process, at a method of the standard library."""

import signal

import pytest

from tests.system.test_processes import state_of
from tests.system.waiting import WAIT_SECONDS, wait_until

POINT = "pathlib:Path.write_text"


@pytest.mark.parametrize(("when", "first_is_there"), [("before", False), ("after", True)])
def test_halts_once_at_the_breakpoint(run, tmp_path, when, first_is_there):
    mark, first, second = (tmp_path / name for name in ("mark", "first", "second"))
    options = (when, POINT, str(mark))
    process = run("tests.system.breakpoints", *options, names=("first", "second"))
    wait_until(lambda: state_of(process.pid) == "T", what="the breakpoint")
    assert mark.exists()
    assert first.exists() == first_is_there
    assert not second.exists()
    process.send_signal(signal.SIGCONT)
    assert process.wait(WAIT_SECONDS) == 0
    assert second.exists()


def test_does_not_halt_if_the_mark_exists(run, tmp_path):
    (tmp_path / "mark").touch()
    options = ("before", POINT, str(tmp_path / "mark"))
    process = run("tests.system.breakpoints", *options, names=("first",))
    assert process.wait(WAIT_SECONDS) == 0
    assert (tmp_path / "first").exists()
