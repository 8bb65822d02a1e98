"""Measure how long the jobs of two owners wait, and how well the service tells it.

    python -m tests.benchmarks.fairness [--many 200] [--few 5] [--workers 2] [--seconds 0.5]
    python -m tests.benchmarks.fairness --order 1000 10000

The first form starts a service and workers with the fake engine. One owner submits many jobs, then
another a few; a job takes from half to one and a half times `--seconds`. It does so twice: with one
key for both, whose jobs are first come, first served; and with a key each. It prints how long the
jobs waited for their start, and the ratio of the `Retry-After` that each was told to the seconds
after which it had ended.

The second form prints how long it takes to queue a job, and to sort the queue, behind that many.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis

from rollout_core.contract import ExplainRequest
from rollout_core.demo.sample import SAMPLE_PATH
from rollout_core.jobs.records import Ticket
from service.redis_jobs import RedisJobs
from tests.service.owners import headers
from tests.system.system import System, open_system
from tests.system.valkey import running_valkey, url_of

PAGE = 200
POLL_SECONDS = 2.0


class Told(NamedTuple):
    """A job, as it was when it was submitted: its id, owner, and `Retry-After`."""

    job_id: str
    owner: str
    seconds: float


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--few", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--order", type=int, nargs="*", help="lengths of a queue")
    options = parser.parse_args()
    if options.order:
        print("| waiting jobs | to queue one more | to sort the queue |\n|---|---|---|")
        for waiting in options.order:
            print(f"| {waiting:,} | {measure_order(waiting)} |", flush=True)
        return
    print("| keys | jobs | wait: median | longest | told / happened: median | 10 to 90 % |")
    print("|---|---|---|---|---|---|", flush=True)
    for keys in (("ann", "ann"), ("ann", "ben")):
        for row in measure_waits(keys, options):
            print(row, flush=True)


def measure_waits(keys: tuple[str, str], options: argparse.Namespace) -> Iterator[str]:
    """Yield a row for the many jobs and one for the few."""
    with tempfile.TemporaryDirectory() as folder, open_system() as system:
        path = Path(folder) / "keys.toml"
        path.write_text(
            "".join(
                f'[{name}]\nsha256 = "{sha256(f"key-of-{name}".encode()).hexdigest()}"\n'
                for name in set(keys)
            )
        )
        system.api("--api-keys-file", str(path))
        for _ in range(options.workers):
            system.worker(model="fake")
        await_workers(system, keys[0], options.workers)
        draws = random.Random(0)
        submit(system, keys[0], options.workers, options.seconds, draws)  # a first measurement
        await_end(system, {keys[0]})
        told = [submit(system, keys[0], options.many, options.seconds, draws)]
        told.append(submit(system, keys[1], options.few, options.seconds, draws))
        ended = await_end(system, set(keys))
    names = ("one for both", "one for both") if len(set(keys)) == 1 else ("the first", "the second")
    for name, jobs in zip(names, told, strict=True):
        yield describe(name, jobs, ended)


def await_workers(system: System, key: str, workers: int) -> None:
    """Wait until all workers are ready."""
    ready = 0
    while ready < workers:
        time.sleep(0.2)
        models = system.client.get("/v1/models", headers=headers(key)).json()["models"]
        ready = sum(model["ready"] for model in models)


def submit(
    system: System, owner: str, count: int, seconds: float, draws: random.Random
) -> list[Told]:
    """Submit jobs for one upload, and return what the service told of each."""
    call, sent = system.client.post, headers(owner)
    files = {"video": ("sample.mp4", SAMPLE_PATH.read_bytes())}
    upload = call("/v1/uploads", files=files, headers=sent).json()["id"]
    told = []
    for _ in range(count):
        fake = {"seconds": seconds * draws.uniform(0.5, 1.5)}
        request = {"upload": upload, "reuse": False, "overlay": None, "fake": fake}
        answer = call("/v1/jobs", json=request, headers=sent)
        assert answer.status_code == 202, answer.text
        told.append(Told(answer.json()["id"], owner, float(answer.headers["Retry-After"])))
    return told


def await_end(system: System, owners: set[str]) -> dict[str, dict[str, Any]]:
    """Wait until all jobs have ended; return them by id."""
    while any(page(system, owner, state) for owner in owners for state in ("queued", "running")):
        time.sleep(POLL_SECONDS)
    return {job["id"]: job for owner in owners for job in page(system, owner, "succeeded")}


def page(system: System, owner: str, state: str) -> list[dict[str, Any]]:
    """Return all jobs of an owner in a state."""
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"state": state, "limit": PAGE}
    while True:
        answer = system.client.get("/v1/jobs", params=query, headers=headers(owner)).json()
        found += answer["jobs"]
        if answer["next_cursor"] is None:
            return found
        query["cursor"] = answer["next_cursor"]


def describe(name: str, told: list[Told], ended: dict[str, dict[str, Any]]) -> str:
    """Return a row of the table."""
    jobs = [ended[item.job_id] for item in told]
    waits = [_time(job, "started_at") - _time(job, "created_at") for job in jobs]
    lasted = [_time(job, "ended_at") - _time(job, "created_at") for job in jobs]
    ratios = [item.seconds / seconds for item, seconds in zip(told, lasted, strict=True)]
    low, *_, high = statistics.quantiles(ratios, n=10)
    return (
        f"| {name} | {len(jobs)} | {statistics.median(waits):.1f} s | {max(waits):.1f} s "
        f"| {statistics.median(ratios):.2f} | {low:.2f} to {high:.2f} |"
    )


def measure_order(waiting: int) -> str:
    """Return the milliseconds to queue a job behind others, and to sort them, as table cells."""
    with running_valkey() as valkey:
        redis = Redis.from_url(url_of(valkey))
        jobs = RedisJobs(redis)
        with redis.pipeline() as pipeline:
            pipeline.rpush("rq:queue:rollout-fake", *(f"{n:032x}" for n in range(waiting)))
            owners = {f"{n:032x}": f"0:owner-{n % 7}" for n in range(waiting)}
            pipeline.hset("rollout:order:rollout-fake", mapping=owners)
            pipeline.execute()
        tickets = {job_id: _ticket(int(job_id, 16)) for job_id in owners}
        adds = [_seconds(lambda n=n: jobs.add(_ticket(waiting + n))) for n in range(9)]
        sorts = [_seconds(lambda: jobs.sort("fake", tickets)) for _ in range(9)]
    return f"{statistics.median(adds) * 1e3:.1f} ms | {statistics.median(sorts) * 1e3:.1f} ms"


def _ticket(number: int) -> Ticket:
    return Ticket(
        id=f"{number:032x}",
        request=ExplainRequest(model="fake"),
        created_at=datetime.now(UTC),
        upload_bytes=1,
        owner="another",
    )


def _time(job: dict[str, Any], name: str) -> float:
    return datetime.fromisoformat(job[name]).timestamp()


def _seconds(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
