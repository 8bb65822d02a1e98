"""A program in a process of its own, halted at one of the standard library's methods."""

import signal

import pytest

from tests.system.system import wait_until
from tests.system.test_processes import state_of

POINT = "pathlib:Path.write_text"


@pytest.mark.parametrize(("when", "first_is_there"), [("before", False), ("after", True)])
def test_halts_once_where_it_shall(run, tmp_path, when, first_is_there):
    mark, first, second = (tmp_path / name for name in ("mark", "first", "second"))
    options = (when, POINT, str(mark))
    process = run("tests.system.breakpoints", *options, names=("first", "second"))
    wait_until(lambda: state_of(process.pid) == "T", 10, "the breakpoint")
    assert mark.exists()
    assert first.exists() == first_is_there
    assert not second.exists()
    process.send_signal(signal.SIGCONT)
    assert process.wait(10) == 0
    assert second.exists()


def test_runs_through_where_the_mark_is_there(run, tmp_path):
    (tmp_path / "mark").touch()
    options = ("before", POINT, str(tmp_path / "mark"))
    process = run("tests.system.breakpoints", *options, names=("first",))
    assert process.wait(10) == 0
    assert (tmp_path / "first").exists()
