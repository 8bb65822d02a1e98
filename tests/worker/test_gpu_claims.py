"""Claims on GPUs, by processes that race for them and by ones that are killed."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.processes import is_alive
from tests.worker.claiming import FOUR
from worker.gpu_claims import GpuClaims

ROUNDS = 25
UUIDS = [gpu.uuid for gpu in FOUR]


class Claimer:
    """A process that claims one of `FOUR`; see `tests.worker.claiming`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.worker.claiming"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def order(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        return self.process.stdout.readline().strip()

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def six() -> Iterator[list[Claimer]]:
    claimers = [Claimer() for _ in range(6)]
    yield claimers
    for claimer in claimers:
        claimer.stop()


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "gpus"


@pytest.fixture
def claims(folder) -> GpuClaims:
    return GpuClaims(folder)


def race(claimers: list[Claimer], line: str) -> list[str]:
    """Order all of them to do it, then read what they answer; release what they have."""
    for claimer in claimers:
        claimer.order(line)
    answers = [claimer.answer() for claimer in claimers]
    for claimer in claimers:
        claimer.order("release")
    assert {claimer.answer() for claimer in claimers} == {"released"}
    return answers


def test_workers_that_start_at_the_same_moment_spread(six, folder):
    for _ in range(ROUNDS):
        assert sorted(race(six[:4], f"alone {folder}")) == UUIDS


def test_of_more_workers_than_gpus_the_rest_waits(six, folder):
    for _ in range(ROUNDS):
        assert sorted(race(six, f"alone {folder}")) == [*UUIDS, "waits", "waits"]


def test_workers_that_share_spread_over_the_least_claimed(six, folder):
    for _ in range(ROUNDS):
        counts = Counter(race(six, f"share {folder}"))
        assert sorted(counts.values()) == [1, 1, 2, 2]


def test_the_kernel_frees_the_gpu_of_a_worker_that_was_killed(folder, claims):
    """Even if a child of it still runs that inherited what can be inherited."""
    others = [claims.take(UUIDS) for _ in range(3)]
    claimer = Claimer()
    for line in (f"alone {folder}", "child"):
        claimer.order(line)
    owned, child = claimer.answer(), int(claimer.answer())
    assert {owned, *(other.uuid for other in others)} == set(UUIDS)
    assert claims.take(UUIDS) is None

    claimer.process.kill()
    claimer.process.wait()

    try:
        assert is_alive(child)
        assert claims.take(UUIDS).uuid == owned
    finally:
        os.kill(child, signal.SIGKILL)
        claimer.stop()


def test_a_worker_alone_does_not_join_one_that_shares(claims):
    first, second = (claims.take(["GPU-a"], share=True) for _ in range(2))
    assert claims.take(["GPU-a"]) is None
    first.release()
    assert claims.take(["GPU-a"]) is None
    second.release()
    assert claims.take(["GPU-a"])


def test_nothing_to_choose_from_is_nothing(claims):
    assert claims.take([], share=True) is None


def test_a_uuid_with_slashes_and_the_beginning_of_another_are_claimed_apart(claims):
    assert claims.take(["MIG-GPU-a/1/0"])
    assert claims.take(["MIG-GPU-a/1/0"]) is None
    assert claims.take(["MIG-GPU-a/1"])
    assert claims.take(["MIG-GPU-a"])


def test_the_files_are_private_and_few(claims, folder):
    for _ in range(3):
        claims.take(["GPU-a"]).release()
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert files == {"choosing": 0o600, "GPU-a.0": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def no_locks(descriptor, kind):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_file_system_without_locks_is_named(claims, folder, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="GPUs cannot be claimed: No locks available") as caught:
        claims.take(["GPU-a"])
    assert caught.value.filename == str(folder)


def test_a_worker_that_shares_needs_no_locks(claims, caplog, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    claim = claims.take(["GPU-b", "GPU-a"], share=True)
    assert claim.uuid == "GPU-b"
    claim.release()
    assert "GPUs cannot be claimed: No locks available" in caplog.text
    assert "other workers do not see that this one uses GPU-b" in caplog.text
