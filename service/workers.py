"""The workers, as they announce themselves in Redis."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from statistics import fmean
from typing import Literal

from redis import Redis

from rollout_core.errors import UnknownModel
from rollout_core.jobs.redis_records import (
    KNOWN_SECONDS,
    Announcement,
    Announcements,
    parse_announcement,
)
from rollout_core.model.specs import ModelSpec
from service.schemas import ServedModel

UNMEASURED_SECONDS_PER_JOB = 1.0
"""Assumed time of a job as long as no worker has finished one."""


class Workers:
    """The models that workers serve, read from Redis at every call."""

    def __init__(
        self, redis: Redis, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._announcements = Announcements(redis)
        self._clock = clock

    def served(self) -> tuple[ServedModel, ...]:
        """Return the models that live workers serve now, by name."""
        now = self._clock()
        by_model: dict[str, list[Announcement]] = defaultdict(list)
        for announcement in self._known():
            if announcement.is_live(now):
                by_model[announcement.model.name].append(announcement)
        return tuple(_describe(by_model[name]) for name in sorted(by_model))

    def ready(self) -> dict[str, int]:
        """Return the number of ready live workers for each known model."""
        now = self._clock()
        ready: dict[str, int] = defaultdict(int)
        for announcement in self._known():
            ready[announcement.model.name] += announcement.ready and announcement.is_live(now)
        return dict(ready)

    def names(self) -> tuple[str, ...]:
        """Return the names of the known models."""
        return tuple(sorted({item.model.name for item in self._known()}))

    def choose(self, name: str | None, *, default: str | None = None) -> ModelSpec:
        """Return the model `name`; if None, return `default` or the only known model.

        Raises:
            UnknownModel: the model is not known, or several are and none is named.
        """
        known = {item.model.name: item.model for item in self._known()}
        names = ", ".join(sorted(known))
        if not known:
            raise UnknownModel("no worker has announced a model yet")
        chosen = name or default
        if chosen is None and len(known) == 1:
            (chosen,) = known
        if chosen is None:
            raise UnknownModel(f"name one of these models: {names}")
        if chosen not in known:
            raise UnknownModel(f"{chosen!r} is not known; known: {names}")
        return known[chosen]

    def wait_seconds(self, model: str, jobs: int) -> int:
        """Return the seconds that the model's live workers need for `jobs` jobs, at least 1."""
        for served in self.served():
            if served.name == model:
                seconds_per_job = served.seconds_per_job or UNMEASURED_SECONDS_PER_JOB
                return max(1, math.ceil(jobs * seconds_per_job / served.workers))
        return max(1, math.ceil(jobs * UNMEASURED_SECONDS_PER_JOB))

    def forget_stale(self) -> None:
        """Remove the announcements that no longer make a model known.

        Of the dead workers of a model, the latest is enough. A worker that crashes at every start
        leaves thousands of announcements a day, and each would be read with every job.
        """
        now = self._clock()
        parsed = {
            worker: parse_announcement(text)
            for worker, text in self._announcements.read_raw().items()
        }
        latest = {item.model.name: item for item in self._sort_known(parsed.values())}
        stale = [
            worker
            for worker, item in parsed.items()
            if item is None or (not item.is_live(now) and item != latest.get(item.model.name))
        ]
        self._announcements.remove(*stale)

    def _known(self) -> list[Announcement]:
        """Return the announcements that make a model known, latest heartbeat last."""
        return self._sort_known(self._announcements.read().values())

    def _sort_known(self, announcements: Iterable[Announcement | None]) -> list[Announcement]:
        now = self._clock()
        known = (item for item in announcements if item and item.age_seconds(now) <= KNOWN_SECONDS)
        return sorted(known, key=lambda item: item.beat_at)


def _describe(announcements: list[Announcement]) -> ServedModel:
    """Summarize the workers of one model. Where they differ, the latest heartbeat counts."""
    latest = announcements[-1]
    measured = [item.seconds_per_job for item in announcements if item.seconds_per_job]
    return ServedModel(
        name=latest.model.name,
        spec=latest.model,
        checkpoint_sha256=latest.checkpoint_sha256,
        engines=tuple(sorted({item.engine for item in announcements})),
        devices=tuple(sorted({item.device for item in announcements})),
        workers=len(announcements),
        ready=sum(item.ready for item in announcements),
        waiting_for=_waiting_for(announcements),
        seconds_per_job=fmean(measured) if measured else None,
    )


def _waiting_for(announcements: list[Announcement]) -> Literal["store"] | None:
    """Return what keeps all workers of a model from being ready, as far as they say it."""
    if any(item.ready for item in announcements):
        return None
    return next((item.waiting_for for item in announcements if item.waiting_for), None)
