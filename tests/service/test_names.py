import os
import time
from pathlib import Path

import pytest

from service import names as module
from service.names import LIST_SECONDS, LISTS_SHARE, Names


class Folder:
    """A folder whose names take a given processor time to read."""

    def __init__(self, path: Path):
        self.path = path
        self.cost_seconds = 0.0
        self.reads = 0

    def names(self) -> list[str]:
        self.reads += 1
        end = time.thread_time() + self.cost_seconds
        while time.thread_time() < end:
            pass
        return [entry.name for entry in self.path.iterdir()]

    def names_changed(self) -> int:
        return self.path.stat().st_mtime_ns


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LISTS_SHARE", LISTS_SHARE)  # other tests read at each pass
    (tmp_path / "one").mkdir()
    os.utime(tmp_path, (1000, 1000))
    return Folder(tmp_path)


def test_names_are_read_again_only_after_a_change(folder):
    names = Names(folder)

    assert names.read() == {"one"}
    assert names.read() is None
    (folder.path / "two").mkdir()
    assert names.read() == {"one", "two"}


def test_a_folder_that_has_just_changed_is_read_again(folder):
    os.utime(folder.path)
    names = Names(folder)

    assert names.read() == {"one"}
    assert names.read() == {"one"}


def test_names_are_read_again_after_a_time(folder, monkeypatch):
    names, now = Names(folder), time.monotonic()
    names.read()

    monkeypatch.setattr(module.time, "monotonic", lambda: now + LIST_SECONDS + 1)

    assert names.read() == {"one"}


def test_expensive_names_are_read_sparingly(folder):
    names = Names(folder)
    folder.cost_seconds = 0.1
    names.read(sparingly=True)
    (folder.path / "two").mkdir()

    assert names.read(sparingly=True) is None
    assert names.read() == {"one", "two"}


def test_cheap_names_are_read_each_time(folder):
    names = Names(folder)
    names.read(sparingly=True)
    (folder.path / "two").mkdir()
    time.sleep(0.05)  # more than 200 times what a read takes

    assert names.read(sparingly=True) == {"one", "two"}
