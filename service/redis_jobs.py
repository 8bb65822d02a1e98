"""Jobs in Redis: RQ's queues, and the sets of open jobs.

The records themselves are read and written by `JobRecords`, the lists of jobs by `JobLists`.

Keys:
    rollout:job:<id>          the `JobRecord` of a job that has not ended
    rollout:token:<id>        the token of its latest claim
    rollout:open:<owner>      sorted set: open job id → time of its reservation in Unix seconds
    rollout:order:<queue>     hash of what orders the waiting jobs; see `service.fair_order`
    rollout:probe             written to see whether Redis accepts writes; expires
"""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple, cast

from redis import Redis
from redis.client import Pipeline
from rq import Queue, Retry
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from rollout_core.contract import Priority
from rollout_core.errors import AttemptLost
from rollout_core.jobs.records import JobRecord, Ticket
from rollout_core.jobs.redis_records import (
    TASK,
    JobRecords,
    job_key,
    queue_name,
    redis_now,
    token_key,
)
from service import job_lists
from service.fair_order import FairOrder
from service.job_lists import JobLists

OPEN_KEY = "rollout:open:"
PROBE_KEY = "rollout:probe"
PROBE_SECONDS = 60

MAX_DELIVERIES = 1000
"""RQ's limit of retries. It is set high, because the worker itself limits the attempts."""


class Line(NamedTuple):
    """The jobs of one model that wait, as they were at one moment.

    Attributes:
        waiting: job id → position in the queue, 1 being next.
        taken: jobs that a worker took from the queue; it is about to claim them.
    """

    waiting: dict[str, int]
    taken: frozenset[str]

    def position(self, job_id: str) -> int:
        """Return the position of a job that waits, at least 1.

        A job that was taken is next. One that is neither in the queue nor taken was lost; it will
        be queued as the last one.
        """
        if job_id in self.taken:
            return 1
        return self.waiting.get(job_id, len(self.waiting) + 1)


