"""Delivery of webhooks: notices the ends of jobs, and sends each event until it is accepted.

The files of `DeliveryStore` are the queue. Each API process remembers which of them are due; a
lease in Redis lets one process at a time send an event. A process that is killed between sending
an event and noting it lets its lease expire, and the event is sent again with the same id.
"""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Literal, TypeVar, TypeVarTuple, Unpack

import httpx2
from anyio import CapacityLimiter, to_thread
from redis import Redis
from redis.exceptions import RedisError

from rollout_core import logs, tracing
from rollout_core.jobs.redis_records import JobRecords
from rollout_core.jobs.schemas import DeliveryAttempt
from rollout_core.jobs.store import ArtifactStore
from service.delivery_store import DeliveryStore, StoredDelivery
from service.errors import JobNotFound, WebhookRefused
from service.faults import Faults
from service.jobs import Jobs
from service.outbound import AddressRefused, parse_url
from service.webhooks import SignedEvent, Webhooks

LOOK_SECONDS = 0.5
"""Time between two looks at what has ended and what is due."""

ATTEMPT_SECONDS = 15.0
"""An endpoint must answer within this time."""

LEASE_KEY = "rollout:webhook:"
LEASE_SECONDS = 30
"""Longer than an attempt, and than noting it."""

RETRY_SECONDS = (5, 30, 120, 600, 3600, 3 * 3600, 6 * 3600, 6 * 3600, 6 * 3600)
"""Waits after failed attempts: 10 attempts within a day."""

JITTER = 0.2
"""A wait is longer by up to this fraction, so that retries do not come together."""

LONGEST_RETRY_AFTER_SECONDS = 6 * 3600.0

AT_ONCE = 64
AT_ONCE_RETRIES = 32
AT_ONCE_PER_HOST = 4
AT_ONCE_PER_OWNER = 16

THREADS = 4

GONE = 410

Outcome = Literal["delivered", "to_retry", "given_up"]
"""What came of an attempt."""

OUTCOMES: Mapping[str, Outcome] = {
    "delivered": "delivered",
    "pending": "to_retry",
    "failed": "given_up",
}
"""By the state of the delivery after it."""

logger = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass
class _Item:
    """A pending delivery, as this process remembers it.

    Attributes:
        due_at: Unix seconds; None until the job has ended.
    """

    job_id: str
    host: str
    owner: str | None
    is_retry: bool
    due_at: float | None


@dataclass(frozen=True)
class _Answer:
    """What came of one attempt."""

    status: int | None = None
    error: str | None = None
    retry_after_seconds: float = 0.0


