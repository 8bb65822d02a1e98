import signal
import subprocess
import sys

import pytest

from tests.system.forked import LIBRARIES, ForkedProgram
from tests.system.processes import Process, is_alive
from tests.system.waiting import wait_until

PROGRAM = """
import os, sys, time
print(sys.argv[1:], os.environ.get("COLOUR"), os.getcwd(), os.getsid(0) == os.getpid(), flush=True)
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("service", "rollout_core")))
print(all(name in sys.modules for name in sys.argv[2:]), os.listdir("/proc/self/fd")[:-1])
if __name__ == "__main__":
    if sys.argv[1] == "sleep":
        time.sleep(600)
    sys.exit("it failed" if sys.argv[1] == "fail" else int(sys.argv[1]))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    (tmp_path / "printer.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(str(tmp_path))
    started = []

    def start(*arguments):
        log = tmp_path / "log"
        started.append(ForkedProgram("printer", arguments, log=log, folder=tmp_path))
        return started[-1]

    yield start
    for program in started:
        program.kill()


def test_it_is_like_a_new_process_that_has_imported_libraries(start, tmp_path, monkeypatch):
    monkeypatch.setenv("COLOUR", "red")
    log = tmp_path / "log"
    log.write_text("before\n")
    assert start("3", *LIBRARIES).wait(30) == 3
    lines = log.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[1].endswith(f"red {tmp_path} True")
    assert lines[2:] == ["[]", "True ['0', '1', '2']"]


def test_its_message_and_status_are_those_of_an_interpreter(start, tmp_path):
    assert start("fail").wait(30) == 1
    assert (tmp_path / "log").read_text().splitlines()[-1] == "it failed"


def test_it_ends_by_a_signal(start, tmp_path):
    program = start("sleep")
    wait_until((tmp_path / "log").read_text, what="it to run")
    assert program.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(0.05)
    program.terminate()
    assert program.wait(30) == program.poll() == -signal.SIGTERM
    program.kill()  # nothing happens


def test_all_end_with_the_process_that_started_them(tmp_path):
    starter = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.system.forked import ForkedProgram\n"
        "if __name__ == '__main__':\n"
        "    log = Path(sys.argv[1])\n"
        "    program = ForkedProgram('http.server', ['0'], log=log, folder=log.parent)\n"
        "    print(program.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", starter, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        assert is_alive(pid)
        process.kill()
    wait_until(lambda: not is_alive(pid), what="the program to end")


def test_a_process_forks_modules_alone(tmp_path):
    log = tmp_path / "log"
    for command, marker in (
        ([sys.executable, "-m", "http.server", "--help"], "usage: server.py"),
        ([sys.executable, "-c", "print('other')"], "other"),
    ):
        process = Process("program", lambda c=command: c, log, kept=False, forked=True)
        wait_until(lambda p=process: not p.alive, what="it to end")
        assert marker in log.read_text()
        assert isinstance(process._process, ForkedProgram) == ("-m" in command)
