"""What this API process counts for its metrics: requests, and attempts to deliver webhooks."""

import math
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from threading import Lock

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from redis.exceptions import RedisError

from rollout_core.errors import RolloutError
from service.metric_table import DEFINITIONS

PATIENCE_SECONDS = 1.0
"""A scrape waits for an earlier one that reads the same for this long."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Upper ends of the ranges of the histogram. Uploads and followed jobs last longer than calls."""

WEBHOOK_OUTCOMES = ("delivered", "to_retry", "given_up")

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The counts of one app, and the registry that a scrape reads.

    Others add to the registry what they read at each scrape; see `service.metric_readings`.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("rollout_http_requests_total")
        self._webhooks = self._counter("rollout_webhook_attempts_total")
        for outcome in WEBHOOK_OUTCOMES:
            self._webhooks.labels(outcome)  # 0 at first, so that the first one is an increase
        build = DEFINITIONS["rollout_build_info"]
        gauge = Gauge(build.name, build.text, build.labels, registry=self.registry)
        gauge.labels(version("timesformer-rollout")).set(1)
        seconds = DEFINITIONS["rollout_http_request_seconds"]
        self._seconds = Histogram(
            seconds.name, seconds.text, seconds.labels, registry=self.registry, buckets=SECONDS
        )

    def count_request(self, method: str, route: str, status: str, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(method, route).observe(seconds)

    def count_webhook(self, outcome: str) -> None:
        """Count an attempt to deliver a webhook."""
        self._webhooks.labels(outcome).inc()

    def watch(self, name: str, read: Callable[[], float], *, without: float = math.nan) -> None:
        """Let a function tell the value of a gauge at each scrape.

        Args:
            without: value if the function fails.
        """
        gauge = Gauge(name, DEFINITIONS[name].text, registry=self.registry)
        gauge.set_function(partial(_read, Lock(), read, without))

    def _counter(self, name: str) -> Counter:
        definition = DEFINITIONS[name]
        return Counter(name, definition.text, definition.labels, registry=self.registry)


def _read(reading: Lock, read: Callable[[], float], without: float) -> float:
    """Return what `read` tells, or `without` if it fails or an earlier call hangs."""
    if not reading.acquire(timeout=PATIENCE_SECONDS):
        return without
    try:
        return read()
    except (OSError, RedisError, RolloutError):
        return without
    finally:
        reading.release()
