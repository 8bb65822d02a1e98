"""Runs a program and counts its file calls below a folder.

    python -m tests.benchmarks.scaling.counted COUNTS FOLDER PROGRAM ARGUMENT …

The file COUNTS is written anew whenever the counts have changed, at most twenty times a second.
Processes that the program starts are not counted.
"""

import json
import runpy
import sys
import time
from collections import Counter
from pathlib import Path
from threading import Lock, Thread

from tests.worker.file_calls import file_calls

WRITE_SECONDS = 0.05


class Counts:
    """Counts calls by name, from all threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._calls: Counter[str] = Counter()
        self._lock = Lock()

    def count(self, name: str) -> None:
        """Count a call."""
        with self._lock:
            self._calls[name] += 1

    def keep_writing(self) -> None:
        """Write the counts for ever."""
        written: Counter[str] = Counter()
        while True:
            with self._lock:
                present = Counter(self._calls)
            if present != written:
                beside = self._path.with_suffix(".new")
                beside.write_text(json.dumps(present))
                beside.rename(self._path)
                written = present
            time.sleep(WRITE_SECONDS)


def read_counts(path: Path) -> Counter[str]:
    """Return the counts of a program as it has written them last."""
    time.sleep(4 * WRITE_SECONDS)
    return Counter(json.loads(path.read_text())) if path.exists() else Counter()


def main() -> None:
    """Count the calls of the program."""
    path, folder, program, *arguments = sys.argv[1:]
    counts = Counts(Path(path))
    Thread(target=counts.keep_writing, daemon=True).start()
    sys.argv = [program, *arguments]
    with file_calls(Path(folder), counts.count):
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