class RedisJobs:
    """The jobs that one Redis knows."""

    def __init__(self, redis: Redis) -> None:
        self.records = JobRecords(redis)
        self.lists = JobLists(redis)
        self._redis = redis
        self._order = FairOrder(redis)

    def now(self) -> datetime:
        """Return the time by the clock of Redis, which all processes share."""
        return redis_now(self._redis)

    def add(self, ticket: Ticket, attempt: int = 0, *, priority: Priority = "normal") -> bool:
        """Write a job's record, queue it in its fair place, and list it, in one transaction.

        Args:
            attempt: number of the latest attempt, if Redis has lost the record of the job.

        Returns:
            False, and nothing is written, if the job has a record already.
        """

        def enqueue(pipeline: Pipeline) -> None:
            queue = self._enqueue(ticket.id, ticket.model, pipeline)
            self._order.place(pipeline, queue, ticket, priority)
            created = ticket.created_at.timestamp()
            job_lists.add(pipeline, ticket.id, ticket.owner, created)
            if ticket.owner is not None:
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
        """Remove the record of a deleted job, and the job from its owner's lists and open jobs."""
        with self._redis.pipeline() as pipeline:
            pipeline.delete(job_key(job_id), token_key(job_id))
            job_lists.remove(pipeline, job_id, owner)
            if owner is not None:
                pipeline.zrem(OPEN_KEY + owner, job_id)
            pipeline.execute()
        self.records.tell_ended(job_id)

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
            queue = self._enqueue(job_id, model, pipeline)
            self._order.sort(queue, pipeline)
            # RQ stores when it first saw the job in `taken`, and would use that for its next stay.
            pipeline.delete(taken.get_first_seen_key(job_id))
            pipeline.execute()

    def sort(self, model: str, open_jobs: Mapping[str, Ticket]) -> None:
        """Bring a model's queue in its fair order, and forget jobs that are no longer open."""
        self._order.tidy(self._queue(model), open_jobs)

    def waiting(self, model: str) -> int:
        """Return the number of jobs that wait for `model`."""
        return int(self._queue(model).count)

    def waiting_of(self, owner: str | None, model: str) -> int:
        """Return the number of an owner's jobs that wait for `model`."""
        return self._order.waiting_of(self._queue(model), owner)

    def running(self, model: str) -> int:
        """Return the number of a model's jobs that workers have taken or started."""
        queue = self._queue(model)
        with self._redis.pipeline() as pipeline:
            pipeline.llen(queue.intermediate_queue_key)
            pipeline.zcard(queue.started_job_registry.key)
            return sum(cast("list[int]", pipeline.execute()))

    def position(self, job_id: str, model: str) -> int | None:
        """Return a job's position in its queue, 1 being next; None if it is not there."""
        index = cast("int | None", self._redis.lpos(self._queue(model).key, job_id))
        return None if index is None else index + 1

    def place(self, job_id: str, model: str) -> int:
        """Return `Line.position` of one job, without reading the whole line."""
        position = self.position(job_id, model)
        if position is not None:
            return position
        queue = self._queue(model)
        with self._redis.pipeline() as pipeline:  # at one moment: a job moves from one to the next
            pipeline.lpos(queue.key, job_id)
            pipeline.lpos(queue.intermediate_queue_key, job_id)
            pipeline.zrange(queue.started_job_registry.key, 0, -1)
            pipeline.llen(queue.key)
            index, taken, started, waiting = pipeline.execute()
        if index is not None:
            return int(index) + 1
        is_taken = taken is not None or job_id in _started(started)
        return 1 if is_taken else int(waiting) + 1

    def line(self, model: str) -> Line:
        """Return the jobs that wait for `model`."""
        queue = self._queue(model)
        with self._redis.pipeline() as pipeline:
            pipeline.lrange(queue.key, 0, -1)
            pipeline.lrange(queue.intermediate_queue_key, 0, -1)
            pipeline.zrange(queue.started_job_registry.key, 0, -1)
            waiting, taken, started = cast("list[list[bytes]]", pipeline.execute())
        positions = {job_id.decode(): index for index, job_id in enumerate(waiting, start=1)}
        return Line(positions, _started(started) | {job_id.decode() for job_id in taken})

    def held(self, model: str) -> set[str]:
        """Return the jobs that wait for `model`, and those that a worker has started.

        RQ itself queues a started job again if its worker dies. A job that a worker took from the
        queue but did not start is not held: RQ would queue it again only after minutes.
        """
        queue = self._queue(model)
        return {*queue.get_job_ids(), *queue.started_job_registry.get_job_ids(cleanup=False)}

    def check_writable(self) -> None:
        """Write a key that expires.

        Raises:
            RedisError: Redis does not answer, or refuses writes.
        """
        self._redis.set(PROBE_KEY, b"", ex=PROBE_SECONDS)

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

    def _enqueue(self, job_id: str, model: str, pipeline: Pipeline) -> Queue:
        """Queue a job, as the first part of a transaction: RQ opens it itself."""
        queue = self._queue(model)
        queue.enqueue_call(
            TASK,
            args=(job_id,),
            job_id=job_id,
            timeout=-1,
            result_ttl=0,
            retry=Retry(max=MAX_DELIVERIES),
            pipeline=pipeline,
        )
        return queue

    def _queue(self, model: str) -> Queue:
        queue = Queue(queue_name(model), connection=self._redis, serializer=JSONSerializer)
        # RQ reads the version once per client. Within a transaction, that call would wait for a
        # second connection of a small pool while it holds the first.
        queue.get_redis_server_version()
        return queue


def _started(members: list[bytes]) -> frozenset[str]:
    """Return the jobs in RQ's registry, whose members are job id, colon, id of the execution."""
    return frozenset(member.decode().partition(":")[0] for member in members)
