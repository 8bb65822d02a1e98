"""Whatever this machine has, the trial must find it: neither less nor more."""

import subprocess
import sys
from pathlib import Path

import landlock
import pyseccomp
import pytest

from worker import confine, trial
from worker.messages import Confinement
from worker.trial import try_confinement


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
    monkeypatch.setattr(confine.Path, "iterdir", lambda path: iter([path]))  # this one thread
    found = confine.confine(tmp_path / "video", tmp_path)
    assert found == Confinement(landlock_abi=None, seccomp=False)
    assert not found.complete


def test_a_trial_that_fails_is_no_result(monkeypatch):
    monkeypatch.setattr(trial, "MEDIA_ENVIRONMENT", {"PYTHONHOME": "/no/such/folder"})
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
    command = [sys.executable, "-P", "-m", "worker.trial", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env=trial.MEDIA_ENVIRONMENT, check=True)
    assert Confinement.model_validate_json(done.stdout) == try_confinement()
