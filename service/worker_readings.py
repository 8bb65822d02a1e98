"""What live workers announce, as samples of metrics. A worker that is gone has no samples."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

from rollout_core.jobs.counters import CHILDREN, STAGES, WorkerCounters
from rollout_core.jobs.redis_records import Announcement, Gpu
from service.metric_table import Families

STATES = ("ready", "loading", "paused", "stopping")
"""States of a worker."""

ENDED = ("succeeded", "failed", "canceled")

OTHER = "other"
"""Stands for all values of a label that this release does not know."""


def add_workers(families: Families, announced: Mapping[str, Announcement], now: datetime) -> None:
    """Add samples of the workers that are alive at `now`, by Redis' clock."""
    live = {name: item for name, item in announced.items() if item.is_live(now)}
    states = Counter((item.model.name, state_of(item)) for item in live.values())
    for model in sorted({item.model.name for item in announced.values()}):
        for state in STATES:
            families.add("rollout_workers", states[model, state], model, state)
    for name, item in sorted(live.items()):
        _add_info(families, name, item)
        if item.counters is not None:
            _add_counters(families, item.counters, item.model.name, name)
    _add_gpus(families, live.values())


def state_of(item: Announcement) -> str:
    """Return the state of a live worker, one of `STATES`."""
    if item.stopping:
        return "stopping"
    if item.waiting_for is not None:
        return "paused"
    return "ready" if item.ready else "loading"


def _add_info(families: Families, worker: str, item: Announcement) -> None:
    gpu = item.gpu.uuid if item.gpu else ""
    values = (item.model.name, worker, item.engine, item.device, item.precision or "", gpu)
    families.add("rollout_worker_info", 1, *values)


def _add_counters(families: Families, counters: WorkerCounters, model: str, worker: str) -> None:
    labels = (model, worker)
    families.add("rollout_worker_attempts_total", counters.attempts, *labels)
    families.add("rollout_worker_clips_total", counters.clips, *labels)
    families.add("rollout_worker_explain_seconds_total", counters.explain_seconds, *labels)
    families.add("rollout_worker_engine_busy_seconds_total", counters.engine_seconds, *labels)
    for state, count in _known(counters.jobs, ENDED).items():
        families.add("rollout_worker_jobs_total", count, *labels, state)
    for child, count in _known(counters.restarts, CHILDREN).items():
        families.add("rollout_worker_child_restarts_total", count, *labels, child)
    attempts = _known({name: stage.attempts for name, stage in counters.stages.items()}, STAGES)
    seconds = _known({name: stage.seconds for name, stage in counters.stages.items()}, STAGES)
    for stage, count in attempts.items():
        values = (int(count), seconds[stage])
        families.add_summary("rollout_worker_stage_seconds", *values, *labels, stage)


def _known(counts: Mapping[str, float], names: tuple[str, ...]) -> dict[str, float]:
    """Return a count for each of these names, 0 without one, and the sum of others as `OTHER`."""
    known = {name: counts.get(name, 0) for name in names}
    others = sum(count for name, count in counts.items() if name not in known)
    return known | ({OTHER: others} if others else {})


def _add_gpus(families: Families, live: Iterable[Announcement]) -> None:
    """Add each GPU once: of several workers on one, the latest heartbeat counts."""
    latest: dict[str, Gpu] = {}
    for item in sorted(live, key=lambda item: item.beat_at):
        if item.gpu is not None:
            latest[item.gpu.uuid] = item.gpu
    for gpu in latest.values():
        families.add("rollout_gpu_memory_used_bytes", gpu.memory_used_bytes, gpu.uuid, gpu.name)
        families.add("rollout_gpu_memory_size_bytes", gpu.memory_total_bytes, gpu.uuid, gpu.name)
