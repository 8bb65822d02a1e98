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

import pytest

from rollout_core.contract import ExplainRequest
from tests.worker import crimes
from worker import wire
from worker.children import MEDIA_ENVIRONMENT, Media
from worker.confine import NotConfined, confine
from worker.fake import SPECS
from worker.messages import Confinement, Failed, MediaOptions, Open, Working
from worker.trial import try_confinement

PREAMBLE = """
from worker.confine import limit
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

CRIMES = crimes.Criminal(Path("x"), 0, "").crimes()
RIGHTS = crimes.Criminal(Path("x"), 0, "").rights()
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
        command = [sys.executable, "-P", "-m", "tests.worker.crimes", "-".join(layers)]
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


def test_every_crime_is_a_crime_and_every_layer_stops_its_own(deeds, confinement):
    """Behind nothing all are possible, so that each refusal is a layer's doing."""
    files = BY_FILES if confinement.landlock_abi else set()
    calls = BY_CALLS if confinement.seccomp else set()
    refused = {
        name: {deed for deed, end in ends.items() if end == "refused"}
        for name, ends in deeds.items()
    }
    lacking = refused["none"]
    assert lacking <= crimes.NUMBERS.keys()  # the kernel has no such call
    expected = {"none": set(), "landlock": files, "seccomp": calls, "both": files | calls}
    assert refused == {name: deeds | lacking for name, deeds in expected.items()}


def test_behind_both_layers_no_crime_is_left():
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
