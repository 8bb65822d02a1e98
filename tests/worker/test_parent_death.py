"""A process that ends with its parent, and one that comes too late."""

import subprocess
import sys

import pytest

from tests.system.processes import is_alive
from tests.system.waiting import wait_until

PARENT = """
import os, signal, sys, time
pid = os.fork()
if pid == 0:
    from worker.parent_death import die_with
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    die_with(os.getppid(), signal.{name})
    print(os.getpid(), flush=True)
    time.sleep(60)
os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_process_ends_when_its_parent_is_killed(name):
    command = [sys.executable, "-c", PARENT.format(name=name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    wait_until(lambda: not is_alive(child))


def test_process_whose_parent_has_ended_already_exits():
    code = "from worker.parent_death import die_with; die_with(1 << 22, 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "the parent process has ended already\n")
