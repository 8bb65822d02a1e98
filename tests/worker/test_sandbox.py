"""The sandbox. It cannot be left again, so each test enters it in a process of its own."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import landlock
import pyseccomp
import pytest

from rollout_core.contract import ExplainRequest
from tests.worker import sandbox_escapes
from tests.worker.sandbox_escapes import UNUSED_CALLS
from worker import fork_server as fork_server_module
from worker import sandbox, wire
from worker.child import ChildLost, next_message
from worker.children import Media
from worker.fake_engine import SPECS
from worker.fork_server import ForkServer
from worker.messages import Confinement, Failed, MediaOptions, Open, Opened, Working
from worker.sandbox import (
    ALLOWED,
    UNKNOWN,
    NotConfined,
    allowed_calls,
    confine,
    probe,
)

PREAMBLE = """
from worker.sandbox import limit
from worker.messages import MediaOptions
limit(MediaOptions({options}))
"""


def run(options: str, program: str) -> subprocess.CompletedProcess[str]:
    code = PREAMBLE.format(options=options) + program
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


# Limits


def test_memory_is_limited():
    code = "bytearray(1 << 30)"
    assert run("memory_bytes=8 << 30", code).returncode == 0
    assert "MemoryError" in run("memory_bytes=1 << 29", code).stderr


def test_file_size_is_limited(tmp_path):
    code = f"from pathlib import Path; Path({str(tmp_path / 'f')!r}).write_bytes(bytes(5000))"
    assert run("file_bytes=10_000", code).returncode == 0
    assert "File too large" in run("file_bytes=1000", code).stderr


def test_processor_time_is_limited():
    assert run("cpu_seconds=1", "while True: pass").returncode < 0


def test_number_of_open_files_is_limited():
    code = "import os; files = [os.open('/dev/null', os.O_RDONLY) for _ in range({})]"
    assert run("", code.format(20)).returncode == 0
    assert "Too many open files" in run("", code.format(100)).stderr


def test_hard_limits_are_lowered_too():
    code = "import resource as r; print(r.getrlimit(r.{}))"
    limits = run("memory_bytes=3 << 30", code.format("RLIMIT_AS")).stdout
    assert limits.split() == [f"({3 << 30},", f"{3 << 30})"]
    for kind in ("CORE", "MEMLOCK", "MSGQUEUE"):
        assert run("", code.format(f"RLIMIT_{kind}")).stdout.split() == ["(0,", "0)"]


@pytest.mark.parametrize("gib", [1, 2])
def test_stricter_limit_is_kept(gib):
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_AS)[1] >> 30)"
    again = "limit(MediaOptions(memory_bytes=4 << 30))\n"
    assert int(run(f"memory_bytes={gib} << 30", again + code).stdout) == gib


# Landlock and seccomp

BY_FILES = {
    "read /etc/passwd",
    "read another job",
    "read the parent's secrets",
    "list another job",
    "list the root",
    "write beside",
    "write to another job",
    "write to the upload",
    "write to libraries",
    "make a folder",
    "make a folder elsewhere",
    "remove elsewhere",
    "move elsewhere",
    "link another job",
    "link symbolically",
    "make a pipe",
    "start a program",
}
"""Escapes that Landlock refuses by itself."""

ESCAPES = sandbox_escapes.Actions(Path("x"), 0, "").escapes()
NEEDED = sandbox_escapes.Actions(Path("x"), 0, "").needed()
BY_BOTH = {"link another job", "link symbolically", "make a pipe", "start a program"}
BY_BOTH |= {"make a folder", "make a folder elsewhere"}
BY_CALLS = ESCAPES.keys() - BY_FILES | BY_BOTH
"""Escapes that seccomp refuses by itself."""


@pytest.fixture(scope="module")
def confinement() -> Confinement:
    return probe()


@contextmanager
def listening(folder: Path) -> Iterator[tuple[int, str]]:
    """Listen on a TCP port and a UNIX socket, and yield both."""
    path = str(folder / "socket")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        yield server.getsockname()[1], path


def try_escapes(folder: Path, *layers: str) -> dict[str, str]:
    """Try every action in a sandbox of those layers, and return the outcome of each."""
    for name in ("job/upload", "job/attempts/1", "other"):
        (folder / name).mkdir(parents=True)
    (folder / "job/upload/video").write_bytes(b"film")
    (folder / "job/attempts/1/own").write_bytes(b"")
    (folder / "other/video").write_bytes(b"secret")
    (folder / "other/removable").write_bytes(b"")
    with listening(folder) as (port, socket_path), pytest.MonkeyPatch.context() as patch:
        command = [sys.executable, "-P", "-m", "tests.worker.sandbox_escapes", "-".join(layers)]
        command += [str(folder / "other/video"), str(port), socket_path]
        patch.setattr(fork_server_module, "TEMPLATE", command)
        server, options = ForkServer(), MediaOptions()
        media = Media(options, server.fork(options))
        order = Open(
            upload=str(folder / "job/upload/video"),
            folder=str(folder / "job/attempts/1"),
            request=ExplainRequest(),
            spec=SPECS["fake"],
        )
        try:
            wire.send(media.connection, order)
            assert isinstance(wire.receive(media.connection)[0], Working)
            failed, _ = wire.receive(media.connection)
        finally:
            media.kill()
            server.close()
    assert isinstance(failed, Failed)
    return json.loads(failed.detail)


LAYERS = {"none": (), "landlock": ("landlock",), "seccomp": ("seccomp",)}
LAYERS["both"] = LAYERS["landlock"] + LAYERS["seccomp"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The outcome of each action behind no layer, behind each one, and behind both."""
    return {
        name: try_escapes(tmp_path_factory.mktemp(name), *layers) for name, layers in LAYERS.items()
    }


