"""The workers, as they announce themselves in Redis."""

import math
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import fmean
from typing import cast

from pydantic import ValidationError
from redis import Redis

from rollout_core.errors import UnknownModel
from rollout_core.jobs.redis_records import KNOWN_SECONDS, LIVE_SECONDS, WORKERS_KEY, Announcement
from rollout_core.model.specs import ModelSpec
from service.schemas import ServedModel

UNMEASURED_SECONDS_PER_JOB = 1.0
"""Taken where no worker has finished a job yet."""


class Workers:
    """Reads the announcements; nothing is kept between calls."""

    def __init__(
        self, redis: Redis, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._redis = redis
        self._clock = clock

    def served(self) -> tuple[ServedModel, ...]:
        """Return the models that live workers serve now, by name."""
        by_model: dict[str, list[Announcement]] = defaultdict(list)
        for announcement in self._heard_within(LIVE_SECONDS):
            by_model[announcement.model.name].append(announcement)
        return tuple(_describe(by_model[name]) for name in sorted(by_model))

    def ready(self) -> dict[str, int]:
        """Return how many workers are ready for each model that is known."""
        known = {item.model.name: 0 for item in self._heard_within(KNOWN_SECONDS)}
        return known | {model.name: model.ready for model in self.served()}

    def choose(self, name: str | None, *, default: str | None = None) -> ModelSpec:
        """Return the model to use where `name` is asked for: `default` or the only one if None.

        Raises:
            UnknownModel: nobody has announced it, or several are known and none is named.
        """
        known = {item.model.name: item.model for item in self._heard_within(KNOWN_SECONDS)}
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
        """Return how long the model's live workers will take for so many jobs, at least 1."""
        for served in self.served():
            if served.name == model:
                seconds_per_job = served.seconds_per_job or UNMEASURED_SECONDS_PER_JOB
                return max(1, math.ceil(jobs * seconds_per_job / served.workers))
        return max(1, math.ceil(jobs * UNMEASURED_SECONDS_PER_JOB))

    def forget_stale(self) -> None:
        """Remove the announcements that no longer make a model known.

        Of dead workers the latest does. Others are left by a worker that is restarted time and
        again, thousands a day, and each would be read whenever a job is looked up.
        """
        latest = {item.model.name: item for item in self._heard_within(KNOWN_SECONDS)}
        for name, text in self._texts().items():
            item = _parse(text)
            if item is None or (
                self._age_seconds(item) > LIVE_SECONDS and item != latest.get(item.model.name)
            ):
                self._redis.hdel(WORKERS_KEY, name)

    def _heard_within(self, seconds: float) -> list[Announcement]:
        """Return the announcements that are so young, the latest beat last."""
        parsed = (_parse(text) for text in self._texts().values())
        young = (item for item in parsed if item and self._age_seconds(item) <= seconds)
        return sorted(young, key=lambda item: item.beat_at)

    def _texts(self) -> dict[bytes, bytes]:
        return cast(dict[bytes, bytes], self._redis.hgetall(WORKERS_KEY))

    def _age_seconds(self, announcement: Announcement) -> float:
        return (self._clock() - announcement.beat_at).total_seconds()


def _describe(announcements: list[Announcement]) -> ServedModel:
    """Sum up the workers of one model; where they differ, the latest beat speaks for it."""
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
        seconds_per_job=fmean(measured) if measured else None,
    )


def _parse(text: bytes) -> Announcement | None:
    """Read an announcement; None if a worker of another version wrote what we cannot read."""
    try:
        return Announcement.model_validate_json(text)
    except ValidationError:
        return None
