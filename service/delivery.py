"""Brings jobs to workers: one RQ queue a model, on which only ids travel, as JSON."""

from typing import cast

from redis import Redis
from redis.client import Pipeline
from rq import Queue, Retry
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from rollout_core.jobs.redis_records import TASK, queue_name

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
