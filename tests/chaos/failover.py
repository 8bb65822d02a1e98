"""A storm of failovers: the master of Redis dies again and again while clients submit jobs.

    python -m tests.chaos.failover [--minutes N] [--jobs N] [--seed S]

A master, a replica and three sentinels serve two APIs and three workers with the fake engine; see
`tests.chaos.storm`. Now and then the replica hears nothing more of the master for a while before
the master dies: what was written meanwhile is lost to Redis. At other times the sentinels are told
to let the two change places, so that the old master lives on as a replica.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rollout_core.jobs.redis_records import job_key
from tests.chaos.storm import LATE_SECONDS, Storm
from tests.system.processes import Process
from tests.system.system import System
from tests.system.valkey_group import ValkeyGroup

KINDS = {"kill_master": 4, "cut_and_kill_master": 4, "change_places": 2}
"""Each kind of failover, and how often it comes in comparison to the others."""

CUT_SECONDS = 1.0
"""For how long a replica hears nothing before its master dies."""

PAUSE_SECONDS = (2.0, 6.0)
"""Between a failover and the next step, shortest and longest."""


class FailoverSystem(System):
    """A system whose Redis is a master, a replica and three sentinels."""

    group: ValkeyGroup

    def await_valkey(self) -> None:
        """Wait until the replica follows the master, and the sentinels know each other."""
        self.group.await_ready()

    def _start_redis(self) -> tuple[str, list[Process]]:
        def start(name: str, command: list[str]) -> Process:
            return self._process(name, command, kept=False)

        self.group = ValkeyGroup(self._folder / "valkey", start)
        return self.group.url, list(self.group.processes)


class FailoverStorm(Storm):
    """A storm whose faults are failovers."""

    def __init__(self, system: FailoverSystem, seed: int) -> None:
        """Start the APIs and the workers.

        Attributes:
            unheard: how many accepted jobs the new masters had never heard of.
        """
        super().__init__(system, seed, ())
        self.unheard = 0
        self._group = system.group

    def _inject_faults(self, until: float, jobs: int) -> None:
        rng = random.Random(f"{self._seed} failovers")
        while time.monotonic() < until or len(self.job_log.accepted) < jobs:
            assert time.monotonic() < until + LATE_SECONDS, f"{self.job_log}, not {jobs} jobs"
            time.sleep(rng.uniform(*PAUSE_SECONDS))
            (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
            if kind == "change_places":
                self._group.fail_over()
            else:
                self._crash(rng, is_cut=kind.startswith("cut"))
            self.blows[kind] += 1
            self._group.await_ready()
            print(f"{kind}: {self.job_log}", flush=True)

    def _crash(self, rng: random.Random, *, is_cut: bool) -> None:
        """Kill the master, wait for the next one, and start the old one again."""
        before, heir = set(self.job_log.accepted), self._group.replica
        if is_cut:
            self._group.cut()
            time.sleep(CUT_SECONDS)
        since = set(self.job_log.accepted) - before
        dead = self._group.kill_master()
        self.unheard += len(unheard_of(self._group, heir, since))
        self._group.await_master(heir)
        time.sleep(rng.uniform(*PAUSE_SECONDS))
        self._group.servers[dead].bring_up()


def unheard_of(group: ValkeyGroup, server: str, job_ids: Iterable[str]) -> list[str]:
    """Return the jobs of which a server has no record."""
    with group.client(server) as redis:
        return [job_id for job_id in job_ids if not redis.exists(job_key(job_id))]


@contextmanager
def open_failover_system(*, forked: bool = False) -> Iterator[FailoverSystem]:
    """Yield a system in a temporary folder; `forked` is as for `open_system`."""
    with (
        TemporaryDirectory(prefix="system-", dir="/tmp") as folder,
        FailoverSystem(Path(folder), forked=forked) as system,
    ):
        yield system


def main() -> int:
    """Run a storm and print its counts; return 0 if it passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.failover")
    parser.add_argument("--minutes", type=float, default=3.0, help="Shortest duration; default: 3.")
    parser.add_argument("--jobs", type=int, default=100, help="Lowest number; default: 100.")
    parser.add_argument("--seed", type=int, default=0, help="Of the failovers; default: 0.")
    options = parser.parse_args()
    with open_failover_system() as system:
        storm = FailoverStorm(system, options.seed)
        storm.run(60 * options.minutes, options.jobs)
    storm.report()
    print(f"accepted jobs that a new master had never heard of: {storm.unheard}")
    return 0 if storm.passed else 1


if __name__ == "__main__":
    sys.exit(main())
