"""The records of jobs and the announcements of workers in Redis: their keys, reader and writer.

Service and worker both use this module, so a record has one format and one set of rules. Of
`rollout_core`, only the modules `jobs/redis_*` import redis.

Leases and heartbeats are written by Redis' clock: clocks of hosts may differ by more than a lease.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, TypeVar, cast

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.client import Pipeline
from redis.exceptions import RedisError

from rollout_core.contract import Frozen, Precision
from rollout_core.errors import AttemptLost, OtherStore
from rollout_core.jobs.counters import WorkerCounters
from rollout_core.jobs.records import JobRecord
from rollout_core.jobs.redis_url import database_of
from rollout_core.model.specs import ModelSpec

TASK = "worker.task.explain"
"""Import path of the function that a worker runs for a job. Its one argument is the job's id."""

WORKERS_KEY = "rollout:workers"
"""A Redis hash: name of a worker → its last `Announcement`."""

KNOWN_SECONDS = 24 * 3600
"""A model stays known for this long after the last heartbeat of a worker that serves it."""

LIVE_SECONDS = 15
"""A worker is alive for this long after its last heartbeat."""

WAITING_KEY = "rollout:waiting"
"""A sorted set: place of a worker that waits for a GPU → when it last said so, by Redis' clock."""

STORE_KEY = "rollout:store"
"""The id of the store that the service uses; see `ArtifactStore.identity`."""

STORE_SECONDS = 15
"""A store counts as the service's for this long after the service has last said so."""

CHANGED_CHANNEL = "rollout:changed"
"""The id of a job is published here when something that its followers see has changed; see
`channel_of`."""

ENDED_CHANNEL = "rollout:ended"
"""The id of a job is published here when its record is removed: it has ended, or was deleted."""

SCAN_COUNT = 10_000
"""Keys that Redis looks at per SCAN command; it is blocked for a few milliseconds each time."""

Step = Callable[[JobRecord, datetime], JobRecord]
"""Returns the next record, given the present one and Redis' time."""

T = TypeVar("T")


def queue_name(model: str) -> str:
    """Return the name of the one queue on which `model`'s workers listen."""
    return f"rollout-{model}"


def channel_of(redis: Redis | AsyncRedis, name: str) -> str:
    """Return the channel of the database that a client uses.

    Redis keeps the keys of its databases apart, but not the channels. That of database 0 has the
    plain name, which earlier releases use for all of them.
    """
    database = database_of(redis)
    return f"{name}:{database}" if database else name


def job_key(job_id: str) -> str:
    """Return the Redis key of a job's `JobRecord`."""
    return f"rollout:job:{job_id}"


def token_key(job_id: str) -> str:
    """Return the Redis key of the token of a job's latest claim.

    It is not a field of the record, because the releases before it refuse records with fields that
    they do not know.
    """
    return f"rollout:token:{job_id}"


def redis_now(redis: Redis) -> datetime:
    """Return the time by Redis' clock, in UTC."""
    seconds, microseconds = redis.time()
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)


def announce_store(redis: Redis, identity: str) -> None:
    """Announce that the service uses this store.

    Raises:
        OtherStore: another service uses this Redis with another store. Each of the two would take
            the other's jobs for deleted ones.
    """
    if not redis.set(STORE_KEY, identity, nx=True, ex=STORE_SECONDS):
        require_store(redis, identity)
        redis.set(STORE_KEY, identity, ex=STORE_SECONDS)


def require_store(redis: Redis, identity: str) -> None:
    """Check that a store is that of the service, or that no service has announced one.

    Raises:
        OtherStore: the service uses another store.
    """
    announced = cast("bytes | None", redis.get(STORE_KEY))
    if announced is not None and announced.decode() != identity:
        raise OtherStore(
            f"this data directory is not the one of the service at this Redis: it is the store "
            f"{identity}, the service uses {announced.decode()}"
        )


