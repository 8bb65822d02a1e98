"""Runs a program as a unit of systemd does: other system calls than the given ones are refused.

python -m tests.shipping.under_system_calls CALL,CALL,... MODULE ARGUMENT ...
"""

import errno
import os
import sys

import pyseccomp


def main() -> None:
    """Allow the system calls, and become the program."""
    names, *arguments = sys.argv[1:]
    calls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in names.split(","):
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        if number >= 0:
            calls.add_rule(pyseccomp.ALLOW, number)
    calls.load()
    os.execv(sys.executable, [sys.executable, "-m", *arguments])


if __name__ == "__main__":
    main()
