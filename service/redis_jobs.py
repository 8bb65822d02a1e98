"""Jobs in Redis: RQ's queues, the lists of jobs by age, and the sets of open jobs.

The records themselves are read and written by `JobRecords`.

Keys:
    rollout:job:<id>          the `JobRecord` of a job that has not ended
    rollout:token:<id>        the token of its latest claim
    rollout:jobs              sorted set: job id → creation time in Unix seconds, jobs without owner
    rollout:jobs:<owner>      the same for the jobs of one owner
    rollout:open:<owner>      sorted set: open job id → time of its reservation in Unix seconds
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self, cast

from redis import Redis
from redis.client import Pipeline
from rq import Queue, Retry
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from rollout_core.errors import AttemptLost, InvalidRequest
from rollout_core.jobs.records import JobRecord, Ticket
from rollout_core.jobs.redis_records import (
    SCAN_COUNT,
    TASK,
    JobRecords,
    job_key,
    queue_name,
    token_key,
)

JOBS_KEY = "rollout:jobs"
OPEN_KEY = "rollout:open:"

MAX_DELIVERIES = 1000
"""RQ's limit of retries. It is set high, because the worker itself limits the attempts."""

CURSOR = r"^[0-9]{1,10}\.[0-9]{6}-[0-9a-f]{32}$"
"""Form of a page cursor: creation time in seconds, to the microsecond, and job id."""

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
            raise InvalidRequest("the cursor is not valid; use the next_cursor of a page")
        created, _, job_id = text.partition("-")
        return cls(float(created), job_id)


