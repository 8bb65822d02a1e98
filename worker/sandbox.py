"""How a media process shuts itself in before it touches a stranger's bytes.

It does so in three layers, none of which needs a privilege and none of which can be undone.
Limits bound what it takes, Landlock which files it sees, and seccomp (`worker.sandbox`) what it
can ask of the kernel: no network, no other process. A layer that the machine lacks is left out;
`worker.sandbox` finds out which, and tells.
"""

import errno
import os
import resource
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import rollout_core
import worker
from worker.messages import (
    Confinement,
    MediaOptions,
)

OPEN_FILES = 64

LIBRARIES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache")
"""What libraries read of the system."""


class NotConfined(Exception):
    """A layer is missing that must not be."""


def limit(options: MediaOptions) -> None:
    """Limit this process's memory, files and processor time; it cannot undo that.

    There is no limit on processes: the kernel would count all those of the user, ours or not.
    Where seccomp is in force, there can be none but this one.
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
    """Let this process read its upload's folder and write its attempt's; return what is in force.

    Of other files it can read what the interpreter and its libraries need, and write none. Folders
    it cannot make, for a deep tree of them is hard to remove.

    Raises:
        NotConfined: it has more threads than this one, which Landlock would not hold.
    """
    if len([*Path("/proc/self/task").iterdir()]) > 1:
        raise NotConfined("there are threads already")
    calls = allowed_calls()
    abi = _restrict_files(upload, folder)
    return Confinement(landlock_abi=abi, seccomp=calls is not None and enforce(calls))


def _restrict_files(upload: Path, folder: Path) -> int | None:
    """Shut all other files away; return the ABI of the kernel's Landlock, or None without one."""
    try:
        from landlock import FSAccess, LandlockError, Ruleset, landlock_abi_version
    except ImportError:
        return None
    try:
        abi = landlock_abi_version()
    except LandlockError:  # the kernel is too old, or was told to go without
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
    """Yield what is read by the interpreter, our packages, and the libraries of both.

    Neither our packages' parent nor the environment's folder, where a store may be.
    """
    modules = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    modules += [site.getusersitepackages(), f"{sys.base_prefix}/lib"]
    packages = [path for package in (rollout_core, worker) for path in package.__path__]
    for path in map(Path, {*modules, *packages, *LIBRARIES}):
        if path.exists():
            yield path


TRIAL_SECONDS = 30.0


def try_confinement() -> Confinement:
    """Have a process shut itself in as media does, and return what was in force.

    Raises:
        subprocess.SubprocessError: it could not even try.
    """
    with TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "worker.sandbox", folder],
            env=MEDIA_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=TRIAL_SECONDS,
            check=True,
        )
    return Confinement.model_validate_json(done.stdout)


def main() -> None:
    """Try it on this process, with a folder to work in, and print what is in force."""
    folder = Path(sys.argv[1])
    sys.stdout.write(confine(folder / "video", folder).model_dump_json())


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


MEDIA_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MiB of the limited address space
    "OPENBLAS_NUM_THREADS": "1",  # so does each of its threads
}
"""All that a media process knows of our environment: no addresses, no secrets."""

if __name__ == "__main__":
    main()
