"""What Redis knows of a job: its place in the list and, until it has ended, record and delivery."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TypeVar, cast

from redis import Redis
from redis.client import Pipeline

from rollout_core.jobs.records import JobRecord, Ticket
from rollout_core.jobs.redis_records import job_key
from service.delivery import Delivery
from service.listing import JobList
from service.quota import OpenJobs

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
