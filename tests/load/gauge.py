"""Memory and open files of processes, sampled all the time."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from threading import Event, Thread

from tests.house.processes import Process, open_files, resident_bytes

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Sample:
    """What a process held at a moment of `time.monotonic`."""

    at: float
    resident_bytes: int
    open_files: int

    @classmethod
    def of(cls, process: Process) -> "Sample":
        """Take one now."""
        return cls(time.monotonic(), resident_bytes(process.pid), open_files(process.pid))


class Gauge:
    """The samples of some processes, by the processes' names."""

    def __init__(self, processes: Mapping[str, Process]) -> None:
        self.samples: dict[str, list[Sample]] = {name: [] for name in processes}
        self._processes = processes
        self._left = Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take samples meanwhile."""
        thread = Thread(target=self._watch, name="gauge")
        thread.start()
        try:
            yield
        finally:
            self._left.set()
            thread.join()

    def resident_bytes(self, name: str, *, since: float, until: float) -> float:
        """Return the median over a span of `time.monotonic`: single requests come and go."""
        return median(s.resident_bytes for s in self.samples[name] if since <= s.at <= until)

    def _watch(self) -> None:
        while not self._left.wait(SAMPLE_SECONDS):
            for name, process in self._processes.items():
                self.samples[name].append(Sample.of(process))
