"""A short run of `scripts/fuzz`, and a check that it reports what it must."""

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


def test_no_mutant_ends_in_a_wrong_way(fuzzer):
    counts = fuzzer.counts
    assert counts.mistakes == []
    assert counts.worker_deaths == 0
    assert counts.mutants == MUTANTS == counts.failures.total() + counts.succeeded


def test_some_mutants_succeed_and_others_fail_in_several_ways(fuzzer):
    assert 0.1 * MUTANTS < fuzzer.counts.succeeded < 0.9 * MUTANTS
    assert len(fuzzer.counts.failures) > 1


def test_the_counts_are_one_line(fuzzer):
    counts = fuzzer.counts
    assert str(counts).startswith(f"mutants={MUTANTS} failed={counts.failures.total()} ")
    assert str(counts).endswith("media_deaths=0 worker_deaths=0 wrong_codes=0")


def test_a_death_of_media_is_counted_and_its_mutant_kept(fuzzer, monkeypatch):
    monkeypatch.setattr(fuzzer._children, "_media_options", NO_TIME)
    before = fuzzer.counts.mutants
    fuzzer._children.take_media().kill()  # the idle one has its limits already
    fuzzer.try_one()
    assert fuzzer.counts.deaths.total() == 1
    assert fuzzer.counts.failures["worker_crashed"] == 1
    assert next(iter(fuzzer.counts.kept)).startswith(f"{before + 1}-")
    assert fuzzer.counts.mistakes == []


def test_a_wrong_code_is_reported(fuzzer, monkeypatch):
    monkeypatch.setattr(fuzz_module, "VIDEO_CODES", set())
    while not fuzzer.counts.mistakes:
        fuzzer.try_one()
    assert "video_" in fuzzer.counts.mistakes[0]


def test_the_command_prints_the_counts_last(tmp_path):
    command = [sys.executable, "-m", "tests.hostile", "--mutants", "3", "--seed", "2"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("mutants=3 failed=")
    assert done.stdout.splitlines()[-1].endswith("worker_deaths=0 wrong_codes=0")
