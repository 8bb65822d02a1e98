"""What the metrics of an app are read from, put together."""

from dataclasses import dataclass

from redis import Redis

from rollout_core.jobs.store import ArtifactStore
from service.deliveries import Deliverer
from service.inventory import Inventory
from service.jobs import Jobs
from service.ledger import Ledger
from service.metric_readings import Readings
from service.metrics import Metrics
from service.readiness import check_ready


@dataclass(frozen=True)
class MetricSources:
    """All that a scrape reads, besides what `Metrics` has counted.

    Attributes:
        redis: a client of its own that gives up soon; Prometheus waits for 10 s.
    """

    redis: Redis
    store: ArtifactStore
    jobs: Jobs
    inventory: Inventory
    deliverer: Deliverer
    max_store_bytes: int | None

    def add_to(self, metrics: Metrics) -> None:
        """Let each scrape read from here."""
        metrics.registry.register(Readings(self.redis, self.inventory, Ledger(self.redis)))
        metrics.watch("rollout_ready", self._is_ready, without=0)
        metrics.watch("rollout_uploads_in_flight", lambda: self.jobs.uploads_in_flight)
        metrics.watch("rollout_webhooks_pending", lambda: self.deliverer.pending)
        metrics.watch("rollout_store_disk_free_bytes", self.store.free_bytes)
        metrics.watch("rollout_store_disk_size_bytes", self._disk_size)
        if (limit := self.max_store_bytes) is not None:
            metrics.watch("rollout_store_limit_bytes", lambda: limit)

    def _is_ready(self) -> float:
        """Return 1 if jobs are accepted; raise as `check_ready`, but soon if Redis hangs."""
        self.redis.ping()
        check_ready(self.store, self.jobs)
        return 1

    def _disk_size(self) -> float:
        return self.store.total_bytes()
