"""What one job, one worker and one call cost: the inputs of the formulas.

A system of real processes runs twice: once as it is, for processor times and commands of Redis; and
once with its file calls counted. What an idle system uses is subtracted from what calls used.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

import httpx

from rollout_core.demo.sample import SAMPLE_PATH
from rollout_core.jobs.counters import WorkerCounters
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.redis_records import Announcement, Announcements, redis_now
from service.preferences import MAX_WAIT_SECONDS
from tests.benchmarks.scaling.counted import read_counts
from tests.benchmarks.scaling.gauges import Use, read_use
from tests.benchmarks.scaling.simulation import running_crowd
from tests.system.system import System, free_port, open_system, upload
from tests.system.waiting import wait_until
from worker import fake_engine
from worker.supervisor import ANNOUNCE_SECONDS

MODEL = "fake"
SETTLE_SECONDS = 6.0
"""The API counts the store every 5 s; what calls leave to that is done after this long."""

IDLE_SECONDS = 12.0
LONG_JOB_SECONDS = 6.0

FOLLOWED_JOBS = 40
FOLLOWED_SECONDS = 120
FOLLOW_SECONDS = 12.0

UPLOAD_MEGABYTES = 32
MP4 = b"\0\0\0\x18ftypisom"


@dataclass(frozen=True)
class Cost:
    """What one call, job or second costs.

    Attributes:
        commands: of Redis by name.
        redis_ms: processor time of Redis.
        api_ms: processor time of the API.
        api_files, worker_files: file calls below the data directory by name, of the API and of the
            supervisor; not those of media processes.
    """

    commands: Mapping[str, float] = field(default_factory=dict)
    redis_ms: float = 0.0
    api_ms: float = 0.0
    api_files: Mapping[str, float] = field(default_factory=dict)
    worker_files: Mapping[str, float] = field(default_factory=dict)

    @property
    def all_commands(self) -> float:
        """Commands of all names."""
        return sum(self.commands.values())


class Site:
    """A system with one API and one fake worker, whose use can be read."""

    def __init__(self, system: System, *, counted: bool) -> None:
        self.system = system
        self._counts = {}
        if counted:
            folder = system.data_dir.parent
            self._counts = {name: folder / f"{name}.counts" for name in ("api", "worker")}
        self.metrics_address = f"127.0.0.1:{free_port()}"
        flags = ("--metrics-address", self.metrics_address, "--max-queued", "100000")
        self.api = system.api(*flags, under=self._under("api"))
        self.worker = system.worker(model=MODEL, kept=False, under=self._under("worker"))
        system.await_models(MODEL)
        self.video = SAMPLE_PATH.read_bytes()
        form = {"video": ("sample.mp4", self.video)}
        self.upload = str(system.client.post("/v1/uploads", files=form).json()["id"])

    def submit(self, seconds: float = 0.0) -> str:
        """Submit a job for the stored video; return its id."""
        fake = {"seconds": seconds}
        asked = {"upload": self.upload, "reuse": False, "overlay": None, "fake": fake}
        answer = self.system.client.post("/v1/jobs", json=asked)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def submit_form(self) -> str:
        """Submit a job with its video; return its id."""
        parts = upload(self.video, MODEL, overlay=None)
        answer = self.system.client.post("/v1/jobs", files=parts)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def get(self, path: str) -> None:
        """Call the API, which must answer 200."""
        answer = self.system.client.get(path)
        assert answer.status_code == 200, answer.text

    def await_ends(self, job_ids: Iterable[str]) -> None:
        """Wait until jobs have ended, without a call to the API or Redis."""
        store = FolderStore(self.system.data_dir)
        for job_id in job_ids:
            wait_until(lambda j=job_id: store.has_ended(j), 60, "the job to end")

    def use(self) -> Use:
        """Return what was used until now."""
        counts = {name: read_counts(path) for name, path in self._counts.items()}
        with self.system.redis as redis:
            return read_use(redis, {"api": self.api.pid}, counts)

    @contextmanager
    def halted_worker(self) -> Iterator[None]:
        """Halt the worker meanwhile: it takes no job."""
        self.worker.halt()
        try:
            yield
        finally:
            self.worker.resume()

    def _under(self, name: str) -> tuple[str, ...]:
        if name not in self._counts:
            return ()
        module = "tests.benchmarks.scaling.counted"
        return (module, str(self._counts[name]), str(self.system.data_dir))


@contextmanager
def open_site(*, counted: bool = False) -> Iterator[Site]:
    """Run a system with one API and one worker."""
    with open_system() as system:
        yield Site(system, counted=counted)


def measure_costs(site: Site, *, calls: int) -> dict[str, Cost]:
    """Return the cost of each kind of call, of a job, and of a second, by name."""
    costs: dict[str, Cost] = {}
    idle = _rate(site, IDLE_SECONDS)
    costs["idle API and worker, a second"] = idle
    site.worker.halt()
    try:
        api = costs["idle API, a second"] = _rate(site, IDLE_SECONDS)
    finally:
        site.worker.resume()
    costs["idle worker, a second"] = _minus(idle, api)

    def each(name: str, call: Callable[[], object], background: Cost, count: int = calls) -> None:
        costs[name] = _per_call(site, call, background, count)

    with site.halted_worker():
        jobs: list[str] = []
        each("submit, JSON", lambda: jobs.append(site.submit()), api)
        each("poll, waits", lambda: site.get(f"/v1/jobs/{jobs[-1]}"), api)
    short = costs["a job in its worker"] = _run_jobs(site, jobs, api)
    each("poll, ended", lambda: site.get(f"/v1/jobs/{jobs[0]}"), idle)
    path = f"/v1/jobs/{jobs[0]}/artifacts/"
    each("result.json", lambda: site.get(f"{path}result.json"), idle)
    each("rollout.npz", lambda: site.get(f"{path}rollout.npz"), idle)
    each("a page of 50", lambda: site.get("/v1/jobs"), idle)
    with site.halted_worker():
        forms: list[str] = []
        each("submit, form", lambda: forms.append(site.submit_form()), api, calls // 2)
    site.await_ends(forms)
    few = 2
    with site.halted_worker():
        longer = [site.submit(LONG_JOB_SECONDS) for _ in range(few)]
    long = _run_jobs(site, longer, api)
    costs["busy worker, a second"] = _scaled(_minus(long, short), 1 / LONG_JOB_SECONDS)
    running = site.submit(60)
    site.system.wait(running, "running")
    busy = _rate(site, 5)
    each("poll, runs", lambda: site.get(f"/v1/jobs/{running}"), busy)
    site.system.client.post(f"/v1/jobs/{running}/cancel")
    site.system.wait(running)
    return costs


def measure_following(site: Site, followed: int = FOLLOWED_JOBS) -> dict[str, Cost]:
    """Return what it costs in a second to follow a job that runs, one of many, by the way."""
    with site.halted_worker(), running_crowd(site.system, followed):
        jobs = [site.submit(FOLLOWED_SECONDS) for _ in range(followed)]
        for job_id in jobs:
            site.system.wait(job_id, "running")
        return {
            "events of a job, a second": _follow(site, jobs, "/events"),
            "wait for a job, a second": _follow(site, jobs, f"?wait={MAX_WAIT_SECONDS}"),
        }


def measure_bytes(site: Site) -> dict[str, float]:
    """Return the bytes of Redis that a waiting job takes, and one that has ended."""
    with site.system.redis as redis, site.halted_worker():

        def used() -> int:
            return int(redis.info("memory")["used_memory"])

        before = used()
        jobs = [site.submit() for _ in range(100)]
        waiting = (used() - before) / len(jobs)
    site.await_ends(jobs)
    time.sleep(SETTLE_SECONDS)
    with site.system.redis as redis:
        ended = (int(redis.info("memory")["used_memory"]) - before) / len(jobs)
        announced = max(map(len, redis.hvals("rollout:workers")))
    return {"waiting job": waiting, "ended job": ended, "announcement": announced}


def measure_throughput(site: Site) -> dict[str, float]:
    """Return the megabytes that the API receives and sends in a second of its processor time."""
    body = MP4 + bytes(UPLOAD_MEGABYTES * 10**6 - len(MP4))
    client = site.system.client
    before = site.use()
    ids = []
    for _ in range(4):
        answer = client.post("/v1/uploads", files={"video": ("video.mp4", body)}, timeout=60)
        assert answer.status_code == 201, answer.text
        ids.append(answer.json()["id"])
    use = site.use().since(before)
    for upload_id in ids:
        client.delete(f"/v1/uploads/{upload_id}")
    return {"received": 4 * UPLOAD_MEGABYTES / use.cpu_seconds["api"]}


def measure_crowded(site: Site, workers: int, *, calls: int) -> dict[str, Cost]:
    """Return what calls cost while so many workers have announced themselves."""
    costs: dict[str, Cost] = {}
    with site.halted_worker(), announcing(site, workers):
        time.sleep(1)
        api = _rate(site, 5)
        jobs: list[str] = []
        costs["submit, JSON"] = _per_call(site, lambda: jobs.append(site.submit()), api, calls)
        path = f"/v1/jobs/{jobs[-1]}"
        costs["poll, waits"] = _per_call(site, lambda: site.get(path), api, calls)
        costs["models"] = _per_call(site, lambda: site.get("/v1/models"), api, calls)
        costs["scrape"] = _per_call(site, lambda: _scrape(site), api, max(3, calls // 10))
        for job_id in jobs:
            site.system.client.delete(f"/v1/jobs/{job_id}")
    return costs


@contextmanager
def announcing(site: Site, workers: int) -> Iterator[None]:
    """Announce so many workers as often as they would, until the context ends."""
    left = Event()
    with ExitStack() as stack:
        redis = stack.enter_context(site.system.redis)
        announcements = Announcements(redis)
        names = [f"worker-{number:04}" for number in range(workers)]

        def announce_all() -> None:
            for number, name in enumerate(names):
                announcements.write(name, announcement_of(number, redis_now(redis)))

        def keep_announcing() -> None:
            while not left.wait(ANNOUNCE_SECONDS):
                announce_all()

        announce_all()
        thread = Thread(target=keep_announcing)
        thread.start()
        try:
            yield
        finally:
            left.set()
            thread.join()
            announcements.remove(*names)


def announcement_of(number: int, now: Any) -> Announcement:
    """Return what a worker says that has run some jobs."""
    ready = fake_engine.expected(MODEL, None)
    stages = {name: {"attempts": number + 1, "seconds": 12.345} for name in STAGES}
    return Announcement(
        model=ready.spec,
        checkpoint_sha256=ready.checkpoint_sha256,
        engine="fake",
        device="cuda",
        precision="bfloat16",
        ready=True,
        seconds_per_job=2.5,
        counters=WorkerCounters.model_validate(
            {
                "attempts": number + 1,
                "jobs": {"succeeded": number + 1},
                "clips": number + 1,
                "explain_seconds": 1.5,
                "engine_seconds": 1.5,
                "stages": stages,
            }
        ),
        beat_at=now,
    )


STAGES = ("wait", "open", "decode", "explain", "render", "save")


def _rate(site: Site, seconds: float) -> Cost:
    """Return what is used in a second without calls."""
    before = site.use()
    time.sleep(seconds)
    use = site.use().since(before)
    return _cost(use, 1 / use.seconds)


def _per_call(site: Site, call: Callable[[], object], background: Cost, count: int) -> Cost:
    """Return the cost of a call, without what would have been used anyway."""
    call()
    before = site.use()
    for _ in range(count):
        call()
    return _without(site.use().since(before), background, count)


def _run_jobs(site: Site, jobs: list[str], api: Cost) -> Cost:
    """Return the cost of a job that waits, from its claim to its end.

    The worker, which was halted, has just been resumed. What the API does about jobs that have
    ended is included: it moves them in its lists.
    """
    before = site.use()
    site.await_ends(jobs)
    time.sleep(SETTLE_SECONDS)
    return _without(site.use().since(before), api, len(jobs))


def _follow(site: Site, jobs: list[str], how: str) -> Cost:
    """Return what a call that follows one of these jobs costs in a second.

    Args:
        how: what the call has after the path of the job.
    """
    background = _rate(site, FOLLOW_SECONDS)
    client, left = site.system.client, Event()
    statuses: list[int] = []

    def read(job_id: str) -> None:
        call = client.stream("GET", f"/v1/jobs/{job_id}{how}", timeout=2 * MAX_WAIT_SECONDS)
        with suppress(httpx.HTTPError), call as answer:  # the site is closed before all end
            statuses.append(answer.status_code)
            for _ in answer.iter_lines():
                if left.is_set():
                    return

    threads = [Thread(target=read, args=(job_id,), daemon=True) for job_id in jobs]
    for thread in threads:
        thread.start()
    time.sleep(2)
    rate = _rate(site, FOLLOW_SECONDS)
    assert {*statuses} <= {200}, statuses
    assert all(thread.is_alive() for thread in threads)
    left.set()
    time.sleep(2)  # until those that get lines have ended
    return _scaled(_minus(rate, background), 1 / len(jobs))


def _scrape(site: Site) -> None:
    httpx.get(f"http://{site.metrics_address}/metrics", timeout=60).raise_for_status()


def _cost(use: Use, share: float) -> Cost:
    return Cost(
        {name: share * count for name, count in use.commands.items()},
        1e3 * share * use.redis_seconds,
        1e3 * share * use.cpu_seconds.get("api", 0.0),
        {name: share * count for name, count in use.calls.get("api", Counter()).items()},
        {name: share * count for name, count in use.calls.get("worker", Counter()).items()},
    )


def _without(use: Use, background: Cost, count: int) -> Cost:
    """Return the cost of each of `count` calls, without the background of these seconds."""
    return _scaled(_minus(_cost(use, 1.0), _scaled(background, use.seconds)), 1 / count)


def _minus(cost: Cost, other: Cost) -> Cost:
    return _combined(cost, other, lambda a, b: max(0.0, a - b))


def _scaled(cost: Cost, factor: float) -> Cost:
    return _combined(cost, Cost(), lambda a, _: factor * a)


def _combined(cost: Cost, other: Cost, of: Callable[[float, float], float]) -> Cost:
    def maps(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
        return {
            name: found
            for name in sorted({*ours, *theirs})
            if (found := of(ours.get(name, 0.0), theirs.get(name, 0.0)))
        }

    return Cost(
        maps(cost.commands, other.commands),
        of(cost.redis_ms, other.redis_ms),
        of(cost.api_ms, other.api_ms),
        maps(cost.api_files, other.api_files),
        maps(cost.worker_files, other.worker_files),
    )