class RedisJobs:
    """The jobs that one Redis knows."""

    def __init__(self, redis: Redis) -> None:
        self.records = JobRecords(redis)
        self._redis = redis

    def add(self, ticket: Ticket, attempt: int = 0) -> bool:
        """Write a job's record, queue it, and list it, in one transaction.

        Args:
            attempt: number of the latest attempt, if Redis has lost the record of the job.

        Returns:
            False, and nothing is written, if the job has a record already.
        """

        def enqueue(pipeline: Pipeline) -> None:
            self._enqueue(ticket.id, ticket.model, pipeline)
            _list(ticket, pipeline)
            if ticket.owner is not None:
                created = ticket.created_at.timestamp()
                pipeline.zadd(OPEN_KEY + ticket.owner, {ticket.id: created}, nx=True)

        return self.records.create(ticket.id, JobRecord(attempt=attempt), enqueue)

    def request_cancel(self, job_id: str) -> JobRecord:
        """Mark a job as to be canceled by the present or next attempt; return its record.

        Returns an empty record, and writes none, if the job has none: it has just ended, or Redis
        has lost it.
        """
        try:
            return self.records.update(job_id, lambda record, _: record.request_cancel())
        except AttemptLost:
            return JobRecord()

    def remove(self, job_id: str, owner: str | None) -> None:
        """Remove the record of a deleted job, and the job from its owner's list and open jobs."""
        with self._redis.pipeline() as pipeline:
            pipeline.delete(job_key(job_id), token_key(job_id))
            pipeline.zrem(_list_key(owner), job_id)
            if owner is not None:
                pipeline.zrem(OPEN_KEY + owner, job_id)
            pipeline.execute()

    def dequeue(self, job_id: str, model: str) -> None:
        """Remove a waiting job from its queue; do nothing if a worker has taken it already."""
        if self._queue(model).remove(job_id):
            self._redis.delete(RqJob.key_for(job_id))

    def requeue(self, job_id: str, model: str) -> None:
        """Queue a lost job again, unless it is in the queue: another service was faster."""
        if self.position(job_id, model) is not None:
            return
        taken = self._queue(model).intermediate_queue
        taken.remove(job_id)
        with self._redis.pipeline() as pipeline:
            self._enqueue(job_id, model, pipeline)
            # RQ stores when it first saw the job in `taken`, and would use that for its next stay.
            pipeline.delete(taken.get_first_seen_key(job_id))
            pipeline.execute()

    def waiting(self, model: str) -> int:
        """Return the number of jobs that wait for `model`."""
        return int(self._queue(model).count)

    def position(self, job_id: str, model: str) -> int | None:
        """Return a job's position in its queue, 1 being next; None if it is not there."""
        index = cast("int | None", self._redis.lpos(self._queue(model).key, job_id))
        return None if index is None else index + 1

    def positions(self, model: str) -> dict[str, int]:
        """Return the position of every job in the queue of `model`."""
        ids = self._queue(model).get_job_ids()
        return {job_id: index for index, job_id in enumerate(ids, start=1)}

    def held(self, model: str) -> set[str]:
        """Return the jobs that wait for `model`, and those that a worker has started.

        RQ itself queues a started job again if its worker dies. A job that a worker took from the
        queue but did not start is not held: RQ would queue it again only after minutes.
        """
        queue = self._queue(model)
        return {*queue.get_job_ids(), *queue.started_job_registry.get_job_ids(cleanup=False)}

    def list_jobs(self, tickets: Iterable[Ticket]) -> None:
        """Add jobs to their owners' lists, in one round trip."""
        with self._redis.pipeline() as pipeline:
            for ticket in tickets:
                _list(ticket, pipeline)
            pipeline.execute()

    def listed(self) -> dict[str, str | None]:
        """Return the owner of every listed job, by job id."""
        keys = list(self._redis.scan_iter(f"{JOBS_KEY}*", count=SCAN_COUNT))
        with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.zrange(key, 0, -1)
            lists = cast("list[list[bytes]]", pipeline.execute())
        owners: dict[str, str | None] = {}
        for key, ids in zip(keys, lists, strict=True):
            owner = key.decode().removeprefix(JOBS_KEY).removeprefix(":") or None
            owners.update((job_id.decode(), owner) for job_id in ids)
        return owners

    def newest_first(self, owner: str | None = None, after: Place | None = None) -> Iterator[Place]:
        """Yield the places of an owner's jobs, newest first, starting after the place `after`."""
        while True:
            chunk = self._chunk(owner, after)
            below = [place for place in chunk if after is None or place < after]
            yield from below
            if not below or len(chunk) < CHUNK:
                return
            after = below[-1]

    def reserve_open(self, job_id: str, owner: str, now: float, limit: int) -> bool:
        """Count a job as open if its owner has fewer than `limit`; return whether it was counted.

        Jobs that have ended stay counted until `release_open`.
        """
        key = OPEN_KEY + owner

        def apply(pipeline: Pipeline) -> bool:
            has_room = pipeline.zcard(key) < limit
            pipeline.multi()
            if has_room:
                pipeline.zadd(key, {job_id: now})
            return has_room

        return bool(self._redis.transaction(apply, key, value_from_callable=True))  # type: ignore[arg-type]

    def release_open(self, job_id: str, owner: str | None) -> None:
        """Stop counting a job as open."""
        if owner is not None:
            self._redis.zrem(OPEN_KEY + owner, job_id)

    def open_jobs(self, owner: str) -> dict[str, float]:
        """Return the jobs counted as open, with the Unix time of each reservation."""
        entries = self._redis.zrange(OPEN_KEY + owner, 0, -1, withscores=True)
        pairs = cast("list[tuple[bytes, float]]", entries)
        return {job_id.decode(): reserved_at for job_id, reserved_at in pairs}

    def _enqueue(self, job_id: str, model: str, pipeline: Pipeline) -> None:
        """Queue a job, as the first part of a transaction: RQ opens it itself."""
        self._queue(model).enqueue_call(
            TASK,
            args=(job_id,),
            job_id=job_id,
            timeout=-1,
            result_ttl=0,
            retry=Retry(max=MAX_DELIVERIES),
            pipeline=pipeline,
        )

    def _queue(self, model: str) -> Queue:
        queue = Queue(queue_name(model), connection=self._redis, serializer=JSONSerializer)
        # RQ reads the version once per client. Within a transaction, that call would wait for a
        # second connection of a small pool while it holds the first.
        queue.get_redis_server_version()
        return queue

    def _chunk(self, owner: str | None, start: Place | None) -> list[Place]:
        """Return up to `CHUNK` places, newest first; all with the time of `start` are included."""
        entries = self._redis.zrevrangebyscore(
            _list_key(owner),
            start.created if start else "+inf",
            "-inf",
            start=0,
            num=CHUNK,
            withscores=True,
        )
        pairs = cast("list[tuple[bytes, float]]", entries)
        return [Place(created, job_id.decode()) for job_id, created in pairs]


def _list(ticket: Ticket, pipeline: Pipeline) -> None:
    pipeline.zadd(_list_key(ticket.owner), {ticket.id: ticket.created_at.timestamp()})


def _list_key(owner: str | None) -> str:
    return JOBS_KEY if owner is None else f"{JOBS_KEY}:{owner}"
