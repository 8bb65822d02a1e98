"""The blows of a storm: signals to each kind of process, a Valkey that loses its data, and a worker
astray: one on the same Redis whose data directory is not the service's.
"""

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from threading import Timer

from tests.system.processes import Process
from tests.system.system import System

HALT_SECONDS = 8.0
"""Longer than a lease, so another worker takes over the halted worker's job."""

ASTRAY_SECONDS = 15.0
"""How long a worker astray is there; it is started again whenever it ends."""

PARTS = ("api", "supervisor", "engine", "media", "template", "valkey")
KINDS = {"engine": "fake", "media": "media", "template": "media-template"}
"""A part of a worker → its kind, as `Process.children_of_kind` takes it."""

BLOWS = {
    "kill_api": 4,
    "kill_supervisor": 6,
    "kill_engine": 4,
    "kill_media": 3,
    "kill_template": 1,
    "kill_valkey": 3,
    "term_api": 3,
    "term_supervisor": 4,
    "term_engine": 1,
    "term_media": 1,
    "term_valkey": 2,
    "halt_api": 2,
    "halt_supervisor": 3,
    "halt_engine": 2,
    "halt_media": 2,
    "halt_valkey": 2,
    "empty_valkey": 1,
    "astray_worker": 2,
}
"""Each blow, and how often it falls in comparison to the others.

`kill` sends SIGKILL and `term` SIGTERM. `halt` sends SIGSTOP, and SIGCONT after `HALT_SECONDS`.
"""


class Blows:
    """Strikes the processes of one system."""

    def __init__(
        self,
        system: System,
        apis: list[Process],
        workers: list[Process],
        model: str,
        rng: random.Random,
    ) -> None:
        """Prepare to strike these processes.

        Args:
            model: that of the worker astray.
        """
        self._system = system
        self._targets = {"api": apis, "valkey": [system.valkey]}
        self._workers = workers
        self._model = model
        self._rng = rng
        self._astray: Process | None = None
        self._ends: list[Timer] = []

    def strike(self, blow: str) -> bool:
        """Strike one process, chosen at random; return whether there was one."""
        if blow == "empty_valkey":
            self._system.forget_everything()
            return True
        if blow == "astray_worker":
            return self._lead_astray()
        verb, _, part = blow.partition("_")
        pid = self._choose(part)
        if pid is None:
            return False
        if verb == "halt":
            _send(pid, signal.SIGSTOP)
            self._end_later(HALT_SECONDS, lambda: _send(pid, signal.SIGCONT))
            return True
        return _send(pid, signal.SIGKILL if verb == "kill" else signal.SIGTERM)

    def await_end(self) -> None:
        """Wait until every halted process goes on, and the worker astray is gone."""
        for end in self._ends:
            end.join()

    def _choose(self, part: str) -> int | None:
        """Return a process id; of a worker's children, that of the oldest: it works."""
        process = self._rng.choice(self._targets.get(part, self._workers))
        if part not in KINDS:
            return process.pid if process.alive else None
        return next(iter(process.children_of_kind(KINDS[part])), None)

    def _lead_astray(self) -> bool:
        """Start a worker whose store is a folder of its own; take it down later."""
        if self._astray is None:
            folder = self._system.data_dir.with_name("astray")
            self._astray = self._system.worker(model=self._model, data_dir=folder)
        elif self._astray.alive:
            return False
        else:
            self._astray.bring_up()
        self._end_later(ASTRAY_SECONDS, self._astray.take_down)
        return True

    def _end_later(self, seconds: float, end: Callable[[], object]) -> None:
        self._ends.append(Timer(seconds, end))
        self._ends[-1].start()


def _send(pid: int, number: int) -> bool:
    """Send a signal; return whether the process was there."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