def announce_waiting(redis: Redis, place: str) -> None:
    """Announce that the worker at a place is alive and waits for a GPU.

    It serves nothing yet, so it has no `Announcement`.
    """
    now = redis_now(redis).timestamp()
    with redis.pipeline() as pipeline:
        pipeline.zadd(WAITING_KEY, {place: now})
        pipeline.zremrangebyscore(WAITING_KEY, 0, now - LIVE_SECONDS)
        pipeline.execute()


def places_waiting(redis: Redis) -> set[str]:
    """Return the places of live workers that wait for a GPU."""
    since = redis_now(redis).timestamp() - LIVE_SECONDS
    found = cast("list[bytes]", redis.zrangebyscore(WAITING_KEY, since, "+inf"))
    return {place.decode() for place in found}


class JobRecords:
    """The records of jobs that have not ended."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def get_many_raw(self, job_ids: Iterable[str]) -> Mapping[str, bytes | None]:
        """Return the record of each job as JSON, in one round trip; None for a job without one.

        Callers parse them one at a time: another version may have written any of them.
        """
        ids = list(job_ids)
        if not ids:
            return {}
        texts = cast("list[bytes | None]", self._redis.mget([job_key(job_id) for job_id in ids]))
        return dict(zip(ids, texts, strict=True))

    def exists(self, job_id: str) -> bool:
        """Return whether a job has a record."""
        return bool(self._redis.exists(job_key(job_id)))

    def ids(self) -> Iterator[str]:
        """Yield the id of each job that has a record."""
        prefix = job_key("")
        for key in self._redis.scan_iter(f"{prefix}*", count=SCAN_COUNT):
            yield key.decode().removeprefix(prefix)

    def create(self, job_id: str, record: JobRecord, enqueue: Callable[[Pipeline], None]) -> bool:
        """Write a new record, and `enqueue` the job in the same transaction.

        Args:
            enqueue: adds its commands to the pipeline. It may open the transaction itself.

        Returns:
            False, and nothing is written, if the job has a record already.
        """
        key = job_key(job_id)

        def apply(pipeline: Pipeline) -> bool:
            if pipeline.exists(key):
                return False
            pipeline.multi()
            enqueue(pipeline)
            pipeline.set(key, record.to_json())
            return True

        return self._transact(apply, key)

    def update(self, job_id: str, step: Step) -> JobRecord:
        """Apply a step to a job's record in an optimistic transaction, and return the result.

        The key of the token is written only with the record, so watching the record is enough.

        Raises:
            AttemptLost: the job has no record: it has ended, or it was deleted.
            UnknownFormat: this version cannot read the record.
        """
        key = job_key(job_id)

        def apply(pipeline: Pipeline) -> tuple[JobRecord, JobRecord]:
            text, token = cast("list[bytes | None]", pipeline.mget(key, token_key(job_id)))
            if text is None:
                raise AttemptLost("the job has ended, or it was deleted")
            present = JobRecord.from_json(text).with_token(token)
            record = step(present, redis_now(pipeline))
            pipeline.multi()
            pipeline.set(key, record.to_json(), keepttl=True)
            if record.token is None:
                pipeline.delete(token_key(job_id))
            elif record.token != present.token:
                pipeline.set(token_key(job_id), record.token)
            return present, record

        before, after = self._transact(apply, key)
        if after.shows_more_than(before):
            self._publish(CHANGED_CHANNEL, job_id)
        return after

    def delete(self, *job_ids: str) -> None:
        """Delete the records of these jobs, and wake who follows them."""
        if job_ids:
            self._redis.delete(*(key(job_id) for job_id in job_ids for key in (job_key, token_key)))
            self.tell_ended(*job_ids)

    def tell_ended(self, *job_ids: str) -> None:
        """Wake who follows jobs that have ended or were deleted."""
        self._publish(ENDED_CHANNEL, *job_ids)

    def _publish(self, channel: str, *job_ids: str) -> None:
        """Wake who follows these jobs. What Redis does not publish costs them time only.

        It is no part of the transaction, which a user who may not publish could not make.
        """
        own = channel_of(self._redis, channel)
        with suppress(RedisError), self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.publish(own, job_id)
            pipeline.execute()

    def _transact(self, apply: Callable[[Pipeline], T], key: str) -> T:
        result = self._redis.transaction(apply, key, value_from_callable=True)  # type: ignore[arg-type]
        return cast(T, result)


class Gpu(Frozen):
    """The GPU, or the MIG slice of one, on which a worker's engine runs.

    Attributes:
        memory_used_bytes: by all processes that use it.
    """

    uuid: str
    name: str
    memory_total_bytes: int
    memory_used_bytes: int


class Announcement(Frozen):
    """What a worker announces about itself at every heartbeat."""

    model: ModelSpec
    checkpoint_sha256: str | None
    engine: Literal["torch", "fake"]
    device: str
    gpu: Gpu | None = Field(None, description="None on a CPU, or if the GPU cannot be measured.")
    precision: Precision | None = Field(None, description="None while its engine is loading.")
    ready: bool = Field(description="False while its engine is loading, or while it pauses.")
    waiting_for: Literal["store"] | None = Field(
        None, description="store: it pauses until the store can be written."
    )
    stopping: bool = Field(False, description="It takes no more jobs.")
    seconds_per_job: float | None = Field(
        None, description="Mean of its latest jobs, or of a clip."
    )
    counters: WorkerCounters | None = Field(None, description="None: its release has none.")
    beat_at: datetime

    @field_validator("counters", mode="wrap")
    @classmethod
    def _forgive(cls, value: object, read: ValidatorFunctionWrapHandler) -> WorkerCounters | None:
        """Do without counters that another release has written in another form."""
        try:
            return cast("WorkerCounters | None", read(value))
        except ValidationError:
            return None

    @property
    def takes_jobs(self) -> bool:
        """Whether it takes jobs, now or when its pause ends."""
        return not self.stopping and (self.ready or self.waiting_for is not None)

    @property
    def has_loaded(self) -> bool:
        """Whether it is known what it serves, and it may still take jobs."""
        return self.takes_jobs or (not self.stopping and self.checkpoint_sha256 is not None)

    def identity(self) -> str:
        """Return what it serves. Workers of one model must not differ in it.

        They may differ in device and precision: a precision is used only if it agrees with float32.
        """
        return self.model_dump_json(include={"model", "checkpoint_sha256", "engine"})

    def age_seconds(self, now: datetime) -> float:
        """Return the seconds since the worker's last heartbeat."""
        return (now - self.beat_at).total_seconds()

    def is_live(self, now: datetime) -> bool:
        """Return whether the worker counts as alive.

        A heartbeat far in the future was sent before Redis' clock was set back.
        """
        return abs(self.age_seconds(now)) <= LIVE_SECONDS


