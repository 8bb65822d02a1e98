"""A media process that, where it would look at its upload, commits every escape it knows.

    python -m tests.worker.sandbox_escapes LAYERS NEIGHBOUR PORT SOCKET media FD OPTIONS

Only the `LAYERS` named are put in force. What became of each escape is the detail of its failure.
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyseccomp

from rollout_core.errors import VideoError
from worker import child_main, media, sandbox

REFUSALS = (errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EXDEV)
NOBODY = "/no/such/file"

LIBC = ctypes.CDLL(None, use_errno=True)
NO_ARGUMENTS = [ctypes.c_void_p(-1)] * 6
KERNEL = """
    bpf chroot clone3 epoll_create1 execveat io_uring_setup kcmp keyctl
    memfd_create mount move_pages name_to_handle_at open_by_handle_at open_tree perf_event_open
    personality pidfd_open pidfd_send_signal pivot_root process_vm_readv process_vm_writev ptrace
    rt_sigqueueinfo sched_setaffinity seccomp setns setpriority setuid shmget socketpair
    swapon syslog timer_create tkill umount2 unshare userfaultfd vhangup
"""
"""Calls that media has no use for; with these arguments they do nothing."""
NUMBERS = {name: pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) for name in KERNEL.split()}


class Criminal:
    """Knows whom to rob, and what it may do by right."""

    def __init__(self, neighbour: Path, port: int, door: str) -> None:
        self.neighbour = neighbour
        self.port = port
        self.door = door
        self.upload = Path()
        self.folder = Path()

    def sandbox_escapes(self) -> dict[str, Callable[[], object]]:
        """Return every escape by its name; each raises `OSError` if it is refused."""
        own, parent = self.folder / "own", os.getppid()
        return {
            "read /etc/passwd": Path("/etc/passwd").read_bytes,
            "read a neighbour": self.neighbour.read_bytes,
            "read the parent's secrets": Path(f"/proc/{parent}/environ").read_bytes,
            "list a neighbour": lambda: [*self.neighbour.parent.iterdir()],
            "list the root": lambda: [*Path("/").iterdir()],
            "write beside": lambda: (self.folder.parent / "beside").write_bytes(b""),
            "write to a neighbour": lambda: self.neighbour.open("ab").close(),
            "write to the upload": lambda: self.upload.open("ab").close(),
            "write to libraries": lambda: Path(os.__file__).open("ab").close(),
            "make a folder": lambda: (self.folder / "inner").mkdir(),
            "make a folder elsewhere": lambda: (self.neighbour.parent / "made").mkdir(),
            "remove elsewhere": lambda: (self.neighbour.parent / "victim").unlink(),
            "move elsewhere": lambda: own.rename(self.neighbour.parent / "moved"),
            "link a neighbour": lambda: os.link(self.neighbour, self.folder / "link"),
            "link symbolically": lambda: (self.folder / "symbol").symlink_to(self.neighbour),
            "make a pipe": lambda: os.mkfifo(self.folder / "pipe"),
            "change a mode": lambda: self.neighbour.chmod(0o600),
            "change a time": lambda: os.utime(self.neighbour),
            "change an owner": lambda: os.chown(self.neighbour, os.getuid(), -1),
            "connect by TCP": self._connect,
            "send by UDP": self._send,
            "connect by UNIX": self._knock,
            "bind a port": lambda: socket.socket().bind(("127.0.0.1", 0)),
            "open a packet socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
            "fork": self._fork,
            "start a program": lambda: subprocess.run(["/bin/true"], check=False),
            "become a program": self._become,
            "signal the parent": lambda: os.kill(parent, 0),
            "signal by descriptor": lambda: fcntl.fcntl(0, fcntl.F_SETOWN, parent),
            "limit the parent": lambda: resource.prlimit(parent, resource.RLIMIT_CORE),
            "type into a terminal": lambda: self._call("ioctl", 2, 0x5412, ctypes.c_char_p(b"x")),
            "become readable": lambda: self._call("prctl", 4, 1),
        } | {name: lambda name=name: self._call(name, *NO_ARGUMENTS) for name in NUMBERS}

    def rights(self) -> dict[str, Callable[[], object]]:
        """Return what media must be able to do."""
        made = self.folder / "made"
        return {
            "read the upload": self.upload.read_bytes,
            "list the upload's folder": lambda: [*self.upload.parent.iterdir()],
            "read libraries": Path(os.__file__).read_bytes,
            "write a file": lambda: made.write_bytes(b"x" * 1000),
            "shorten a file": lambda: os.truncate(os.open(made, os.O_RDWR), 10),
            "write it anew": lambda: made.write_bytes(b""),
            "move a file": lambda: made.rename(self.folder / "moved"),
            "remove a file": lambda: (self.folder / "moved").unlink(),
            "start a thread": self._start_thread,
        }

    def _connect(self) -> None:
        with socket.socket() as client:
            client.connect(("127.0.0.1", self.port))

    def _send(self) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.sendto(b"secret", ("127.0.0.1", self.port))

    def _knock(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.door)

    def _fork(self) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    def _become(self) -> None:
        try:
            os.execv(NOBODY, [NOBODY])
        except FileNotFoundError:
            return  # the kernel has looked for it

    def _start_thread(self) -> None:
        done = threading.Event()
        thread = threading.Thread(target=done.set)
        thread.start()
        thread.join()
        assert done.is_set()

    def _call(self, name: str, *arguments: object) -> None:
        """Make a system call; that it fails is no refusal if the kernel has looked into it."""
        number = NUMBERS.get(name) or pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        if LIBC.syscall(number, *arguments) == -1 and ctypes.get_errno() == errno.ENOSYS:
            raise OSError(errno.ENOSYS, "there is no such call")


def outcomes(deeds: dict[str, Callable[[], object]]) -> dict[str, str]:
    """Do everything; say what was `done`, and what was `refused`."""
    found = {}
    for name, deed in deeds.items():
        try:
            deed()
        except OSError as error:
            found[name] = "refused" if error.errno in REFUSALS else repr(error)
        else:
            found[name] = "done"
    return found


def main() -> None:
    layers, neighbour, port, door = sys.argv[1:5]
    del sys.argv[1:5]
    criminal = Criminal(Path(neighbour), int(port), door)
    restrict_files = sandbox._restrict_files

    def restrict(upload: Path, folder: Path) -> int | None:
        criminal.upload, criminal.folder = upload, folder
        return restrict_files(upload, folder) if "landlock" in layers else None

    def commit(*_: object) -> None:
        found = outcomes(criminal.rights()) | outcomes(criminal.sandbox_escapes())
        raise VideoError(json.dumps(found))

    sandbox._restrict_files = restrict
    if "seccomp" not in layers:
        sandbox.allowed_calls = lambda: None
    media.video.probe = commit
    child_main.main()


if __name__ == "__main__":
    main()
