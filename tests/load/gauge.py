"""Memory of processes, sampled every second."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from threading import Event, Thread

from tests.system.processes import Process, resident_bytes

SAMPLE_SECONDS = 1.0


class Gauge:
    """Samples of the resident memory of processes, by name."""

    def __init__(self, processes: Mapping[str, Process]) -> None:
        self.samples: dict[str, list[int]] = {name: [] for name in processes}
        self._processes = processes
        self._left = Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take samples during the block, the first one at its start."""
        self._sample()
        thread = Thread(target=self._watch, name="gauge")
        thread.start()
        try:
            yield
        finally:
            self._left.set()
            thread.join()

    def resident_bytes(self, name: str, begin: float, end: float) -> float:
        """Return the median over a part of the samples, so that single requests do not matter.

        Args:
            begin: share of the samples before the part; the part has at least one sample.
            end: share of the samples before the end of the part.
        """
        samples = self.samples[name]
        first, last = int(begin * len(samples)), int(end * len(samples))
        return median(samples[first : max(first + 1, last)])

    def _watch(self) -> None:
        while not self._left.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        for name, process in self._processes.items():
            self.samples[name].append(resident_bytes(process.pid))