class Announcements:
    """The last announcement of each worker."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._parsed: Mapping[str, tuple[bytes, Announcement | None]] = {}

    def read(self) -> dict[str, Announcement]:
        """Return the announcements by worker, without those of versions that we cannot read.

        One that has not changed since the last call is not parsed again: that takes 20 times as
        long as to read it.
        """
        before, parsed = self._parsed, {}
        for name, text in self.read_raw().items():
            same = before.get(name)
            is_same = same is not None and same[0] == text
            parsed[name] = same if is_same and same else (text, parse_announcement(text))
        self._parsed = parsed
        return {name: item for name, (_, item) in parsed.items() if item is not None}

    def read_raw(self) -> Mapping[str, bytes]:
        """Return the announcements as JSON, by worker."""
        raw = cast("dict[bytes, bytes]", self._redis.hgetall(WORKERS_KEY))
        return {name.decode(): text for name, text in raw.items()}

    def write(self, worker: str, announcement: Announcement) -> None:
        """Replace a worker's announcement."""
        self._redis.hset(WORKERS_KEY, worker, announcement.model_dump_json(exclude_defaults=True))

    def remove(self, *workers: str) -> None:
        """Remove the announcements of these workers."""
        if workers:
            self._redis.hdel(WORKERS_KEY, *workers)


def parse_announcement(text: bytes) -> Announcement | None:
    """Read an announcement, without fields that only other versions know.

    Returns:
        None if a worker of another version wrote it in a form that this one cannot read.
    """
    try:
        return Announcement.model_validate_json(text, extra="ignore")
    except ValidationError:
        return None
