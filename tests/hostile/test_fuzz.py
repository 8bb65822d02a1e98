"""A few seconds of what `scripts/fuzz` does for as long as one likes, and that it would tell."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile import fuzz as fuzz_module
from tests.hostile.fuzz import Fuzzer, fuzzing
from worker.messages import MediaOptions

MUTANTS = 120
NO_TIME = MediaOptions(cpu_seconds=0)


@pytest.fixture(scope="module")
def fuzzer() -> Iterator[Fuzzer]:
    with fuzzing(seed=4) as fuzzer:
        for _ in range(MUTANTS):
            fuzzer.try_one()
        yield fuzzer


def test_no_mutant_ends_as_it_must_not(fuzzer):
    account = fuzzer.account
    assert account.mistakes == []
    assert account.worker_deaths == 0
    assert account.mutants == MUTANTS == account.failures.total() + account.succeeded


def test_mutants_are_neither_all_whole_nor_all_wrecks(fuzzer):
    assert 0.1 * MUTANTS < fuzzer.account.succeeded < 0.9 * MUTANTS
    assert len(fuzzer.account.failures) > 1


def test_the_account_is_one_line(fuzzer):
    account = fuzzer.account
    assert str(account).startswith(f"mutants={MUTANTS} failed={account.failures.total()} ")
    assert str(account).endswith("media_deaths=0 worker_deaths=0 wrong_codes=0")


def test_a_death_of_media_is_counted_and_the_mutant_kept(fuzzer, monkeypatch):
    monkeypatch.setattr(fuzzer._children, "_media_options", NO_TIME)
    before = fuzzer.account.mutants
    fuzzer._children.take_media().kill()  # the one that waits has its limits already
    fuzzer.try_one()
    assert fuzzer.account.deaths.total() == 1
    assert fuzzer.account.failures["worker_crashed"] == 1
    assert next(iter(fuzzer.account.kept)).startswith(f"{before + 1}-")
    assert fuzzer.account.mistakes == []


def test_a_wrong_code_is_told(fuzzer, monkeypatch):
    monkeypatch.setattr(fuzz_module, "VIDEO_CODES", set())
    while not fuzzer.account.mistakes:
        fuzzer.try_one()
    assert "video_" in fuzzer.account.mistakes[0]


def test_the_command_fuzzes_and_keeps_account(tmp_path):
    command = [sys.executable, "-m", "tests.hostile", "--mutants", "3", "--seed", "2"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("mutants=3 failed=")
    assert done.stdout.splitlines()[-1].endswith("worker_deaths=0 wrong_codes=0")
