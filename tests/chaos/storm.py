"""A storm: random faults, one every second or two, while clients submit jobs.

    python -m tests.chaos.storm [--minutes N] [--jobs N] [--seed S] [--blows NAME …]
                                [--bucket]

The system has two APIs and three workers with the fake engine. One of the workers serves another
model each time it is restarted. When the faults have stopped, every accepted job must end within
`CALM_SECONDS`. The last line of output has the counts; see `tests.chaos.job_log`. The seed
determines the faults and their times, not their effects.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from threading import Event, Thread
from typing import Any

import httpx

from tests.chaos.account import account
from tests.chaos.blows import BLOWS, Blows
from tests.chaos.bucket_system import open_bucket_system
from tests.chaos.crash_table import require_clean_redis, require_one_end
from tests.chaos.job_log import JobLog
from tests.chaos.staging import is_ready, video
from tests.system.system import System, open_system, upload
from tests.system.waiting import wait_until

CLIENTS = 3
OPEN_JOBS = 10
"""Limit of open jobs for each model, so that one worker can end them within `CALM_SECONDS`."""

LATE_SECONDS = 600.0
"""How much longer than asked a storm may take until it has enough jobs."""

CALM_SECONDS = 60.0
"""How long after the last fault every job must have ended."""

STUCK_SECONDS = 180.0
"""A job that has not ended after this further time is stuck, not late."""

STEADY, SHIFTING = "fake", ("fake-slow", "fake-fail", "fake-crash")
MODELS = {STEADY: 80, "fake-slow": 10, "fake-fail": 5, "fake-crash": 5}
ACTIONS = {"wait": 80, "cancel": 10, "delete": 10}
BROKEN_SHARE = 0.05
"""Share of the videos that cannot be decoded."""

ACTION_SECONDS = 4.0
"""A client cancels or deletes a job at most this long after its upload."""

PAUSE_SECONDS = 0.2
REPORT_SECONDS = 60.0


class Storm:
    """A storm in one system."""

    def __init__(self, system: System, seed: int, kinds: Collection[str] = BLOWS) -> None:
        """Start the APIs and the workers.

        Args:
            kinds: the blows that fall, of `BLOWS`.
        """
        self.job_log = JobLog()
        self.blows: Counter[str] = Counter()
        self.calm_seconds = 0.0
        self.refusals: Counter[str] = Counter()
        self.leftovers: list[str] = []
        self._system = system
        self._seed = seed
        self._kinds = tuple(kinds)
        self._over = Event()
        self._calm = Event()
        self._apis = [system.api(), system.api()]
        self._workers = [system.worker(model=STEADY), system.worker(model=STEADY)]
        self._workers.append(system.shifting_worker(models=SHIFTING))
        system.await_models(STEADY)

    def run(self, seconds: float, jobs: int = 0) -> None:
        """Inject faults while clients submit jobs; then wait for all jobs to end, and check them.

        Faults are injected for at least `seconds`, and until at least `jobs` were accepted.
        """
        clients = [
            Thread(target=self._run_client, args=(n,), name="client") for n in range(CLIENTS)
        ]
        inspector = Thread(target=self._poll_all, name="inspector")
        for thread in (*clients, inspector):
            thread.start()
        try:
            self._inject_faults(time.monotonic() + seconds, jobs)
            self._over.set()
            for client in clients:
                client.join()
            self._await_ends()
        finally:
            self._over.set()
            self._calm.set()
        inspector.join()
        self._check_jobs()

    @property
    def passed(self) -> bool:
        """Whether every job ended exactly once and nothing was left in the store or Redis."""
        return self.job_log.all_ended_once and not self.leftovers

    def report(self) -> None:
        """Print what went wrong, and the counts, those of the jobs last."""
        for remark in (*self.job_log.remarks, *self.leftovers):
            print(remark)
        print(f"blows: {_counts(self.blows)}")
        print(f"refused: {_counts(self.refusals)}")
        print(f"failed: {_counts(self.job_log.codes)}")
        print(
            f"slowest end: {self.job_log.slowest_seconds:.1f} s after its upload; "
            f"last end: {self.calm_seconds:.1f} s after calm"
        )
        print(self.job_log)

    # The blows.

    def _inject_faults(self, until: float, jobs: int) -> None:
        rng = random.Random(f"{self._seed} disasters")
        weights = {name: BLOWS[name] for name in self._kinds}
        blows = Blows(self._system, self._apis, self._workers, STEADY, rng)
        report_at = time.monotonic() + REPORT_SECONDS
        while time.monotonic() < until or len(self.job_log.accepted) < jobs:
            assert time.monotonic() < until + LATE_SECONDS, f"{self.job_log}, not {jobs} jobs"
            time.sleep(rng.uniform(1, 2))
            (blow,) = rng.choices(list(weights), list(weights.values()))
            self.blows[blow] += blows.strike(blow)
            if time.monotonic() >= report_at:
                report_at += REPORT_SECONDS
                print(self.job_log, flush=True)
        blows.await_end()

    # The clients.

    def _run_client(self, number: int) -> None:
        """Submit jobs; cancel or delete some of them later."""
        rng = random.Random(f"{self._seed} client {number}")
        film = video()
        pending: list[tuple[float, str, str]] = []
        while not (self._over.is_set() and not pending):
            time.sleep(PAUSE_SECONDS)
            (model,) = rng.choices(list(MODELS), list(MODELS.values()))
            if not self._over.is_set() and self.job_log.count_open(model) < OPEN_JOBS:
                job_id = self._submit(rng, film, model)
                (action,) = rng.choices(list(ACTIONS), list(ACTIONS.values()))
                due = time.monotonic() + rng.uniform(0, ACTION_SECONDS)
                if job_id and action != "wait":
                    pending.append((due, action, job_id))
            pending = [action for action in pending if not self._act(rng, *action)]

    def _submit(self, rng: random.Random, film: bytes, model: str) -> str | None:
        """Upload a video; return the job's id, or None if it was refused."""
        if rng.random() < BROKEN_SHARE:
            film = film[: len(film) // 3] + bytes(2000)
        form = upload(film, model, overlay=None)
        response = self._send(rng, "POST", "/v1/jobs", files=form)
        if response is None or response.status_code not in (200, 202):  # 200: it has ended
            self.refusals[_reason(response)] += 1
            return None
        job_id = str(response.json()["id"])
        self.job_log.accept(job_id, model)
        return job_id

    def _act(self, rng: random.Random, due: float, action: str, job_id: str) -> bool:
        """Cancel or delete a job if that is due; return whether the service has answered."""
        if time.monotonic() < due:
            return False
        if action == "cancel":
            answer = self._send(rng, "POST", f"/v1/jobs/{job_id}/cancel")
            return answer is not None and answer.status_code in (202, 404, 409)
        self.job_log.ask_deletion(job_id)
        answer = self._send(rng, "DELETE", f"/v1/jobs/{job_id}")
        if answer is None or answer.status_code not in (204, 404):
            return False
        self.job_log.confirm_deletion(job_id)
        return True

    def _poll_all(self) -> None:
        """Poll all open jobs, and a few of the others."""
        rng = random.Random(f"{self._seed} inspector")
        while not self._calm.is_set():
            accepted = self.job_log.accepted
            others = rng.sample(accepted, min(5, len(accepted)))
            for job_id in {*self.job_log.open, *others}:
                self._poll(rng, job_id)
            time.sleep(PAUSE_SECONDS)

    def _poll(self, rng: random.Random, job_id: str) -> bool:
        """Record what the service says of a job; return whether it has answered."""
        asked_at = time.monotonic()
        response = self._send(rng, "GET", f"/v1/jobs/{job_id}")
        if response is None or response.status_code not in (200, 404):
            return False
        if response.status_code == 404:
            self.job_log.record_missing(job_id)
        else:
            self.job_log.record(response.json(), asked_at)
        return True

    def _send(
        self, rng: random.Random, method: str, path: str, **kwargs: Any
    ) -> httpx.Response | None:
        """Send a request to one of the APIs; return None if the connection broke."""
        try:
            return rng.choice(self._system.clients).request(method, path, **kwargs)
        except httpx.TransportError:
            return None

    # The checks.

    def _await_ends(self) -> None:
        """Start a worker for each model; wait at most `CALM_SECONDS` until all jobs have ended.

        Jobs that end later are late; those that do not end within `STUCK_SECONDS` are stuck.
        """
        self._system.await_valkey()
        wait_until(lambda: all(map(is_ready, self._system.clients)), CALM_SECONDS, "the APIs")
        for model in SHIFTING:
            self._system.worker(model=model)
        self._system.await_models(*MODELS)
        calm_at = time.monotonic()
        self._wait_for_ends(CALM_SECONDS)
        late = self.job_log.open
        for job_id in late:
            self.leftovers.append(f"unfinished after {CALM_SECONDS:g} s: {self._account(job_id)}")
        self._wait_for_ends(STUCK_SECONDS)
        self.calm_seconds = time.monotonic() - calm_at
        stuck = self.job_log.open
        for job_id in late:
            self.leftovers.append(f"{job_id} is {'stuck' if job_id in stuck else 'late'}")
        for job_id in stuck:
            self.leftovers.append(f"stuck: {self._account(job_id)}")

    def _wait_for_ends(self, seconds: float) -> None:
        with suppress(AssertionError):
            wait_until(lambda: not self.job_log.open, seconds, "all jobs to end")

    def _account(self, job_id: str) -> str:
        answer = self._system.clients[0].get(f"/v1/jobs/{job_id}").json()
        shown = {name: answer.get(name) for name in ("state", "attempt", "waiting_for")}
        return f"{account(self._system, job_id)}; API: {shown}"

    def _check_jobs(self) -> None:
        """Check every job once more through each API, and what is left in the store and Redis."""
        for job_id in self.job_log.accepted:
            for client in self._system.clients:
                asked_at = time.monotonic()
                response = client.get(f"/v1/jobs/{job_id}")
                if response.status_code == 404:
                    self.job_log.record_missing(job_id)
                else:
                    self.job_log.record(response.json(), asked_at)
        self._system.remove_leftovers()
        for job_id in self.job_log.deleted:
            if self._system.has_files(job_id):
                self.leftovers.append(f"{job_id} was deleted, but has files")
        for job_id in self._system.stored_jobs():
            self._check(require_one_end, self._system, job_id)
        self._check(require_clean_redis, self._system)

    def _check(self, check: Callable[..., None], *args: Any) -> None:
        try:
            check(*args)
        except (AssertionError, OSError) as error:
            self.leftovers.append(f"{args[-1]}: {error}")


def _reason(response: httpx.Response | None) -> str:
    if response is None:
        return "no_answer"
    return f"{response.status_code}_{response.json().get('code')}"


def _counts(counter: Counter[str]) -> str:
    return " ".join(f"{name}={count}" for name, count in sorted(counter.items())) or "none"


def main() -> int:
    """Run a storm and print its counts; return 0 if it passed."""
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Inject random faults while clients submit jobs. Prints the counts last.",
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="Shortest duration; default: 1.")
    parser.add_argument(
        "--jobs", type=int, default=200, help="Lowest number of jobs; default: 200."
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the faults; default: 0.")
    parser.add_argument(
        "--blows", nargs="+", choices=BLOWS, default=list(BLOWS), help="Default: all."
    )
    parser.add_argument(
        "--bucket",
        action="store_true",
        help="The store is in a bucket, and each worker is on a machine of its own.",
    )
    options = parser.parse_args()
    with open_bucket_system() if options.bucket else open_system() as system:
        storm = Storm(system, options.seed, options.blows)
        storm.run(60 * options.minutes, options.jobs)
    storm.report()
    return 0 if storm.passed else 1


if __name__ == "__main__":
    sys.exit(main())
