"""What grows with the number of jobs that wait or run: the fair order, and the reconcile pass."""

import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from redis import Redis

from rollout_core.contract import ExplainRequest
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.records import Ticket
from service.fair_order import ORDER_KEY, FairOrder
from service.inventory import Inventory
from service.maintenance import Reconciler
from service.redis_jobs import RedisJobs
from tests.benchmarks.many_jobs import fill
from tests.benchmarks.redis_replies import private_redis
from tests.benchmarks.scaling.gauges import read_use

MODEL = "fake"
OWNERS = 7
LEASE_SECONDS = 600
ROUNDS = 30
PASSES = 5


def order_ms(waiting: int, running: int) -> float:
    """Return the processor time in which Redis queues a job behind others and sorts them.

    The queue is in order before. Another job leaves it meanwhile, so that its length stays.
    """
    with private_redis() as redis:
        jobs = RedisJobs(redis)
        jobs.waiting(MODEL)
        _prefill(redis, waiting, running)
        jobs.sort(MODEL, {})
        _prefill_order(redis, waiting, running)
        spent = 0.0
        for number in range(ROUNDS):
            before = read_use(redis).redis_seconds
            jobs.add(ticket(2_000_000 + number))
            spent += read_use(redis).redis_seconds - before
            redis.lpop(f"rq:queue:rollout-{MODEL}")
        infos = read_use(redis).redis_seconds
        for _ in range(ROUNDS):
            read_use(redis)
        return 1e3 * (spent - (read_use(redis).redis_seconds - infos)) / ROUNDS


def reconcile_ms(open_jobs: int) -> dict[str, float]:
    """Return the processor time of a pass by what has changed, with so many jobs that wait."""
    with tempfile.TemporaryDirectory(prefix="scaling-") as name, private_redis() as redis:
        fill(Path(name), open_jobs, open_jobs)
        store = FolderStore(Path(name))
        reconciler = Reconciler(store, Inventory(store), redis)
        with ExitStack() as stack:  # or each of them would sort all the others
            stack.enter_context(mock.patch.object(FairOrder, "sort"))
            reconciler.reconcile()
        spent = []
        for _ in range(PASSES):
            began, at = time.process_time(), read_use(redis).redis_seconds
            reconciler.reconcile()
            spent.append((time.process_time() - began, read_use(redis).redis_seconds - at))
        api, server = sorted(spent)[PASSES // 2]
        return {"api": 1e3 * api, "redis": 1e3 * server}


def ticket(number: int) -> Ticket:
    """Return the ticket of a job."""
    return Ticket(
        id=f"{number:032x}",
        request=ExplainRequest(model=MODEL),
        created_at=datetime.now(UTC),
        upload_bytes=1,
        owner=_owner(number),
    )


def _owner(number: int) -> str:
    return f"owner-{number % OWNERS}"


def _prefill(redis: Redis, waiting: int, running: int) -> None:
    with redis.pipeline() as pipeline:
        for number in range(waiting):
            pipeline.rpush(f"rq:queue:rollout-{MODEL}", f"{number:032x}")
        until = time.time() + LEASE_SECONDS
        for number in range(running):
            member = f"{1_000_000 + number:032x}:{number:032x}"
            pipeline.zadd(f"rq:wip:rollout-{MODEL}", {member: until})
        pipeline.execute()
    _prefill_order(redis, waiting, running)


def _prefill_order(redis: Redis, waiting: int, running: int) -> None:
    """Write what orders the jobs; `RedisJobs.sort` forgets those that no store has."""
    numbers = [*range(waiting), *range(1_000_000, 1_000_000 + running)]
    if numbers:
        entries = {f"{number:032x}": f"0:{_owner(number)}" for number in numbers}
        redis.hset(f"{ORDER_KEY}rollout-{MODEL}", mapping=entries)
