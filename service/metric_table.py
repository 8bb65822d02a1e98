"""All metrics of the service, by name: kind, labels, and what each one tells.

No label names an owner, a job or a path of a request: their values are few.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)

Kind = Literal["gauge", "counter", "summary", "histogram"]

PER_WORKER = ("model", "worker")


@dataclass(frozen=True)
class Definition:
    """One metric.

    Attributes:
        shared: every API process tells the same value, so the largest counts, never the sum.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    shared: bool = True

    @property
    def text(self) -> str:
        """The text of its `# HELP` line."""
        return f"{self.help} Each API process tells the same." if self.shared else self.help


SHARED = (
    Definition(
        "rollout_jobs",
        "gauge",
        ("model", "state"),
        "Jobs by state: queued and running now, ended ones that are stored.",
    ),
    Definition(
        "rollout_queue_oldest_seconds",
        "gauge",
        ("model",),
        "Seconds since the oldest waiting job was accepted, 0 without one.",
    ),
    Definition("rollout_workers", "gauge", ("model", "state"), "Live workers by state."),
    Definition(
        "rollout_workers_without_gpu", "gauge", (), "Live workers that wait for a free GPU."
    ),
    Definition(
        "rollout_worker_info",
        "gauge",
        (*PER_WORKER, "engine", "device", "precision", "gpu"),
        "1 for each live worker.",
    ),
    Definition(
        "rollout_worker_attempts_total", "counter", PER_WORKER, "Attempts that a worker has begun."
    ),
    Definition(
        "rollout_worker_jobs_total",
        "counter",
        (*PER_WORKER, "state"),
        "Jobs that a worker has ended, by state.",
    ),
    Definition(
        "rollout_worker_child_restarts_total",
        "counter",
        (*PER_WORKER, "child"),
        "Children of a worker that broke or were killed, and were replaced.",
    ),
    Definition(
        "rollout_worker_stage_seconds",
        "summary",
        (*PER_WORKER, "stage"),
        "Seconds that attempts spent in a stage.",
    ),
    Definition(
        "rollout_worker_clips_total", "counter", PER_WORKER, "Clips that an engine has explained."
    ),
    Definition(
        "rollout_worker_explain_seconds_total",
        "counter",
        PER_WORKER,
        "Seconds in which an engine explained clips.",
    ),
    Definition(
        "rollout_worker_engine_busy_seconds_total",
        "counter",
        PER_WORKER,
        "Seconds in which an engine computed.",
    ),
    Definition("rollout_gpu_memory_used_bytes", "gauge", ("gpu", "name"), "Used memory of a GPU."),
    Definition("rollout_gpu_memory_size_bytes", "gauge", ("gpu", "name"), "Memory of a GPU."),
    Definition("rollout_store_bytes", "gauge", (), "Bytes that jobs and uploads take."),
    Definition(
        "rollout_store_reserved_bytes",
        "gauge",
        (),
        "Bytes reserved for uploads and results that are not written yet.",
    ),
    Definition(
        "rollout_store_limit_bytes",
        "gauge",
        (),
        "ROLLOUT_MAX_STORE_BYTES: most bytes taken and reserved. Absent without a limit.",
    ),
    Definition("rollout_store_disk_free_bytes", "gauge", (), "Free bytes of the store's disk."),
    Definition("rollout_store_disk_size_bytes", "gauge", (), "Size of the store's disk."),
    Definition(
        "rollout_webhooks_pending",
        "gauge",
        (),
        "Webhooks of ended jobs that are not delivered yet.",
    ),
)
"""What the service reads from Redis, from the store and from what workers announce."""

OWN = (
    Definition("rollout_build_info", "gauge", ("version",), "1 for this API process.", False),
    Definition(
        "rollout_ready", "gauge", (), "1 if this API process accepts jobs, as /readyz.", False
    ),
    Definition(
        "rollout_uploads_in_flight", "gauge", (), "Uploads that this API process receives.", False
    ),
    Definition(
        "rollout_webhook_attempts_total",
        "counter",
        ("outcome",),
        "Attempts of this API process to deliver a webhook.",
        False,
    ),
    Definition(
        "rollout_http_requests_total",
        "counter",
        ("method", "route", "status"),
        "Requests that this API process has answered.",
        False,
    ),
    Definition(
        "rollout_http_request_seconds",
        "histogram",
        ("method", "route"),
        "Seconds from a request's head to the end of its answer.",
        False,
    ),
)
"""What each API process counts for itself."""

WATCHED = (
    "rollout_store_disk_free_bytes",
    "rollout_store_disk_size_bytes",
    "rollout_store_limit_bytes",
    "rollout_webhooks_pending",
)
"""Those of `SHARED` that are not in Redis: a function tells each of them."""

READ_AT_SCRAPE = tuple(each.name for each in SHARED if each.name not in WATCHED)

DEFINITIONS = {each.name: each for each in (*SHARED, *OWN)}


class Families:
    """The samples of one scrape, by metric. Each metric of `names` is there, even without one."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._families = {name: _family(DEFINITIONS[name]) for name in names}

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())

    def add(self, name: str, value: float, *labels: str) -> None:
        """Add a sample of a gauge or a counter."""
        family = self._families[name]
        assert isinstance(family, GaugeMetricFamily | CounterMetricFamily)
        family.add_metric(labels, value)

    def add_summary(self, name: str, count: int, total: float, *labels: str) -> None:
        """Add a sample of a summary: how many, and their sum."""
        family = self._families[name]
        assert isinstance(family, SummaryMetricFamily)
        family.add_metric(labels, count, total)


def _family(definition: Definition) -> Metric:
    name, text, labels = definition.name, definition.text, definition.labels
    if definition.kind == "counter":
        return CounterMetricFamily(name, text, labels=labels)
    if definition.kind == "summary":
        return SummaryMetricFamily(name, text, labels=labels)
    return GaugeMetricFamily(name, text, labels=labels)
