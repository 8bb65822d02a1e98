"""A template of media processes that try to escape from their sandbox.

    python -m tests.worker.sandbox_escapes LAYERS OTHER_VIDEO PORT SOCKET FD

A media process does so instead of opening its upload. Only the `LAYERS` that are named are put in
force. It answers with `Failed`; its detail is
JSON, with the outcome of each action.
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
from worker import media, media_template, sandbox

REFUSALS = (errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EXDEV)
MISSING = "/no/such/file"

LIBC = ctypes.CDLL(None, use_errno=True)
NO_ARGUMENTS = [ctypes.c_void_p(-1)] * 6

UNUSED_CALLS = """
    bpf chroot clone3 epoll_create1 execveat io_uring_setup kcmp keyctl
    memfd_create mount move_pages name_to_handle_at open_by_handle_at open_tree perf_event_open
    personality pidfd_open pidfd_send_signal pivot_root process_vm_readv process_vm_writev ptrace
    rt_sigqueueinfo sched_setaffinity seccomp setns setpriority setuid shmget socketpair
    swapon syslog timer_create tkill umount2 unshare userfaultfd vhangup
"""
"""System calls that media does not need. With NO_ARGUMENTS they do nothing."""

NUMBERS = {
    name: pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) for name in UNUSED_CALLS.split()
}


class Actions:
    """What the process tries to do: escapes, and actions that media needs.

    Attributes:
        other_video: the upload of another job.
        port: a TCP port on which the test listens.
        socket_path: a UNIX socket on which the test listens.
    """

    def __init__(self, other_video: Path, port: int, socket_path: str) -> None:
        self.other_video = other_video
        self.port = port
        self.socket_path = socket_path
        self.upload = Path()
        self.folder = Path()

    def escapes(self) -> dict[str, Callable[[], object]]:
        """Return each escape by its name. It raises `OSError` if it is refused."""
        own, parent = self.folder / "own", os.getppid()
        return {
            "read /etc/passwd": Path("/etc/passwd").read_bytes,
            "read another job": self.other_video.read_bytes,
            "read the parent's secrets": Path(f"/proc/{parent}/environ").read_bytes,
            "list another job": lambda: [*self.other_video.parent.iterdir()],
            "list the root": lambda: [*Path("/").iterdir()],
            "write beside": lambda: (self.folder.parent / "beside").write_bytes(b""),
            "write to another job": lambda: self.other_video.open("ab").close(),
            "write to the upload": lambda: self.upload.open("ab").close(),
            "write to libraries": lambda: Path(os.__file__).open("ab").close(),
            "make a folder": lambda: (self.folder / "inner").mkdir(),
            "make a folder elsewhere": lambda: (self.other_video.parent / "made").mkdir(),
            "remove elsewhere": lambda: (self.other_video.parent / "removable").unlink(),
            "move elsewhere": lambda: own.rename(self.other_video.parent / "moved"),
            "link another job": lambda: os.link(self.other_video, self.folder / "link"),
            "link symbolically": lambda: (self.folder / "symbol").symlink_to(self.other_video),
            "make a pipe": lambda: os.mkfifo(self.folder / "pipe"),
            "change a mode": lambda: self.other_video.chmod(0o600),
            "change a time": lambda: os.utime(self.other_video),
            "change an owner": lambda: os.chown(self.other_video, os.getuid(), -1),
            "connect by TCP": self._connect,
            "send by UDP": self._send,
            "connect by UNIX": self._connect_unix,
            "bind a port": lambda: socket.socket().bind(("127.0.0.1", 0)),
            "open a packet socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
            "fork": self._fork,
            "start a program": lambda: subprocess.run(["/bin/true"], check=False),
            "become a program": self._exec,
            "signal the parent": lambda: os.kill(parent, 0),
            "signal by descriptor": lambda: fcntl.fcntl(0, fcntl.F_SETOWN, parent),
            "limit the parent": lambda: resource.prlimit(parent, resource.RLIMIT_CORE),
            "type into a terminal": lambda: self._call("ioctl", 2, 0x5412, ctypes.c_char_p(b"x")),
            "become readable": lambda: self._call("prctl", 4, 1),
        } | {name: lambda name=name: self._call(name, *NO_ARGUMENTS) for name in NUMBERS}

    def needed(self) -> dict[str, Callable[[], object]]:
        """Return each action that media needs, by its name."""
        made = self.folder / "made"
        return {
            "read the upload": self.upload.read_bytes,
            "list the upload's folder": lambda: [*self.upload.parent.iterdir()],
            "read libraries": Path(os.__file__).read_bytes,
            "write a file": lambda: made.write_bytes(b"x" * 1000),
            "shorten a file": lambda: os.truncate(os.open(made, os.O_RDWR), 10),
            "overwrite a file": lambda: made.write_bytes(b""),
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

    def _connect_unix(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.socket_path)

    def _fork(self) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    def _exec(self) -> None:
        try:
            os.execv(MISSING, [MISSING])
        except FileNotFoundError:
            return  # the call was allowed: the kernel looked for the file

    def _start_thread(self) -> None:
        done = threading.Event()
        thread = threading.Thread(target=done.set)
        thread.start()
        thread.join()
        assert done.is_set()

    def _call(self, name: str, *arguments: object) -> None:
        """Make a system call; raise `OSError` only if it fails with ENOSYS, as seccomp does."""
        number = NUMBERS.get(name) or pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        if LIBC.syscall(number, *arguments) == -1 and ctypes.get_errno() == errno.ENOSYS:
            raise OSError(errno.ENOSYS, "no such system call")


def outcomes(actions: dict[str, Callable[[], object]]) -> dict[str, str]:
    """Do each action; return "done", "refused" or another error for each."""
    found = {}
    for name, action in actions.items():
        try:
            action()
        except OSError as error:
            found[name] = "refused" if error.errno in REFUSALS else repr(error)
        else:
            found[name] = "done"
    return found


def main() -> None:
    layers, other_video, port, socket_path = sys.argv[1:5]
    del sys.argv[1:5]
    actions = Actions(Path(other_video), int(port), socket_path)
    restrict_files = sandbox._restrict_files

    def restrict(upload: Path, folder: Path) -> int | None:
        actions.upload, actions.folder = upload, folder
        return restrict_files(upload, folder) if "landlock" in layers else None

    def escape(*_: object) -> None:
        found = outcomes(actions.needed()) | outcomes(actions.escapes())
        raise VideoError(json.dumps(found))

    sandbox._restrict_files = restrict
    if "seccomp" not in layers:
        sandbox.allowed_calls = lambda: None
    media.open_clips = escape
    media_template.main()


if __name__ == "__main__":
    main()
