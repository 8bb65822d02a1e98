"""Serves all models of the fake engine: `rollout-worker --engine fake` without `--model`.

Each model has a worker of its own, with its own queue, as always. The workers are forked from one
process that has imported everything, so they start at once and share its memory.
"""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from types import FrameType

from rollout_core.command import UNUSABLE_STATUS
from worker.fake_engine import SPECS
from worker.parent_death import die_with

SIGNALS = (signal.SIGINT, signal.SIGTERM)

TICK_SECONDS = 0.5
"""Longest time until a worker that ended is noticed, or a signal that came in between."""

SETTLED_SECONDS = 5.0
"""A worker that ends sooner cannot work here, so all stop; one that ends later is started again."""

Run = Callable[[str], None]
"""Serves one model until the process is told to stop."""


class FakeWorkers:
    """A forked worker for each model of the fake engine."""

    def __init__(self, run: Run, models: tuple[str, ...] = tuple(SPECS)) -> None:
        """Prepare to call `run` with each of `models`, each in a process of its own."""
        self._run = run
        self._models = models
        self._pid = os.getpid()
        self._stopping = False
        self._workers: dict[str, ForkProcess] = {}
        self._started_at: dict[str, float] = {}

    def serve(self) -> int:
        """Serve until SIGINT or SIGTERM; return the exit status, after all workers have ended."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        status = 0
        for model in self._models:
            self._start(model)
        while self._workers:
            wait([worker.sentinel for worker in self._workers.values()], TICK_SECONDS)
            for model, worker in list(self._workers.items()):
                if worker.exitcode is not None:
                    del self._workers[model]
                    status = status or self._replace(model, worker.exitcode)
        return status

    def _replace(self, model: str, status: int) -> int:
        """Start a worker again; if that would not help, stop the others and return its status."""
        if self._stopping:
            return 0
        lived_seconds = time.monotonic() - self._started_at[model]
        if status == UNUSABLE_STATUS or lived_seconds < SETTLED_SECONDS:
            self._stop()
            return status if status > 0 else 1
        self._start(model)
        return 0

    def _start(self, model: str) -> None:
        worker = get_context("fork").Process(target=self._serve, args=(model,), name=model)
        # A forked Python forgets a signal that arrives before it is ready. A blocked one waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if not self._stopping:
            worker.start()
            self._workers[model] = worker
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self._started_at[model] = time.monotonic()

    def _serve(self, model: str) -> None:
        """Serve one model, in a forked process that ends with its parent."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        die_with(self._pid, signal.SIGTERM)
        self._run(model)

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        self._stopping = True
        for worker in list(self._workers.values()):
            worker.terminate()
