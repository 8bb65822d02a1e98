"""Confinement is put in force in processes of their own: it cannot be undone."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import landlock
import pyseccomp
import pytest

from rollout_core.contract import ExplainRequest
from tests.worker import sandbox_escapes
from tests.worker.sandbox_escapes import KERNEL
from worker import sandbox, wire
from worker.children import Media
from worker.fake_engine import SPECS
from worker.messages import Confinement, Failed, MediaOptions, Open, Working
from worker.sandbox import (
    ALLOWED,
    MEDIA_ENVIRONMENT,
    UNKNOWN,
    NotConfined,
    allowed_calls,
    confine,
    try_confinement,
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


def test_memory_is_bounded():
    code = "bytearray(1 << 30)"
    assert run("memory_bytes=8 << 30", code).returncode == 0
    assert "MemoryError" in run("memory_bytes=1 << 29", code).stderr


def test_files_are_bounded(tmp_path):
    code = f"from pathlib import Path; Path({str(tmp_path / 'f')!r}).write_bytes(bytes(5000))"
    assert run("file_bytes=10_000", code).returncode == 0
    assert "File too large" in run("file_bytes=1000", code).stderr


def test_processor_time_is_bounded():
    assert run("cpu_seconds=1", "while True: pass").returncode < 0


def test_the_number_of_open_files_is_bounded():
    code = "import os; files = [os.open('/dev/null', os.O_RDONLY) for _ in range({})]"
    assert run("", code.format(20)).returncode == 0
    assert "Too many open files" in run("", code.format(100)).stderr


def test_the_hard_limit_is_lowered_too_so_there_is_no_way_back():
    code = "import resource as r; print(r.getrlimit(r.{}))"
    limits = run("memory_bytes=3 << 30", code.format("RLIMIT_AS")).stdout
    assert limits.split() == [f"({3 << 30},", f"{3 << 30})"]
    for kind in ("CORE", "MEMLOCK", "MSGQUEUE"):
        assert run("", code.format(f"RLIMIT_{kind}")).stdout.split() == ["(0,", "0)"]


@pytest.mark.parametrize("gib", [1, 2])
def test_a_stricter_limit_from_outside_stays(gib):
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_AS)[1] >> 30)"
    again = "limit(MediaOptions(memory_bytes=4 << 30))\n"
    assert int(run(f"memory_bytes={gib} << 30", again + code).stdout) == gib


# Landlock and seccomp

BY_FILES = {
    "read /etc/passwd",
    "read a neighbour",
    "read the parent's secrets",
    "list a neighbour",
    "list the root",
    "write beside",
    "write to a neighbour",
    "write to the upload",
    "write to libraries",
    "make a folder",
    "make a folder elsewhere",
    "remove elsewhere",
    "move elsewhere",
    "link a neighbour",
    "link symbolically",
    "make a pipe",
    "start a program",
}
"""What Landlock stops by itself."""

CRIMES = sandbox_escapes.Criminal(Path("x"), 0, "").sandbox_escapes()
RIGHTS = sandbox_escapes.Criminal(Path("x"), 0, "").rights()
BY_BOTH = {"link a neighbour", "link symbolically", "make a pipe", "start a program"}
BY_BOTH |= {"make a folder", "make a folder elsewhere"}
BY_CALLS = CRIMES.keys() - BY_FILES | BY_BOTH
"""What seccomp stops by itself."""


@pytest.fixture(scope="module")
def confinement() -> Confinement:
    return try_confinement()


@contextmanager
def doors(folder: Path) -> Iterator[tuple[int, str]]:
    """Open a port and a socket at which a criminal may call."""
    path = str(folder / "door")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        yield server.getsockname()[1], path


def confess(folder: Path, *layers: str) -> dict[str, str]:
    """Start a criminal behind those layers, and return what became of each of its deeds."""
    for name in ("job/upload", "job/attempts/1", "neighbour"):
        (folder / name).mkdir(parents=True)
    (folder / "job/upload/video").write_bytes(b"film")
    (folder / "job/attempts/1/own").write_bytes(b"")
    (folder / "neighbour/video").write_bytes(b"secret")
    (folder / "neighbour/victim").write_bytes(b"")
    ours, theirs = socket.socketpair()
    with doors(folder) as (port, door), theirs, Connection(ours.detach()) as connection:
        command = [sys.executable, "-P", "-m", "tests.worker.sandbox_escapes", "-".join(layers)]
        command += [str(folder / "neighbour/video"), str(port), door]
        command += ["media", str(theirs.fileno()), MediaOptions().model_dump_json()]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=MEDIA_ENVIRONMENT)
        order = Open(
            upload=str(folder / "job/upload/video"),
            folder=str(folder / "job/attempts/1"),
            request=ExplainRequest(),
            spec=SPECS["fake"],
        )
        try:
            wire.send(connection, order)
            assert isinstance(wire.receive(connection)[0], Working)
            failed, _ = wire.receive(connection)
        finally:
            process.kill()
            process.wait()
    assert isinstance(failed, Failed)
    return json.loads(failed.detail)


LAYERS = {"none": (), "landlock": ("landlock",), "seccomp": ("seccomp",)}
LAYERS["both"] = LAYERS["landlock"] + LAYERS["seccomp"]


@pytest.fixture(scope="module")
def deeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return {
        name: confess(tmp_path_factory.mktemp(name), *layers) for name, layers in LAYERS.items()
    }


def test_every_escape_is_a_escape_and_every_layer_stops_its_own(deeds, confinement):
    """Behind nothing all are possible, so that each refusal is a layer's doing."""
    files = BY_FILES if confinement.landlock_abi else set()
    calls = BY_CALLS if confinement.seccomp else set()
    refused = {
        name: {deed for deed, end in ends.items() if end == "refused"}
        for name, ends in deeds.items()
    }
    lacking = refused["none"]
    assert lacking <= sandbox_escapes.NUMBERS.keys()  # the kernel has no such call
    expected = {"none": set(), "landlock": files, "seccomp": calls, "both": files | calls}
    assert refused == {name: deeds | lacking for name, deeds in expected.items()}


