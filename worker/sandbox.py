"""The sandbox of a media process: limits, Landlock and seccomp.

A media process enters the sandbox before it opens an upload. The sandbox has three layers. None
needs a privilege, and none can be undone:

- limits bound the memory, the processor time and the files that the process may use;
- Landlock restricts which files it can read and write;
- seccomp restricts which system calls it can make: no network, no other process.

A layer that the machine does not support is skipped. `probe` returns the layers in force.
"""

import errno
import os
import resource
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import rollout_core
import worker
from worker.messages import Confinement, MediaOptions

if TYPE_CHECKING:
    from pyseccomp import Arg, SyscallFilter

MEDIA_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MiB of the limited address space
    "OPENBLAS_NUM_THREADS": "1",  # so does each of its threads
}
"""All environment variables of a media process: it gets no addresses and no secrets."""

PROBE_SECONDS = 30.0
"""Timeout of the probe."""

# Limits

OPEN_FILES = 64

# Landlock

LIBRARIES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache")
"""System paths that libraries read."""

# seccomp: the allowed system calls

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

OWN_PROCESS = """
    getegid geteuid getgid getpgid getpgrp getpid getppid getrandom getresgid getresuid getrlimit
    getrusage getsid getuid sysinfo times uname
"""

ALLOWED = f"{MEMORY} {THREADS} {CLOCKS} {DESCRIPTORS} {PATHS} {OWN_PROCESS}".split()
"""System calls that are allowed with any arguments."""

CLONE_THREAD = 0x0001_0000
"""Flag of `clone` that makes a thread, from <linux/sched.h>."""

CLONE_NAMESPACES = 0x7E02_0000
"""All flags of `clone` that make a namespace, from <linux/sched.h>."""

DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
"""Allowed commands of `fcntl`: duplicates, flags and locks.

F_SETOWN and F_SETSIG are missing: a signal sent through them could kill the supervisor.
"""

DEVICE_COMMANDS = (0x5401, 0x5450, 0x5451, 0x541B)
"""Allowed commands of `ioctl`: TCGETS, FIONCLEX, FIOCLEX, FIONREAD.

TIOCSTI is missing: it could type into a terminal.
"""

PR_SET_NAME = 15
"""Allowed command of `prctl`, from <linux/prctl.h>: decoders name their threads."""

UNKNOWN = -1
"""What libseccomp returns for the name of a system call that it does not know."""


class NotConfined(Exception):
    """A layer of the sandbox is not in force, but must be."""


def limit(options: MediaOptions) -> None:
    """Limit the memory, files and processor time of this process, permanently.

    The number of processes is not limited here: the kernel would count all processes of the user.
    Under seccomp this process cannot start any.
    """
    limits = {
        resource.RLIMIT_AS: options.memory_bytes,
        resource.RLIMIT_FSIZE: options.file_bytes,
        resource.RLIMIT_CPU: options.cpu_seconds,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, bound in limits.items():
        _, ceiling = resource.getrlimit(kind)
        bounded = bound if ceiling == resource.RLIM_INFINITY else min(bound, ceiling)
        resource.setrlimit(kind, (bounded, bounded))


def confine(upload: Path, folder: Path) -> Confinement:
    """Restrict the files and the system calls of this process, permanently.

    It can read the upload's folder, and read and write the attempt's `folder`. Elsewhere it can
    read what the interpreter and its libraries need, and write nothing. It cannot make folders,
    because a deep tree of them is hard to remove.

    Returns:
        The layers that are in force.

    Raises:
        NotConfined: this process has other threads, which Landlock would not restrict.
    """
    require_no_threads()
    calls = allowed_calls()
    abi = _restrict_files(upload, folder)
    return Confinement(landlock_abi=abi, seccomp=calls is not None and enforce(calls))


def require_no_threads() -> None:
    """Raise `NotConfined` if this process has more threads than the one that runs."""
    if len([*Path("/proc/self/task").iterdir()]) > 1:
        raise NotConfined("there are threads already")


def preload() -> None:
    """Load the libraries that `confine` needs, where they are installed."""
    with suppress(ImportError):
        import landlock  # noqa: F401
    allowed_calls()


def probe() -> Confinement:
    """Enter the sandbox in a process of its own, and return the layers that are in force there.

    Raises:
        subprocess.SubprocessError: the process failed.
    """
    with TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "worker.sandbox", folder],
            env=MEDIA_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=PROBE_SECONDS,
            check=True,
        )
    return Confinement.model_validate_json(done.stdout)


def main() -> None:
    """Enter the sandbox with the folder given as argument; print the layers in force as JSON."""
    folder = Path(sys.argv[1])
    sys.stdout.write(confine(folder / "video", folder).model_dump_json())


# Landlock


def _restrict_files(upload: Path, folder: Path) -> int | None:
    """Restrict file access; return the ABI of the kernel's Landlock, or None if it has none."""
    try:
        from landlock import FSAccess, LandlockError, Ruleset, landlock_abi_version
    except ImportError:
        return None
    try:
        abi = landlock_abi_version()
    except LandlockError:  # the kernel is too old, or Landlock is disabled
        return None
    read_file = FSAccess.READ_FILE
    read = read_file | FSAccess.READ_DIR
    write = FSAccess.WRITE_FILE | FSAccess.MAKE_REG | FSAccess.REMOVE_FILE
    files = Ruleset()
    for path in _readable():
        files.allow(path, rules=read if path.is_dir() else read_file)
    files.allow(upload.parent, rules=read)
    files.allow(folder, rules=read | write | FSAccess.TRUNCATE & FSAccess.all())
    files.apply()
    return int(abi)


def _readable() -> Iterator[Path]:
    """Yield what the interpreter, our packages and their libraries read.

    Neither the parent of our packages nor the environment's folder is included: the store may be
    there.
    """
    modules = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    modules += [site.getusersitepackages(), f"{sys.base_prefix}/lib"]
    packages = [path for package in (rollout_core, worker) for path in package.__path__]
    for path in map(Path, {*modules, *packages, *LIBRARIES}):
        if path.exists():
            yield path


# seccomp


def allowed_calls() -> "SyscallFilter | None":
    """Return the filter for `enforce`, or None if libseccomp is not installed.

    Call this before files are restricted: pyseccomp starts other programs to find libseccomp.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError):  # the package or libseccomp is missing
        return None
    calls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    calls.set_attr(pyseccomp.Attr.CTL_TSYNC, 1)  # restrict every thread
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
    """Refuse all other system calls from now on; return False if the kernel cannot do that."""
    try:
        calls.load()
    except OSError:
        return False
    return True


def _allow(calls: "SyscallFilter", name: str, *conditions: "Arg") -> None:
    """Allow a system call if all conditions hold; skip a name unknown to this machine."""
    import pyseccomp

    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    if number != UNKNOWN:
        calls.add_rule(pyseccomp.ALLOW, number, *conditions)


if __name__ == "__main__":
    main()
