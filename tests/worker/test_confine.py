"""Limits are set in processes of their own: they cannot be undone."""

import subprocess
import sys

import pytest

PREAMBLE = """
from worker.confine import confine
from worker.messages import MediaOptions
confine(MediaOptions({options}))
"""


def run(options: str, program: str) -> subprocess.CompletedProcess[str]:
    code = PREAMBLE.format(options=options) + program
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_memory_is_bounded():
    code = "bytearray(1 << 30)"
    assert run("memory_bytes=8 << 30", code).returncode == 0
    assert "MemoryError" in run("memory_bytes=1 << 29", code).stderr


def test_files_are_bounded(tmp_path):
    code = f"from pathlib import Path; Path({str(tmp_path / 'f')!r}).write_bytes(bytes(5000))"
    assert run("file_bytes=10_000", code).returncode == 0
    assert "File too large" in run("file_bytes=1000", code).stderr


def test_processor_time_is_bounded():
    assert run("cpu_seconds=1", "while True: pass").returncode < 0


def test_the_number_of_open_files_is_bounded():
    code = "import os; files = [os.open('/dev/null', os.O_RDONLY) for _ in range({})]"
    assert run("", code.format(20)).returncode == 0
    assert "Too many open files" in run("", code.format(100)).stderr


def test_the_hard_limit_is_lowered_too_so_there_is_no_way_back():
    code = "import resource as r; print(r.getrlimit(r.{}))"
    limits = run("memory_bytes=3 << 30", code.format("RLIMIT_AS")).stdout
    assert limits.split() == [f"({3 << 30},", f"{3 << 30})"]
    assert run("", code.format("RLIMIT_CORE")).stdout.split() == ["(0,", "0)"]


@pytest.mark.parametrize("gib", [1, 2])
def test_a_stricter_limit_from_outside_stays(gib):
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_AS)[1] >> 30)"
    again = "confine(MediaOptions(memory_bytes=4 << 30))\n"
    assert int(run(f"memory_bytes={gib} << 30", again + code).stdout) == gib
