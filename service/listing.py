"""The lists of jobs, one an owner: sorted sets in Redis, read newest first."""

import re
from collections.abc import Iterator
from typing import NamedTuple, Self, cast

from redis import Redis
from redis.client import Pipeline

from rollout_core.errors import InvalidRequest
from rollout_core.jobs.records import Ticket

JOBS_KEY = "rollout:jobs"
"""Id of a job → when it was created, in Unix seconds; an owner's list has `:` and his name here."""

CURSOR = r"^[0-9]{1,10}\.[0-9]{6}-[0-9a-f]{32}$"
"""How a place looks from outside: its time, whose microseconds survive, and its job."""

CHUNK = 200
"""Places read at a time. Far more jobs than can share one microsecond."""


class Place(NamedTuple):
    """A job's place in the list. Places compare as the sorted set orders them."""

    created: float
    job_id: str

    def __str__(self) -> str:
        """Return a text for clients to hand back as a cursor."""
        return f"{self.created:.6f}-{self.job_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` made.

        Raises:
            InvalidRequest: it did not.
        """
        if not re.fullmatch(CURSOR.strip("^$"), text):
            raise InvalidRequest("the cursor is not one that this service gives")
        created, _, job_id = text.partition("-")
        return cls(float(created), job_id)


class JobList:
    """Every job that was accepted and not deleted, in the order of creation."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, ticket: Ticket, pipe: Pipeline) -> None:
        """Put a job where it belongs, as part of a transaction."""
        pipe.zadd(_key(ticket.owner), {ticket.id: ticket.created_at.timestamp()})

    def remove(self, job_id: str, owner: str | None, pipe: Pipeline) -> None:
        """Take a job off its owner's list, as part of a transaction."""
        pipe.zrem(_key(owner), job_id)

    def owners(self) -> dict[str, str | None]:
        """Return who owns each job that is listed, by the ids of the jobs."""
        owned: dict[str, str | None] = {}
        for key in self._redis.scan_iter(f"{JOBS_KEY}*"):
            owner = key.decode().removeprefix(JOBS_KEY).removeprefix(":") or None
            ids = cast(list[bytes], self._redis.zrange(key, 0, -1))
            owned.update(dict.fromkeys((job_id.decode() for job_id in ids), owner))
        return owned

    def newest_first(self, owner: str | None = None, after: Place | None = None) -> Iterator[Place]:
        """Yield the places of an owner's jobs, or of those after a place."""
        while True:
            chunk = self._chunk(owner, after)
            below = [place for place in chunk if after is None or place < after]
            if not below:
                return
            yield from below
            after = below[-1]

    def _chunk(self, owner: str | None, start: Place | None) -> list[Place]:
        """Return the newest places, those that share the time of `start` included."""
        entries = self._redis.zrevrangebyscore(
            _key(owner),
            start.created if start else "+inf",
            "-inf",
            start=0,
            num=CHUNK,
            withscores=True,
        )
        pairs = cast(list[tuple[bytes, float]], entries)
        return [Place(created, job_id.decode()) for job_id, created in pairs]


def _key(owner: str | None) -> str:
    return JOBS_KEY if owner is None else f"{JOBS_KEY}:{owner}"
