"""`service.die_with_parent` as a process: what it starts, and when that ends."""

import subprocess
import sys

from tests.system.waiting import wait_until


def die_with(parent_pid, code):
    return [
        sys.executable,
        "-m",
        "service.die_with_parent",
        str(parent_pid),
        sys.executable,
        "-c",
        code,
    ]


def run(parent_pid_of, code):
    """Run `die_with_parent` from a separate process, and return its output."""
    starter = (
        "import os, subprocess\n"
        f"command = {die_with('PARENT', code)!r}\n"
        f"command[3] = str({parent_pid_of})\n"
        "print(subprocess.run(command, capture_output=True, text=True))"
    )
    return subprocess.run(
        [sys.executable, "-c", starter], capture_output=True, text=True, check=True
    ).stdout


def test_it_becomes_the_command():
    said = run("os.getpid()", "import sys; print('here', *sys.argv); sys.exit(7)")

    assert "here -c" in said
    assert "returncode=7" in said


def test_it_does_not_start_if_the_parent_has_ended():
    said = run("1 + 2**21", "print('here')")

    assert "here" not in said.partition("stdout=")[2]
    assert "has ended" in said


def test_the_command_is_asked_to_end_when_its_parent_is_killed(tmp_path):
    mark = tmp_path / "ended"
    code = (
        "import signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(mark)!r}, 'w'), sys.exit()))\n"
        "print('up', flush=True); time.sleep(30)"
    )
    starter = (
        "import os, subprocess\n"
        f"command = {die_with('PARENT', code)!r}\n"
        "command[3] = str(os.getpid())\n"
        "subprocess.Popen(command, stdout=subprocess.PIPE).stdout.readline()\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", starter], check=False)

    wait_until(lambda: mark.exists())
