"""A storm: clients go on working while something is killed every second or two.

    python -m tests.chaos.storm [--minutes N] [--jobs N] [--seed S]

Two APIs, three workers of the fake engine, one of which serves another model whenever it is
started again. After the storm comes a calm, in which every job that was accepted must end. The
last line is the account; see `tests.chaos.job_log`. What strikes when follows from the seed, what
becomes of it does not.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from threading import Event, Thread, Timer
from typing import Any

import httpx

from tests.chaos.crash_table import require_clean_redis, require_one_end
from tests.chaos.job_log import JobLog
from tests.chaos.staging import is_ready, video
from tests.system.system import System, open_system, upload, wait_until

CLIENTS = 3
OPEN_JOBS = 10
"""As many jobs of a model may be open at once, so that one worker ends them within the calm."""

LATE_SECONDS = 600.0
"""By how much a storm may outlast its time to come to its number of jobs."""

CALM_SECONDS = 60.0
"""How long after the storm the last job may end."""

STEADY, SHIFTING = "fake", ("fake-slow", "fake-fail", "fake-crash")
MODELS = {STEADY: 80, "fake-slow": 10, "fake-fail": 5, "fake-crash": 5}
WISHES = {"wait": 80, "cancel": 10, "delete": 10}
BROKEN_SHARE = 0.05
"""Of the videos: they cannot be decoded."""

WISH_SECONDS = 4.0
"""Up to so long after its upload a client cancels or deletes a job."""

HALT_SECONDS = 8.0
"""Longer than a lease: the halted worker's job goes to another one meanwhile."""

PAUSE_SECONDS = 0.2
REPORT_SECONDS = 60.0


