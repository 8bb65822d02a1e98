"""The lists of jobs in Redis: for each owner one of all jobs, and one for each state of the store.

Keys, all sorted sets of job id → creation time in Unix seconds:
    rollout:jobs, rollout:jobs:<owner>                    all jobs; without owner, or of an owner
    rollout:state:<state>, rollout:state:<state>:<owner>  the same jobs, apart by state

Each listed job is in one list of a state. `open` holds jobs that are not known to have ended:
whether one of them waits, runs or has just ended, its record and the store must say. A job that has
ended is moved by the first `Reconciler` that notices; nothing moves it back.

A third key, `rollout:lists`, exists while the lists are those of the store: a Redis that has lost
its data has lost this key too.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import NamedTuple, Self, cast

from redis import Redis
from redis.client import Pipeline

from rollout_core.errors import InvalidRequest
from rollout_core.jobs.redis_records import SCAN_COUNT
from rollout_core.patterns import CURSOR
from service.inventory import StoredJob

JOBS_KEY = "rollout:jobs"
STATE_KEY = "rollout:state"
COMPLETE_KEY = "rollout:lists"

OPEN = "open"
STATES = (OPEN, "succeeded", "failed", "canceled")

CHUNK = 1000
"""Places read per command. Must exceed the number of jobs created in the same microsecond."""


class Place(NamedTuple):
    """A job's place in a list. Places compare in the order of the sorted set."""

    created: float
    job_id: str

    def __str__(self) -> str:
        """Return the place as a page cursor."""
        return f"{self.created:.6f}-{self.job_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a page cursor.

        Raises:
            InvalidRequest: the text is not a cursor.
        """
        if not re.fullmatch(CURSOR.strip("^$"), text):
            raise InvalidRequest("use the next_cursor of a page", field="query.cursor")
        created, _, job_id = text.partition("-")
        return cls(float(created), job_id)


class JobLists:
    """The lists of one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def put(self, jobs: Mapping[str, StoredJob]) -> None:
        """List jobs by the state that the store gives them, and in no other one.

        Jobs whose ticket cannot be read are left out: their owner is not known.
        """
        readable = ((job_id, job) for job_id, job in jobs.items() if job.created_at is not None)
        while chunk := dict(islice(readable, CHUNK)):
            with self._redis.pipeline() as pipeline:
                for (owner, state), members in _by_list(chunk).items():
                    pipeline.zadd(list_key(owner), members)
                    pipeline.zadd(list_key(owner, state), members)
                    for other in STATES:
                        if other != state:
                            pipeline.zrem(list_key(owner, other), *members)
                pipeline.execute()

    def newest_first(
        self, owner: str | None = None, after: Place | None = None, *, state: str | None = None
    ) -> Iterator[Place]:
        """Yield the places of an owner's jobs, newest first, starting after the place `after`.

        Args:
            state: one of `STATES`; None: all jobs.
        """
        while True:
            chunk = self._chunk(list_key(owner, state), after, CHUNK)
            below = [place for place in chunk if after is None or place < after]
            yield from below
            if not below or len(chunk) < CHUNK:
                return
            after = below[-1]

    def not_ended(self, owner: str | None, after: Place | None) -> list[Place]:
        """Return the places of all jobs not known to have ended, newest first, at one moment."""
        places = self._chunk(list_key(owner, OPEN), after, None)
        return [place for place in places if after is None or place < after]

    def disagree(self, owners: Collection[str | None]) -> set[str | None]:
        """Return the owners whose lists of states do not hold as many jobs as the list of all."""
        with self._redis.pipeline() as pipeline:
            for owner in owners:
                for state in (None, *STATES):
                    pipeline.zcard(list_key(owner, state))
            counts = iter(cast("list[int]", pipeline.execute()))
        wrong = set()
        for owner in owners:
            total, *apart = islice(counts, 1 + len(STATES))
            if total != sum(apart):
                wrong.add(owner)
        return wrong

    def owners(self) -> set[str | None]:
        """Return the owners of all lists."""
        found: set[str | None] = set()
        for key in self._redis.scan_iter(f"{JOBS_KEY}*", count=SCAN_COUNT):
            found.add(key.decode().removeprefix(JOBS_KEY).removeprefix(":") or None)
        for key in self._redis.scan_iter(f"{STATE_KEY}:*", count=SCAN_COUNT):
            found.add(key.decode().removeprefix(f"{STATE_KEY}:").partition(":")[2] or None)
        return found

    def of(self, owner: str | None) -> dict[str | None, set[str]]:
        """Return the ids in each list of an owner, by state; None: the list of all."""
        states = (None, *STATES)
        with self._redis.pipeline() as pipeline:
            for state in states:
                pipeline.zrange(list_key(owner, state), 0, -1)
            lists = cast("list[list[bytes]]", pipeline.execute())
        return {
            state: {job_id.decode() for job_id in ids}
            for state, ids in zip(states, lists, strict=True)
        }

    def holder(self) -> str | None:
        """Return which start of Redis holds the lists, or None if it has lost them."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.exists(COMPLETE_KEY)
            pipeline.info("server")
            exists, server = pipeline.execute()
        return str(server["run_id"]) if exists else None

    def set_complete(self) -> None:
        """Say that the lists have been compared with the store."""
        self._redis.set(COMPLETE_KEY, 1)

    def _chunk(self, key: str, start: Place | None, count: int | None) -> list[Place]:
        """Return up to `count` places, newest first; all with the time of `start` are included."""
        entries = self._redis.zrevrangebyscore(
            key,
            start.created if start else "+inf",
            "-inf",
            start=None if count is None else 0,
            num=count,
            withscores=True,
        )
        pairs = cast("list[tuple[bytes, float]]", entries)
        return [Place(created, job_id.decode()) for job_id, created in pairs]


def list_key(owner: str | None, state: str | None = None) -> str:
    """Return the key of an owner's list of jobs in a state of the store; None: of all jobs."""
    key = JOBS_KEY if state is None else f"{STATE_KEY}:{state}"
    return key if owner is None else f"{key}:{owner}"


def add(pipeline: Pipeline, job_id: str, owner: str | None, created: float) -> None:
    """List a job that has been accepted."""
    for state in (None, OPEN):
        pipeline.zadd(list_key(owner, state), {job_id: created})


def remove(pipeline: Pipeline, job_id: str, owner: str | None) -> None:
    """Remove a job from all lists."""
    for state in (None, *STATES):
        pipeline.zrem(list_key(owner, state), job_id)


def state_of(job: StoredJob) -> str:
    """Return the list of states in which a job belongs."""
    return OPEN if job.state == "unknown" else job.state


def _by_list(
    jobs: Mapping[str, StoredJob],
) -> dict[tuple[str | None, str], dict[str, float]]:
    """Group jobs by owner and state, each with its creation time."""
    groups: dict[tuple[str | None, str], dict[str, float]] = defaultdict(dict)
    for job_id, job in jobs.items():
        if job.created_at is not None:
            groups[job.owner, state_of(job)][job_id] = job.created_at.timestamp()
    return groups