def test_behind_both_layers_no_escape_is_left():
    assert CRIMES.keys() == BY_FILES | BY_CALLS


@pytest.mark.parametrize("right", RIGHTS)
def test_what_media_needs_is_allowed(deeds, right):
    assert {ends[right] for ends in deeds.values()} == {"done"}


def test_a_process_with_threads_is_not_confined(tmp_path):
    """Landlock would hold only the thread that asks for it."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(NotConfined, match="threads"):
            confine(tmp_path / "video", tmp_path)
    finally:
        stop.set()
        thread.join()


def test_media_goes_no_further_with_less_than_was_found(tmp_path):
    (tmp_path / "video").write_bytes(b"")
    media = Media(MediaOptions(confinement=Confinement(landlock_abi=99, seccomp=True)))
    order = Open(
        upload=str(tmp_path / "video"),
        folder=str(tmp_path),
        request=ExplainRequest(),
        spec=SPECS["fake"],
    )
    try:
        media.send(order)
        assert isinstance(media.receive()[0], Working)
        with pytest.raises(Exception, match="exited with status 1"):
            media.receive()
    finally:
        media.kill()


def test_the_trial_finds_what_the_kernel_has():
    try:
        abi = landlock.landlock_abi_version()
    except landlock.LandlockError:
        abi = None
    found = try_confinement()
    assert found.landlock_abi == abi
    assert found.seccomp == (pyseccomp.get_api() > 0)


def test_the_trial_leaves_this_process_as_it_is():
    try_confinement()
    assert Path("/etc/passwd").read_bytes()


def test_a_layer_that_is_not_there_is_left_out(monkeypatch, tmp_path):
    def too_old() -> int:
        raise landlock.SyscallError(38, "Function not implemented")

    monkeypatch.setattr(landlock, "landlock_abi_version", too_old)
    monkeypatch.setattr(confine, "allowed_calls", lambda: None)
    monkeypatch.setattr(sandbox.Path, "iterdir", lambda path: iter([path]))  # this one thread
    found = sandbox.confine(tmp_path / "video", tmp_path)
    assert found == Confinement(landlock_abi=None, seccomp=False)
    assert not found.complete


def test_a_trial_that_fails_is_no_result(monkeypatch):
    monkeypatch.setattr(sandbox, "MEDIA_ENVIRONMENT", {"PYTHONHOME": "/no/such/folder"})
    with pytest.raises(subprocess.CalledProcessError):
        try_confinement()


@pytest.mark.parametrize(
    ("abi", "seccomp", "words"),
    [
        (7, True, "memory and time by limits, files by Landlock ABI 7, system calls by seccomp"),
        (None, False, "memory and time by limits, no Landlock here, no seccomp here"),
    ],
)
def test_it_is_told_in_words(abi, seccomp, words):
    confinement = Confinement(landlock_abi=abi, seccomp=seccomp)
    assert str(confinement) == words
    assert confinement.complete == (abi is not None and seccomp)


def test_it_is_printed_for_whoever_wants_to_know(tmp_path):
    command = [sys.executable, "-P", "-m", "worker.sandbox", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env=sandbox.MEDIA_ENVIRONMENT, check=True)
    assert Confinement.model_validate_json(done.stdout) == try_confinement()


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
    monkeypatch.setattr(sandbox, "ALLOWED", ["read", "call_of_the_future"])
    assert pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, "call_of_the_future") == UNKNOWN
    assert allowed_calls() is not None


def test_without_libseccomp_there_is_no_filter(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    assert allowed_calls() is None