class Storm:
    """One storm over one system."""

    def __init__(self, system: System, seed: int) -> None:
        """Furnish the system."""
        self.job_log = JobLog()
        self.disasters: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.litter: list[str] = []
        self._system = system
        self._seed = seed
        self._over = Event()
        self._calm = Event()
        self._apis = [system.api(), system.api()]
        self._workers = [system.worker(model=STEADY), system.worker(model=STEADY)]
        self._workers.append(system.shifting_worker(models=SHIFTING))
        system.await_models(STEADY)

    def rage(self, seconds: float, jobs: int = 0) -> None:
        """Let clients work while things are killed; then wait for the calm, and take stock.

        It goes on for so many seconds, and longer until so many jobs were accepted.
        """
        clients = [Thread(target=self._be_client, args=(n,), name="client") for n in range(CLIENTS)]
        inspector = Thread(target=self._inspect, name="inspector")
        for thread in (*clients, inspector):
            thread.start()
        try:
            self._destroy(time.monotonic() + seconds, jobs)
            self._over.set()
            for client in clients:
                client.join()
            self._calm_down()
        finally:
            self._over.set()
            self._calm.set()
        inspector.join()
        self._take_stock()

    @property
    def survived(self) -> bool:
        """Whether the account balances and nothing was left lying about."""
        return self.job_log.balances and not self.litter

    # What strikes.

    def _destroy(self, until: float, jobs: int) -> None:
        rng = random.Random(f"{self._seed} disasters")
        strikes: dict[Callable[[random.Random], None], int] = {
            self._kill_api: 4,
            self._kill_supervisor: 6,
            self._kill_engine: 4,
            self._kill_media: 4,
            self._kill_valkey: 3,
            self._halt_supervisor: 2,
            self._empty_valkey: 1,
        }
        report_at = time.monotonic() + REPORT_SECONDS
        while time.monotonic() < until or len(self.job_log.accepted) < jobs:
            assert time.monotonic() < until + LATE_SECONDS, f"{self.job_log}, not {jobs} jobs"
            time.sleep(rng.uniform(1, 2))
            (strike,) = rng.choices(list(strikes), list(strikes.values()))
            strike(rng)
            if time.monotonic() >= report_at:
                report_at += REPORT_SECONDS
                print(self.job_log, flush=True)

    def _kill_api(self, rng: random.Random) -> None:
        rng.choice(self._apis).kill()
        self.disasters["api"] += 1

    def _kill_supervisor(self, rng: random.Random) -> None:
        rng.choice(self._workers).kill()
        self.disasters["supervisor"] += 1

    def _kill_engine(self, rng: random.Random) -> None:
        self._kill_child(rng, "fake", "engine")

    def _kill_media(self, rng: random.Random) -> None:
        self._kill_child(rng, "media", "media")

    def _kill_child(self, rng: random.Random, kind: str, name: str) -> None:
        if rng.choice(self._workers).kill_child(kind):
            self.disasters[name] += 1

    def _kill_valkey(self, _: random.Random) -> None:
        self._system.valkey.kill()
        self.disasters["valkey"] += 1

    def _empty_valkey(self, _: random.Random) -> None:
        self._system.forget_everything()
        self.disasters["valkey_emptied"] += 1

    def _halt_supervisor(self, rng: random.Random) -> None:
        worker = rng.choice(self._workers)
        worker.halt()
        Timer(HALT_SECONDS, worker.resume).start()
        self.disasters["supervisor_halted"] += 1

    # Who works meanwhile.

    def _be_client(self, number: int) -> None:
        """Upload, and now and then think better of it."""
        rng = random.Random(f"{self._seed} client {number}")
        film = video()
        wishes: list[tuple[float, str, str]] = []
        while not (self._over.is_set() and not wishes):
            time.sleep(PAUSE_SECONDS)
            (model,) = rng.choices(list(MODELS), list(MODELS.values()))
            if not self._over.is_set() and self.job_log.count_open(model) < OPEN_JOBS:
                job_id = self._submit(rng, film, model)
                (wish,) = rng.choices(list(WISHES), list(WISHES.values()))
                due = time.monotonic() + rng.uniform(0, WISH_SECONDS)
                if job_id and wish != "wait":
                    wishes.append((due, wish, job_id))
            wishes = [wish for wish in wishes if not self._fulfil(rng, *wish)]

    def _submit(self, rng: random.Random, film: bytes, model: str) -> str | None:
        """Upload a video; return the id of its job if it was accepted."""
        if rng.random() < BROKEN_SHARE:
            film = film[: len(film) // 3] + bytes(2000)
        form = upload(film, model, overlay=None)
        response = self._ask(rng, "POST", "/v1/jobs", files=form)
        if response is None or response.status_code != 202:
            self.refusals[_reason(response)] += 1
            return None
        job_id = str(response.json()["id"])
        self.job_log.accept(job_id, model)
        return job_id

    def _fulfil(self, rng: random.Random, due: float, wish: str, job_id: str) -> bool:
        """Cancel or delete a job if it is time to; return whether the service has answered."""
        if time.monotonic() < due:
            return False
        if wish == "cancel":
            answer = self._ask(rng, "POST", f"/v1/jobs/{job_id}/cancel")
            return answer is not None and answer.status_code in (202, 404, 409)
        self.job_log.ask_deletion(job_id)
        answer = self._ask(rng, "DELETE", f"/v1/jobs/{job_id}")
        if answer is None or answer.status_code not in (204, 404):
            return False
        self.job_log.confirm_deletion(job_id)
        return True

    def _inspect(self) -> None:
        """Look at every open job all the time, and at some of the others."""
        rng = random.Random(f"{self._seed} inspector")
        while not self._calm.is_set():
            accepted = self.job_log.accepted
            others = rng.sample(accepted, min(5, len(accepted)))
            for job_id in {*self.job_log.open, *others}:
                self._look(rng, job_id)
            time.sleep(PAUSE_SECONDS)

    def _look(self, rng: random.Random, job_id: str) -> bool:
        """Enter into the account how a job is seen; return whether the service has answered."""
        asked_at = time.monotonic()
        response = self._ask(rng, "GET", f"/v1/jobs/{job_id}")
        if response is None or response.status_code not in (200, 404):
            return False
        if response.status_code == 404:
            self.job_log.miss(job_id)
        else:
            self.job_log.see(response.json(), asked_at)
        return True

    def _ask(
        self, rng: random.Random, method: str, path: str, **kwargs: Any
    ) -> httpx.Response | None:
        """Ask one of the APIs; None if the connection broke."""
        try:
            return rng.choice(self._system.clients).request(method, path, **kwargs)
        except httpx.TransportError:
            return None

    # What comes after.

    def _calm_down(self) -> None:
        """Bring a worker for every model, and wait until every job has ended, or too long."""
        time.sleep(HALT_SECONDS)
        self._system.await_valkey()
        wait_until(lambda: all(map(is_ready, self._system.clients)), CALM_SECONDS, "the APIs")
        for model in SHIFTING:
            self._system.worker(model=model)
        self._system.await_models(*MODELS)
        give_up = time.monotonic() + CALM_SECONDS
        while self.job_log.open and time.monotonic() < give_up:
            time.sleep(PAUSE_SECONDS)

    def _take_stock(self) -> None:
        """Look at every job once more, through each API, and at what is left of it."""
        for job_id in self.job_log.accepted:
            for client in self._system.clients:
                asked_at = time.monotonic()
                response = client.get(f"/v1/jobs/{job_id}")
                if response.status_code == 404:
                    self.job_log.miss(job_id)
                else:
                    self.job_log.see(response.json(), asked_at)
        for job_id in self.job_log.open:
            self.litter.append(f"stuck: {self._system.clients[0].get(f'/v1/jobs/{job_id}').text}")
        for job_id in self.job_log.deleted:
            if list(self._system.data_dir.glob(f"*/{job_id}")):
                self.litter.append(f"{job_id} was deleted, but has files")
        for folder in (self._system.data_dir / "jobs").iterdir():
            self._check(require_one_end, self._system, folder.name)
        self._check(require_clean_redis, self._system)

    def _check(self, check: Callable[..., None], *args: Any) -> None:
        try:
            check(*args)
        except (AssertionError, OSError) as error:
            self.litter.append(f"{args[-1]}: {error}")


def _reason(response: httpx.Response | None) -> str:
    if response is None:
        return "no_answer"
    return f"{response.status_code}_{response.json().get('code')}"


def _counts(counter: Counter[str]) -> str:
    return " ".join(f"{name}={count}" for name, count in sorted(counter.items())) or "none"


def main() -> int:
    """Let a storm rage and print its account; return 0 if it balances."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description="Let a storm rage.")
    parser.add_argument("--minutes", type=float, default=1.0, help="At least so long.")
    parser.add_argument("--jobs", type=int, default=200, help="At least so many.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with open_system() as system:
        storm = Storm(system, options.seed)
        storm.rage(60 * options.minutes, options.jobs)
    for remark in (*storm.job_log.remarks, *storm.litter):
        print(remark)
    print(f"killed: {_counts(storm.disasters)}")
    print(f"refused: {_counts(storm.refusals)}")
    print(f"failed: {_counts(storm.job_log.codes)}")
    print(storm.job_log)
    return 0 if storm.survived else 1


if __name__ == "__main__":
    sys.exit(main())
