"""Reads at each scrape what Redis and the workers tell, which is the same in each API process.

A scrape costs a few calls to Redis, and one more for each model. It reads the ids of the jobs that
wait, of which a model has at most `max_queued`; it never walks the store.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from rollout_core.jobs.redis_records import (
    KNOWN_SECONDS,
    Announcement,
    Announcements,
    places_waiting,
)
from service.inventory import Inventory
from service.ledger import Ledger
from service.metric_table import READ_AT_SCRAPE, Families
from service.redis_jobs import RedisJobs
from service.worker_readings import ENDED, add_workers


class Readings(Collector):
    """The readings from one Redis. Metrics without a reading have no samples."""

    def __init__(self, redis: Redis, inventory: Inventory, ledger: Ledger) -> None:
        self._redis = redis
        self._redis_jobs = RedisJobs(redis)
        self._announcements = Announcements(redis)
        self._inventory = inventory
        self._ledger = ledger

    def collect(self) -> Iterable[Metric]:
        """Return all metrics; those that Redis does not tell have no samples."""
        families = Families(READ_AT_SCRAPE)
        self._add_ended(families)
        with suppress(RedisError):  # then `rollout_ready` is 0
            now, announced = self._redis_jobs.now(), self._announcements.read()
            add_workers(families, announced, now)
            families.add("rollout_workers_without_gpu", len(places_waiting(self._redis)))
            for model in self._models(announced, now):
                self._add_queue(families, model, now)
            self._add_store(families)
        return families

    def _models(self, announced: Mapping[str, Announcement], now: datetime) -> list[str]:
        """Return the models of workers of the last day, and of jobs that have not ended."""
        known = {
            item.model.name
            for item in announced.values()
            if abs(item.age_seconds(now)) <= KNOWN_SECONDS
        }
        return sorted(known | {ticket.model for ticket in self._inventory.open.values()})

    def _add_queue(self, families: Families, model: str, now: datetime) -> None:
        line = self._redis_jobs.line(model)
        families.add("rollout_jobs", len(line.waiting), model, "queued")
        families.add("rollout_jobs", len(line.taken), model, "running")
        tickets = self._inventory.open  # a job that is not there is new
        accepted = [tickets[job_id].created_at for job_id in line.waiting if job_id in tickets]
        oldest = max(0.0, (now - min(accepted)).total_seconds()) if accepted else 0.0
        families.add("rollout_queue_oldest_seconds", oldest, model)

    def _add_ended(self, families: Families) -> None:
        """Add the ended jobs, as the store was last counted."""
        for (model, state), count in self._inventory.counts().items():
            if model is not None and state in ENDED:
                families.add("rollout_jobs", count, model, state)

    def _add_store(self, families: Families) -> None:
        held = self._ledger.held()
        families.add("rollout_store_bytes", held.shared - held.pending)
        families.add("rollout_store_reserved_bytes", held.pending)