class Deliverer:
    """Sends the events of one store, beside other processes that do the same."""

    def __init__(
        self,
        redis: Redis,
        store: ArtifactStore,
        jobs: Jobs,
        webhooks: Webhooks,
        count: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        """Deliver what is pending in `store`.

        Args:
            count: called after each attempt with what came of it.
        """
        self._count = count
        self._redis = redis
        self._records = JobRecords(redis)
        self._store = store
        self._jobs = jobs
        self._deliveries = DeliveryStore(store)
        self._webhooks = webhooks
        self._faults = Faults(logger, store)
        self._items: dict[str, _Item] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._looking = CapacityLimiter(1)
        self._working = CapacityLimiter(THREADS)

    @property
    def pending(self) -> int:
        """How many webhooks of ended jobs are not delivered yet, as far as this process knows."""
        return sum(item.due_at is not None for item in list(self._items.values()))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver while the context lasts. What is being sent at its end is sent again later."""
        looking = asyncio.create_task(self._run())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            sending = list(self._sending.values())
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def _run(self) -> None:
        last = ""
        while True:
            try:
                self._start(await to_thread.run_sync(self._look, limiter=self._looking))
                last = ""
            except Exception as error:
                kind = f"{type(error).__name__}: {error}"
                if kind != last:
                    logger.warning("Webhooks wait, because they cannot be looked at: %s", kind)
                last = kind
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> list[_Item]:
        """Return the deliveries that are due: first attempts first, each kind oldest first."""
        self._compare_names()
        items = list(self._items.values())  # the event loop changes them meanwhile
        waiting = [item.job_id for item in items if item.due_at is None]
        records = self._records.get_many_raw(waiting)
        for job_id in waiting:
            if records[job_id] is None:  # it has ended, or was deleted, or Redis has lost it
                with self._faults.isolated(job_id, "has a webhook that cannot be looked at"):
                    if self._store.has_ended(job_id):
                        self._items[job_id].due_at = time.time()
        now = time.time()
        due = [item for item in items if item.due_at and item.due_at <= now]
        return sorted(due, key=lambda item: (item.is_retry, item.due_at))

    def _compare_names(self) -> None:
        """Forget the deliveries that are done, and remember the new ones."""
        names = set(self._deliveries.pending_ids())
        for job_id in self._items.keys() - names:
            self._items.pop(job_id, None)
        for job_id in names - self._items.keys():
            with self._faults.isolated(job_id, "has a webhook that cannot be read"):
                self._remember(job_id)

    def _remember(self, job_id: str) -> None:
        """Remember a delivery, if its job has been accepted."""
        delivery, ticket = self._deliveries.pending(job_id), self._store.ticket(job_id)
        if delivery and ticket:
            webhook = self._store.submission(job_id).webhook
            self._items[job_id] = _Item(
                job_id,
                host=_host(webhook.url) if webhook else "",
                owner=ticket.owner,
                is_retry=bool(delivery.attempts),
                due_at=_due_at(delivery),
            )

    def _start(self, due: Iterable[_Item]) -> None:
        """Start to send what is due, within the limits. The rest waits for the next look."""
        for item in due:
            if item.job_id in self._sending or not self._has_room(item):
                continue
            task = asyncio.create_task(self._deliver(item))
            self._sending[item.job_id] = task
            task.add_done_callback(partial(self._forget, item.job_id))

    def _forget(self, job_id: str, _task: asyncio.Task[None]) -> None:
        self._sending.pop(job_id, None)

    def _has_room(self, item: _Item) -> bool:
        items = [other for key in self._sending if (other := self._items.get(key))]
        return (
            len(self._sending) < AT_ONCE
            and not (item.is_retry and sum(i.is_retry for i in items) >= AT_ONCE_RETRIES)
            and sum(other.host == item.host for other in items) < AT_ONCE_PER_HOST
            and (
                item.owner is None
                or sum(other.owner == item.owner for other in items) < AT_ONCE_PER_OWNER
            )
        )

    async def _deliver(self, item: _Item) -> None:
        """Make one attempt, unless another process does. It has a task of its own."""
        logs.set_about(job_id=item.job_id, owner=item.owner)
        token = uuid.uuid4().hex
        item.due_at = time.time() + 2 * LOOK_SECONDS  # if it comes to nothing, look again then
        try:
            if not await self._in_thread(self._take_lease, item.job_id, token):
                return
            try:
                origin = await self._in_thread(self._store.origin, item.job_id)
                logs.set_about(request_id=origin.request_id)
                with tracing.span("webhook", parent=origin.traceparent):
                    await self._attempt(item)
            finally:
                await self._in_thread(self._release_lease, item.job_id, token)
        except (RedisError, OSError) as error:
            self._faults.report(item.job_id, "has a webhook that waits", error)
        except Exception:
            logger.exception("The webhook of job %s cannot be delivered now", item.job_id)
            item.due_at = time.time() + RETRY_SECONDS[1]

    async def _attempt(self, item: _Item) -> None:
        delivery = await self._in_thread(self._read_due, item)
        if delivery is None:
            return
        at, began = datetime.now(UTC), time.monotonic()
        try:
            request = await self._in_thread(self._make_request, item)
            if request is None:
                return
            answer = await self._send(*request)
        except WebhookRefused as error:
            answer = _Answer(error=str(error))
        attempt = DeliveryAttempt(
            at=at,
            status=answer.status,
            error=answer.error,
            duration_seconds=round(time.monotonic() - began, 3),
        )
        noted = after(delivery, attempt, answer.retry_after_seconds)
        await self._in_thread(self._deliveries.update, noted)
        tracing.annotate({"rollout.job_id": item.job_id, "rollout.state": noted.state})
        self._count(OUTCOMES[noted.state])
        if noted.state == "pending":
            item.due_at, item.is_retry = _due_at(noted), True
            return
        self._items.pop(item.job_id, None)
        if noted.state == "delivered":
            logger.info("The webhook was delivered at attempt %d", len(noted.attempts))
        else:
            why = answer.error or f"status {answer.status}"
            logger.warning("The webhook of job %s is given up: %s", item.job_id, why)

    def _read_due(self, item: _Item) -> StoredDelivery | None:
        """Return the delivery if it is still due: another process may have made an attempt."""
        delivery = self._deliveries.pending(item.job_id)
        if delivery is None:
            self._items.pop(item.job_id, None)
            return None
        due_at = _due_at(delivery)
        if due_at and due_at > time.time():
            item.due_at, item.is_retry = due_at, True
            return None
        return delivery

    def _make_request(self, item: _Item) -> tuple[str, SignedEvent] | None:
        """Return a URL and the event for it; None, and forget it, if the client wants none.

        Raises:
            WebhookRefused: it must not be sent at present.
        """
        job_id = item.job_id
        with suppress(JobNotFound):
            job = self._jobs.get(job_id, owner=item.owner)
            webhook = self._store.submission(job_id).webhook
            if webhook and f"job.{job.state}" in webhook.events:
                self._webhooks.check_url(webhook.url)
                return webhook.url, self._webhooks.sign(job, item.owner)
        self._deliveries.delete(job_id)
        return None

    async def _send(self, url: str, event: SignedEvent) -> _Answer:
        try:
            async with (
                asyncio.timeout(ATTEMPT_SECONDS),
                self._webhooks.outbound.stream(
                    "POST", url, headers=event.headers, content=event.body
                ) as response,
            ):
                return _Answer(
                    response.status_code,
                    retry_after_seconds=_seconds(response.headers.get("retry-after", "")),
                )
        except AddressRefused as error:
            return _Answer(error=str(error))
        except (TimeoutError, httpx2.TimeoutException):
            return _Answer(error=f"no answer within {ATTEMPT_SECONDS:g} s")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            return _Answer(error=f"{type(error).__name__}: {error}"[:200])

    async def _in_thread(self, call: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        return await to_thread.run_sync(call, *args, limiter=self._working)

    def _take_lease(self, job_id: str, token: str) -> bool:
        return bool(self._redis.set(LEASE_KEY + job_id, token, nx=True, ex=LEASE_SECONDS))

    def _release_lease(self, job_id: str, token: str) -> None:
        with suppress(RedisError):  # then it expires
            if self._redis.get(LEASE_KEY + job_id) == token.encode():
                self._redis.delete(LEASE_KEY + job_id)


def after(
    delivery: StoredDelivery, attempt: DeliveryAttempt, retry_after_seconds: float = 0.0
) -> StoredDelivery:
    """Return a delivery after one more attempt: delivered, given up, or to be tried again."""
    made = {"attempts": (*delivery.attempts, attempt), "next_attempt_at": None}
    if attempt.status is not None and 200 <= attempt.status < 300:
        return delivery.model_copy(update={**made, "state": "delivered"})
    number = len(delivery.attempts)
    if attempt.status == GONE or number >= len(RETRY_SECONDS):
        return delivery.model_copy(update={**made, "state": "failed"})
    wait = max(RETRY_SECONDS[number], min(retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS))
    wait *= 1 + random.uniform(0, JITTER)  # noqa: S311, it protects nothing
    next_at = attempt.at + timedelta(seconds=wait + attempt.duration_seconds)
    return delivery.model_copy(update={**made, "next_attempt_at": next_at})


def _due_at(delivery: StoredDelivery) -> float | None:
    """Return when the next attempt is due, in Unix seconds; None if that is not known."""
    next_at = delivery.next_attempt_at
    return next_at.timestamp() if next_at else None


def _host(url: str) -> str:
    try:
        return parse_url(url).host
    except AddressRefused:
        return ""


def _seconds(retry_after: str) -> float:
    """Return the seconds of a Retry-After header, 0 if it has none."""
    with suppress(ValueError, TypeError):  # TypeError: a date without a zone
        if retry_after.isdecimal():
            return float(retry_after)
        return (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
    return 0.0
