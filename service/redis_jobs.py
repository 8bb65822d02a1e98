"""What Redis knows of a job: its place in the list and, until it has ended, record and delivery."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple, Self, TypeVar, cast

from redis import Redis
from redis.client import Pipeline
from rq import Queue, Retry
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from rollout_core.errors import InvalidRequest
from rollout_core.jobs.records import JobRecord, Ticket
from rollout_core.jobs.redis_records import TASK, job_key, queue_name

T = TypeVar("T")


class Register:
    """The jobs that one Redis knows."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.list = JobList(redis)
        self.delivery = Delivery(redis)
        self.open = OpenJobs(redis)

    def enter(self, ticket: Ticket, attempt: int = 0) -> bool:
        """Queue a job, all at once, unless it is known; return whether it was not.

        Args:
            attempt: the latest that was begun before Redis forgot the job.
        """
        key = job_key(ticket.id)

        def step(pipe: Pipeline) -> bool:
            if pipe.exists(key):
                return False
            pipe.multi()
            self.delivery.add(ticket.id, ticket.model, pipe)
            pipe.set(key, JobRecord(attempt=attempt).model_dump_json())
            self.list.add(ticket, pipe)
            self.open.add(ticket, pipe)
            return True

        return self._transact(step, key)

    def enlist(self, ticket: Ticket) -> None:
        """Give a job its place in the list."""
        with self._redis.pipeline() as pipe:
            self.list.add(ticket, pipe)
            pipe.execute()

    def record(self, job_id: str) -> JobRecord | None:
        """Return the record of a job that is under way."""
        text = self._redis.get(job_key(job_id))
        return None if text is None else _parse(text)

    def is_alive(self, record: JobRecord) -> bool:
        """Whether an attempt runs the job now, by the clock that its lease was written by."""
        seconds, microseconds = self._redis.time()
        moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)
        return record.is_alive(moment)

    def request_cancel(self, job_id: str) -> JobRecord:
        """Ask whoever has the job, or takes it next, to cancel it; return its record."""
        key = job_key(job_id)

        def step(pipe: Pipeline) -> JobRecord:
            text = pipe.get(key)
            pipe.multi()
            if text is None:  # it has just ended, or Redis has forgotten it
                return JobRecord()
            record = _parse(text).request_cancel()
            pipe.set(key, record.model_dump_json())
            return record

        return self._transact(step, key)

    def close(self, job_id: str) -> None:
        """Forget the record of a job that has ended."""
        self._redis.delete(job_key(job_id))

    def strike(self, job_id: str, owner: str | None) -> None:
        """Forget the record of a job that is gone, and its place in the list."""
        with self._redis.pipeline() as pipe:
            pipe.delete(job_key(job_id))
            self.list.remove(job_id, owner, pipe)
            self.open.remove(job_id, owner, pipe)
            pipe.execute()

    def recorded(self) -> Iterator[str]:
        """Yield the ids of all jobs that have a record."""
        prefix = job_key("")
        for key in self._redis.scan_iter(f"{prefix}*", count=1000):
            yield key.decode().removeprefix(prefix)

    def _transact(self, step: Callable[[Pipeline], T], key: str) -> T:
        """Take a step in an optimistic transaction, as every step of a record is taken."""
        taken = self._redis.transaction(step, key, value_from_callable=True)  # type: ignore[arg-type]
        return cast(T, taken)


def _parse(text: object) -> JobRecord:
    return JobRecord.model_validate_json(cast(bytes, text))


MAX_DELIVERIES = 1000
"""Attempts are counted by the worker; RQ must not give up before it does."""


class Delivery:
    """The queues of one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, job_id: str, model: str, pipe: Pipeline) -> None:
        """Queue a job for a worker of `model`, as the first part of a transaction.

        First, because RQ opens the transaction itself.
        """
        self._queue(model).enqueue_call(
            TASK,
            args=(job_id,),
            job_id=job_id,
            timeout=-1,
            result_ttl=0,
            retry=Retry(max=MAX_DELIVERIES),
            pipeline=pipe,
        )

    def withdraw(self, job_id: str, model: str) -> None:
        """Take back a job that still waits. What a worker holds already ends with its task."""
        if self._queue(model).remove(job_id):
            self._redis.delete(RqJob.key_for(job_id))

    def held(self, model: str) -> set[str]:
        """Return the jobs that wait for `model`, or that a worker was seen to begin.

        RQ brings back what a dead worker had begun. What one had taken and not begun it brings
        back after minutes; that is not held.
        """
        queue = self._queue(model)
        return {*queue.get_job_ids(), *queue.started_job_registry.get_job_ids(cleanup=False)}

    def repeat(self, job_id: str, model: str) -> None:
        """Queue a job again that nobody holds, unless another service has just done so."""
        if self.position(job_id, model) is not None:
            return
        taken = self._queue(model).intermediate_queue
        taken.remove(job_id)
        with self._redis.pipeline() as pipe:
            self.add(job_id, model, pipe)
            pipe.delete(taken.get_first_seen_key(job_id))  # of the next time, RQ would think it old
            pipe.execute()

    def waiting(self, model: str) -> int:
        """Return how many jobs wait for `model`."""
        return int(self._queue(model).count)

    def position(self, job_id: str, model: str) -> int | None:
        """Return a job's place among those that wait, 1 being next; None if it does not wait."""
        index = cast(int | None, self._redis.lpos(self._queue(model).key, job_id))
        return None if index is None else index + 1

    def _queue(self, model: str) -> Queue:
        queue = Queue(queue_name(model), connection=self._redis, serializer=JSONSerializer)
        # Of each client RQ asks this once, else in the middle of a transaction: that would hold
        # one of a few connections while it waits for another.
        queue.get_redis_server_version()
        return queue


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


OPEN_KEY = "rollout:open:"
"""With an owner's name: id of a job → when its place was taken, in Unix seconds."""


class OpenJobs:
    """The jobs of each owner that have not ended: a sorted set each, for all processes alike.

    Jobs that have ended stay in it until there is need of their places.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def take(self, job_id: str, owner: str, now: float, limit: int) -> bool:
        """Take a place for a job, if fewer than `limit` are taken; return whether there was one."""
        key = OPEN_KEY + owner

        def step(pipe: Pipeline) -> bool:
            has_room = pipe.zcard(key) < limit
            pipe.multi()
            if has_room:
                pipe.zadd(key, {job_id: now})
            return has_room

        return bool(self._redis.transaction(step, key, value_from_callable=True))  # type: ignore[arg-type]

    def add(self, ticket: Ticket, pipe: Pipeline) -> None:
        """Give an accepted job its place, as part of a transaction."""
        if ticket.owner is not None:
            moment = ticket.created_at.timestamp()
            pipe.zadd(OPEN_KEY + ticket.owner, {ticket.id: moment}, nx=True)

    def remove(self, job_id: str, owner: str | None, pipe: Pipeline | Redis | None = None) -> None:
        """Give a job's place back."""
        if owner is not None:
            (pipe or self._redis).zrem(OPEN_KEY + owner, job_id)

    def of(self, owner: str) -> dict[str, float]:
        """Return whose places are taken, and since when."""
        entries = self._redis.zrange(OPEN_KEY + owner, 0, -1, withscores=True)
        pairs = cast(list[tuple[bytes, float]], entries)
        return {job_id.decode(): moment for job_id, moment in pairs}
