import os
import subprocess
import sys
import time

from tests.benchmarks.suite.processes import (
    MEBIBYTE,
    await_rest,
    command_line,
    cpu_seconds,
    peak_bytes,
    proportional_bytes,
    tree,
    watching_peaks,
)
from tests.system.waiting import wait_until

BUSY = "import time; end = time.process_time() + {seconds}\nwhile time.process_time() < end: pass"


def test_tree_holds_grandchildren():
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE) as child:
        wait_until(lambda: len(tree(child.pid)) == 2)
        assert tree(child.pid)[0] == child.pid
        assert child.pid in tree(os.getpid())
        wait_until(lambda: command_line(tree(child.pid)[1])[1:3] == ["-c", "input()"])
        child.communicate(b"\n")
    assert command_line(child.pid) == []


def test_processor_time_counts_children_that_have_ended():
    before = cpu_seconds([os.getpid()])
    subprocess.run([sys.executable, "-c", BUSY.format(seconds=0.2)], check=True)
    assert cpu_seconds([os.getpid()]) - before >= 0.15


def test_rest_is_awaited():
    with subprocess.Popen([sys.executable, "-c", BUSY.format(seconds=0.5) + "\ninput()"]) as child:
        await_rest([child.pid])
        assert cpu_seconds([child.pid]) >= 0.5
        child.kill()


def test_peak_of_a_call_is_what_it_adds():
    kept = bytearray(8 * MEBIBYTE)
    peak = peak_bytes(lambda: bytes(bytearray(64 * MEBIBYTE)))
    assert 100 <= peak / MEBIBYTE <= 140
    assert proportional_bytes(os.getpid()) >= len(kept)


def test_peaks_are_watched_by_kind():
    code = "import time; x = bytearray({} * 2**20); time.sleep(0.5)"
    commands = [[sys.executable, "-c", code.format(size), "kind"] for size in (16, 48)]
    with watching_peaks([os.getpid()], lambda pid: kind_of(pid)) as peaks:
        children = [subprocess.Popen(command) for command in commands]
        for child in children:
            child.wait()
    assert 48 <= peaks["kind"] / MEBIBYTE <= 90
    assert list(peaks) == ["kind"]


def kind_of(pid: int) -> str | None:
    return "kind" if "kind" in command_line(pid) else None


def test_watching_ends_with_its_context():
    with watching_peaks([os.getpid()], lambda pid: "self") as peaks:
        time.sleep(0.1)
    assert peaks["self"] > MEBIBYTE
