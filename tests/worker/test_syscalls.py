"""A filter cannot be taken off, so what it does is tried in processes of their own."""

import subprocess
import sys

import pyseccomp
import pytest

from tests.worker.crimes import KERNEL
from worker import syscalls
from worker.syscalls import ALLOWED, UNKNOWN, allowed_calls

THREAD = """
import os, socket, threading
from worker.syscalls import allowed_calls, enforce
go = threading.Event()
def try_socket():
    go.wait()
    try:
        socket.socket()
    except OSError as error:
        print(os.strerror(error.errno))
thread = threading.Thread(target=try_socket)
thread.start()
print(enforce(allowed_calls()))
go.set()
thread.join()
"""


def test_threads_that_run_already_are_held_too():
    done = subprocess.run([sys.executable, "-c", THREAD], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["True", "Function not implemented"]


DANGEROUS = f"""
    socket connect bind sendmsg execve fork vfork clone kill ptrace prctl fcntl ioctl prlimit64
    chmod fchmodat utimensat setxattr symlink linkat mknod truncate wait4 setrlimit {KERNEL}
"""


@pytest.mark.parametrize("name", DANGEROUS.split())
def test_what_could_reach_others_is_not_allowed_without_conditions(name):
    assert name not in ALLOWED


def test_every_name_is_one_of_a_system_call():
    """A name with a mistake in it would allow nothing."""
    numbers = {name: pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) for name in ALLOWED}
    assert [name for name, number in numbers.items() if number == UNKNOWN] == []
    assert len(set(ALLOWED)) == len(ALLOWED)


def test_a_name_that_libseccomp_does_not_know_is_passed_over(monkeypatch):
    monkeypatch.setattr(syscalls, "ALLOWED", ["read", "call_of_the_future"])
    assert pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, "call_of_the_future") == UNKNOWN
    assert allowed_calls() is not None


def test_without_libseccomp_there_is_no_filter(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    assert allowed_calls() is None
