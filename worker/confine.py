"""How a media process shuts itself in before it touches a stranger's bytes.

It does so in three layers, none of which needs a privilege and none of which can be undone.
Limits bound what it takes, Landlock which files it sees, and seccomp (`worker.syscalls`) what it
can ask of the kernel: no network, no other process. A layer that the machine lacks is left out;
`worker.trial` finds out which, and tells.
"""

import resource
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import rollout_core
import worker
from worker.messages import Confinement, MediaOptions
from worker.syscalls import allowed_calls, enforce

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
