"""Calls that a client can repeat: `Idempotency-Key` on the call that creates a job.

The key gives the job its id, so the rename that puts the job's folder into the store is the one
step that decides: of all calls with a key, one makes the job, whatever crashes and whatever Redis
loses. What the client asked for is in the job's submission.

The id is a digest of the owner, the key, the day, and the identity of the store, which only the
service knows: nobody can work out the id of a job from its key. The day lets a key start anew; a
job of the day before counts for 24 hours.

A lease in Redis says that a call with a key is under way, so that a second one need not send its
video in vain. If Redis loses it, both go on, and the rename decides.

Keys:
    rollout:receiving:<digest of owner and key>    the call that is under way; expires
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

from redis import Redis
from redis.exceptions import RedisError
from redis.lock import Lock

from rollout_core.contract import JobOptions
from rollout_core.jobs.redis_records import redis_now
from rollout_core.jobs.store import ArtifactStore
from service.errors import IdempotencyInProgress, IdempotencyKeyReused

KEY_TIME = timedelta(hours=24)
"""A call with the same key gives the same job for this long."""

LEASE_SECONDS = 15.0
"""A process that is killed holds a key for this long."""

RENEW_SECONDS = 4.0


class Claim(NamedTuple):
    """What a call with a key has: the id of its job, and whether that job exists already."""

    job_id: str
    exists: bool


class Idempotency:
    """The idempotency keys of one store."""

    def __init__(self, redis: Redis, store: ArtifactStore) -> None:
        self._redis = redis
        self._store = store
        self._identity = store.identity()

    @asynccontextmanager
    async def claiming(self, key: str | None, owner: str | None) -> AsyncIterator[Claim | None]:
        """Hold a key while its call is under way; yield None if there is no key.

        Raises:
            IdempotencyInProgress: another call with this key is under way.
        """
        if key is None:
            yield None
            return
        claim = await asyncio.to_thread(self.find, key, owner)
        if claim.exists:
            yield claim
            return
        lease = self._lease(key, owner)
        if not await asyncio.to_thread(lease.acquire, blocking=False):
            raise IdempotencyInProgress("a call with this Idempotency-Key is still under way")
        renewing = asyncio.create_task(_renew(lease))
        try:
            # The call that held the key until now may have made the job.
            yield await asyncio.to_thread(self.find, key, owner)
        finally:
            renewing.cancel()
            await asyncio.shield(asyncio.to_thread(_release, lease))

    def find(self, key: str, owner: str | None) -> Claim:
        """Return the id of the job that has a key, or that will have it."""
        now = redis_now(self._redis)
        for day in (now, now - KEY_TIME):
            job_id = self._job_id(key, owner, day)
            ticket = self._store.ticket(job_id)
            if ticket is not None and (day == now or now - ticket.created_at < KEY_TIME):
                return Claim(job_id, exists=True)
        return Claim(self._job_id(key, owner, now), exists=False)

    def require_same(self, job_id: str, body_sha256: str | None) -> None:
        """Check that a job was made from this body.

        Raises:
            IdempotencyKeyReused: it was made from another one.
        """
        if self._store.submission(job_id).body_sha256 != body_sha256:
            raise IdempotencyKeyReused(f"job {job_id} has this Idempotency-Key, and another body")

    def _job_id(self, key: str, owner: str | None, day: datetime) -> str:
        return self._digest(key, owner, day.date().isoformat())

    def _lease(self, key: str, owner: str | None) -> Lock:
        name = f"rollout:receiving:{self._digest(key, owner)}"
        return Lock(self._redis, name, timeout=LEASE_SECONDS, thread_local=False)

    def _digest(self, *parts: str | None) -> str:
        return sha256(json.dumps([self._identity, *parts]).encode()).hexdigest()[:32]


def body_digest(options: JobOptions, video_sha256: str | None = None) -> str:
    """Return the digest of what a client asked for, as it was understood.

    Args:
        video_sha256: of the video that came with the call, if one did.
    """
    asked = options.model_dump(mode="json", exclude_defaults=True)
    return sha256(json.dumps([video_sha256, asked], sort_keys=True).encode()).hexdigest()


async def _renew(lease: Lock) -> None:
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        with suppress(RedisError):  # then the rename decides
            await asyncio.to_thread(lease.reacquire)


def _release(lease: Lock) -> None:
    with suppress(RedisError):  # then it expires, or has expired
        lease.release()
