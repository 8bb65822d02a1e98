"""The system calls that a media process may make; to it, no other exists.

The list is of what is allowed, so a call that the next kernel brings is refused without our
knowing it. All others answer ENOSYS, as on a kernel that is too old to have them, and that
makes the list last: where a newer C library tries a newer call, it falls back to the old one.
Absent are all that start a process or open a socket, that reach another process, and those by
which Landlock can be got round: it does not look at `chmod`, `setxattr` or `utimensat`.
"""

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyseccomp import Arg, SyscallFilter

MEMORY = """
    brk madvise membarrier mmap mprotect mremap munmap
"""
THREADS = """
    arch_prctl exit exit_group futex futex_waitv get_robust_list getcpu gettid restart_syscall rseq
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend sched_getaffinity
    sched_getparam sched_getscheduler sched_yield set_robust_list set_tid_address sigaltstack
"""
CLOCKS = """
    clock_getres clock_gettime clock_nanosleep gettimeofday nanosleep time
"""
DESCRIPTORS = """
    close close_range dup dup2 dup3 fadvise64 fallocate fdatasync flock fstat fstatfs fsync
    ftruncate lseek poll ppoll pread64 preadv preadv2 pselect6 pwrite64 pwritev pwritev2 read readv
    select sendfile write writev
"""
PATHS = """
    access chdir creat faccessat faccessat2 fchdir getcwd getdents getdents64 lstat newfstatat open
    openat readlink readlinkat rename renameat renameat2 stat statfs statx unlink unlinkat
"""
OURSELVES = """
    getegid geteuid getgid getpgid getpgrp getpid getppid getrandom getresgid getresuid getrlimit
    getrusage getsid getuid sysinfo times uname
"""
ALLOWED = f"{MEMORY} {THREADS} {CLOCKS} {DESCRIPTORS} {PATHS} {OURSELVES}".split()

CLONE_THREAD = 0x0001_0000
CLONE_NAMESPACES = 0x7E02_0000
"""Flags of `clone`, from <linux/sched.h>; a thread, and each kind of namespace."""

DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
"""Of `fcntl`: duplicates, flags and locks. F_SETOWN and F_SETSIG could kill the supervisor."""

DEVICE_COMMANDS = (0x5401, 0x5450, 0x5451, 0x541B)
"""Of `ioctl`: TCGETS, FIONCLEX, FIOCLEX, FIONREAD. TIOCSTI could type into a terminal."""

PR_SET_NAME = 15
"""Of `prctl`, from <linux/prctl.h>; decoders name their threads."""

UNKNOWN = -1
"""What libseccomp makes of a name that it does not know."""


def allowed_calls() -> "SyscallFilter | None":
    """Make the filter that `enforce` puts in force, or return None where there is no libseccomp.

    That it is found takes other programs, so this must come before anything is shut away.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError):  # the package, or libseccomp, is not here
        return None
    calls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    calls.set_attr(pyseccomp.Attr.CTL_TSYNC, 1)  # hold every thread
    equal, masked, argument = pyseccomp.EQ, pyseccomp.MASKED_EQ, pyseccomp.Arg
    for name in ALLOWED:
        _allow(calls, name)
    _allow(calls, "clone", argument(0, masked, CLONE_THREAD | CLONE_NAMESPACES, CLONE_THREAD))
    _allow(calls, "tgkill", argument(0, equal, os.getpid()))
    _allow(calls, "prlimit64", argument(0, equal, 0), argument(2, equal, 0))
    _allow(calls, "prctl", argument(0, equal, PR_SET_NAME))
    for command in DESCRIPTOR_COMMANDS:
        _allow(calls, "fcntl", argument(1, equal, command))
    for command in DEVICE_COMMANDS:
        _allow(calls, "ioctl", argument(1, equal, command))
    return calls


def enforce(calls: "SyscallFilter") -> bool:
    """Let this process make no other call from now on; say whether the kernel can do that."""
    try:
        calls.load()
    except OSError:
        return False
    return True


def _allow(calls: "SyscallFilter", name: str, *conditions: "Arg") -> None:
    """Allow a call, under all the conditions, where this machine and libseccomp know it."""
    import pyseccomp

    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    if number != UNKNOWN:
        calls.add_rule(pyseccomp.ALLOW, number, *conditions)
