"""The list of all jobs: a sorted set in Redis, read newest first."""

import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from typing import NamedTuple, Self, cast

from redis import Redis
from redis.client import Pipeline

from rollout_core.contract import Ticket
from rollout_core.errors import InvalidRequest

JOBS_KEY = "rollout:jobs"
"""Id of a job → when it was created, in Unix seconds."""

CHUNK = 200
"""Places read at a time. Far more jobs than can share one microsecond."""


class Place(NamedTuple):
    """A job's place in the list. Places compare as the sorted set orders them."""

    created: float
    job_id: str

    def __str__(self) -> str:
        """Return an opaque text, for clients to hand back as a cursor."""
        return urlsafe_b64encode(f"{self.created!r} {self.job_id}".encode()).decode()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` made.

        Raises:
            InvalidRequest: it did not.
        """
        try:
            plain = urlsafe_b64decode(text).decode("ascii")
            created, job_id = plain.split(" ")
            place = cls(float(created), job_id)
            if not math.isfinite(place.created):
                raise ValueError(created)
        except ValueError as error:
            raise InvalidRequest("the cursor is not one that this service gave") from error
        return place


class JobList:
    """Every job that was accepted and not deleted, in the order of creation."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, ticket: Ticket, pipe: Pipeline) -> None:
        """Put a new job first, as part of a transaction."""
        pipe.zadd(JOBS_KEY, {ticket.id: ticket.created_at.timestamp()})

    def remove(self, job_id: str, pipe: Pipeline) -> None:
        """Take a job off the list, as part of a transaction."""
        pipe.zrem(JOBS_KEY, job_id)

    def newest_first(self, after: Place | None = None) -> Iterator[Place]:
        """Yield the places of all jobs, or of those after a place."""
        while True:
            below = [place for place in self._chunk(after) if after is None or place < after]
            if not below:
                return
            yield from below
            after = below[-1]

    def _chunk(self, start: Place | None) -> list[Place]:
        """Return the newest places, those that share the time of `start` included."""
        entries = self._redis.zrevrangebyscore(
            JOBS_KEY,
            start.created if start else "+inf",
            "-inf",
            start=0,
            num=CHUNK,
            withscores=True,
        )
        pairs = cast(list[tuple[bytes, float]], entries)
        return [Place(created, job_id.decode()) for job_id, created in pairs]