def test_each_layer_refuses_its_own_escapes(outcomes, confinement):
    """Without a layer every escape succeeds, so each refusal comes from a layer."""
    files = BY_FILES if confinement.landlock_abi else set()
    calls = BY_CALLS if confinement.seccomp else set()
    refused = {
        name: {action for action, outcome in found.items() if outcome == "refused"}
        for name, found in outcomes.items()
    }
    lacking = refused["none"]
    assert lacking <= sandbox_escapes.NUMBERS.keys()  # calls that this kernel does not have
    expected = {"none": set(), "landlock": files, "seccomp": calls, "both": files | calls}
    assert refused == {name: escapes | lacking for name, escapes in expected.items()}


def test_both_layers_together_refuse_every_escape():
    assert ESCAPES.keys() == BY_FILES | BY_CALLS


@pytest.mark.parametrize("action", NEEDED)
def test_actions_that_media_needs_are_allowed(outcomes, action):
    assert {found[action] for found in outcomes.values()} == {"done"}


def test_process_with_threads_cannot_enter(tmp_path):
    """Landlock restricts only the thread that asks for it."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(NotConfined, match="threads"):
            confine(tmp_path / "video", tmp_path)
    finally:
        stop.set()
        thread.join()


def test_media_exits_if_a_probed_layer_is_missing(tmp_path, fork_server):
    (tmp_path / "video").write_bytes(b"")
    options = MediaOptions(confinement=Confinement(landlock_abi=99, seccomp=True))
    media = Media(options, fork_server.fork(options))
    order = Open(
        upload=str(tmp_path / "video"),
        folder=str(tmp_path),
        request=ExplainRequest(),
        spec=SPECS["fake"],
    )
    try:
        media.send(order)
        media.expect(60)
        next_message(media, Working, lambda: None)
        with pytest.raises(ChildLost, match="exited with status 1"):
            next_message(media, Opened, lambda: None)
    finally:
        media.kill()


def test_probe_finds_the_layers_of_the_kernel():
    try:
        abi = landlock.landlock_abi_version()
    except landlock.LandlockError:
        abi = None
    found = probe()
    assert found.landlock_abi == abi
    assert found.seccomp == (pyseccomp.get_api() > 0)


def test_probe_does_not_restrict_this_process():
    probe()
    assert Path("/etc/passwd").read_bytes()


def test_missing_layers_are_left_out(monkeypatch, tmp_path):
    def too_old() -> int:
        raise landlock.SyscallError(38, "Function not implemented")

    monkeypatch.setattr(landlock, "landlock_abi_version", too_old)
    monkeypatch.setattr(sandbox, "allowed_calls", lambda: None)
    monkeypatch.setattr(sandbox.Path, "iterdir", lambda path: iter([path]))  # one thread
    found = sandbox.confine(tmp_path / "video", tmp_path)
    assert found == Confinement(landlock_abi=None, seccomp=False)
    assert not found.complete


def test_failed_probe_raises(monkeypatch):
    monkeypatch.setattr(sandbox, "MEDIA_ENVIRONMENT", {"PYTHONHOME": "/no/such/folder"})
    with pytest.raises(subprocess.CalledProcessError):
        probe()


@pytest.mark.parametrize(
    ("abi", "seccomp", "text"),
    [
        (7, True, "memory and time by limits, files by Landlock ABI 7, system calls by seccomp"),
        (None, False, "memory and time by limits, no Landlock here, no seccomp here"),
    ],
)
def test_confinement_is_described_in_words(abi, seccomp, text):
    confinement = Confinement(landlock_abi=abi, seccomp=seccomp)
    assert str(confinement) == text
    assert confinement.complete == (abi is not None and seccomp)


def test_command_prints_the_confinement(tmp_path):
    command = [sys.executable, "-P", "-m", "worker.sandbox", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env=sandbox.MEDIA_ENVIRONMENT, check=True)
    assert Confinement.model_validate_json(done.stdout) == probe()


THREAD = """
import os, socket, threading
from worker.sandbox import allowed_calls, enforce
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


def test_seccomp_restricts_running_threads():
    done = subprocess.run([sys.executable, "-c", THREAD], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["True", "Function not implemented"]


DANGEROUS = f"""
    socket connect bind sendmsg execve fork vfork clone kill ptrace prctl fcntl ioctl prlimit64
    chmod fchmodat utimensat setxattr symlink linkat mknod truncate wait4 setrlimit {UNUSED_CALLS}
"""


@pytest.mark.parametrize("name", DANGEROUS.split())
def test_dangerous_call_is_not_allowed_with_any_arguments(name):
    assert name not in ALLOWED


def test_every_allowed_name_is_a_system_call():
    """A misspelled name would allow nothing."""
    numbers = {name: pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) for name in ALLOWED}
    assert [name for name, number in numbers.items() if number == UNKNOWN] == []
    assert len(set(ALLOWED)) == len(ALLOWED)


def test_unknown_name_is_skipped(monkeypatch):
    monkeypatch.setattr(sandbox, "ALLOWED", ["read", "call_of_the_future"])
    assert pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, "call_of_the_future") == UNKNOWN
    assert allowed_calls() is not None


def test_no_filter_without_libseccomp(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    assert allowed_calls() is None
