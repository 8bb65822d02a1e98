"""The workers, as they announce themselves in Redis.

Redis' clock decides which of them are alive.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cached_property
from statistics import fmean
from threading import Lock
from typing import Literal, NoReturn, cast

from redis import Redis

from rollout_core.errors import UnknownModel
from rollout_core.jobs.redis_records import (
    KNOWN_SECONDS,
    Announcement,
    Announcements,
    parse_announcement,
    redis_now,
)
from rollout_core.jobs.schemas import ServedModel, WaitingFor
from rollout_core.model.specs import ModelSpec
from rollout_core.suggestions import suggest
from service.errors import CheckpointsDiffer, ModelUnavailable

UNMEASURED_SECONDS_PER_JOB = 1.0
"""Assumed time of a job as long as no worker has finished one."""

YOUNG_SECONDS = 15.0
"""In a Redis that was started less than this ago, workers may not have announced themselves yet."""


READ_SHARE = 0.1
"""Most of the processor time of a core that is spent on reading the announcements. With few workers
each call reads them; with a thousand, calls within a tenth of a second share a reading."""

MAX_KEPT_SECONDS = 0.5
"""A reading is shared for no longer than this, however long it took."""


class Reading:
    """The announcements that make a model known, as they were at one moment.

    Attributes:
        now: the moment, by Redis' clock.
        known: the announcements, latest last.
        read_at: the moment, by `time.monotonic`.
        keep_seconds: for which calls share it.
    """

    def __init__(self, now: datetime, known: list[Announcement]) -> None:
        self.now = now
        self.known = known
        self.read_at = self.keep_seconds = 0.0

    @cached_property
    def by_model(self) -> dict[str, list[Announcement]]:
        """The announcements of each model."""
        return _by_model(self.known)

    @cached_property
    def live(self) -> dict[str, list[Announcement]]:
        """Those of live workers, by model."""
        return _by_model(item for item in self.known if item.is_live(self.now))

    @cached_property
    def served(self) -> tuple[ServedModel, ...]:
        """The models that live workers serve, by name."""
        return tuple(_describe(self.live[name]) for name in sorted(self.live))

    @cached_property
    def waits(self) -> dict[str, WaitingFor]:
        """What a queued job waits for, for each model with live workers."""
        return {
            name: "turn" if any(item.ready for item in live) else _waiting_for(live) or "worker"
            for name, live in self.live.items()
        }


class Workers:
    """The models that workers serve, read from Redis at a call; see `READ_SHARE`."""

    def __init__(self, redis: Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Use `redis`; `clock` tells the seconds for which this process remembers a model."""
        self._redis = redis
        self._announcements = Announcements(redis)
        self._clock = clock
        self._remembered_until: dict[str, float] = {}
        self._reading = Lock()
        self._kept: Reading | None = None

    def served(self) -> tuple[ServedModel, ...]:
        """Return the models that live workers serve now, by name."""
        return self._read().served

    def ready(self) -> dict[str, int]:
        """Return the number of ready live workers for each known model."""
        read = self._read()
        return {name: sum(item.ready for item in read.live.get(name, ())) for name in read.by_model}

    def names(self) -> tuple[str, ...]:
        """Return the names of the known models."""
        return tuple(sorted(self._read().by_model))

    def waits(self) -> dict[str, WaitingFor]:
        """Return what a queued job waits for, for each model with live workers."""
        return self._read().waits

    def choose(
        self,
        name: str | None,
        *,
        default: str | None = None,
        is_expected: Callable[[str], bool] = lambda _: False,
    ) -> ModelSpec:
        """Return the model `name`.

        If `name` is None, return `default`, or the only model of live workers, or the only one
        that is known.

        Args:
            is_expected: returns whether a worker of a model that is not known must come back.

        Raises:
            UnknownModel: the model is not known, or several are and none is named.
            ModelUnavailable: no model is known yet, or this one was, or it is the default, or
                Redis was started less than `YOUNG_SECONDS` ago.
            CheckpointsDiffer: live workers serve different checkpoints of it.
        """
        read = self._read()
        by_model = read.by_model
        if not by_model:
            raise ModelUnavailable("no worker has announced a model yet")
        chosen = name or default or _only(read.live) or _only(by_model)
        if chosen is None:
            raise UnknownModel(
                f"name one of these models: {', '.join(sorted(by_model))}", field="model"
            )
        if chosen not in by_model:
            was_known = self._remembered_until.get(chosen, 0) > self._clock()
            is_passing = was_known or name is None or is_expected(chosen)
            is_passing = is_passing or self._uptime_seconds() < YOUNG_SECONDS
            _raise_unknown(chosen, sorted(by_model), is_passing=is_passing)
        live = read.live.get(chosen, [])
        if any(item.name == chosen and item.checkpoints_differ for item in read.served):
            raise CheckpointsDiffer(
                f"workers serve different checkpoints as {chosen!r}; see /v1/models"
            )
        takes_jobs = [item for item in live if item.takes_jobs]
        return (takes_jobs or live or by_model[chosen])[-1].model

    def checkpoint(self, model: str) -> str | None:
        """Return the digest of the checkpoint that all live workers of a model serve, if one is."""
        digests = {item.checkpoint_sha256 for item in self._read().live.get(model, ())}
        return digests.pop() if len(digests) == 1 else None

    def runs_fake(self, model: str) -> bool:
        """Return whether every worker of a known model has the fake engine."""
        return all(item.engine == "fake" for item in self._read().by_model.get(model, ()))

    def pace(self, model: str) -> tuple[float, int]:
        """Return the seconds that a job of a model takes, and the number of its workers.

        The workers are those that are ready; if none is, those that are alive, and at least 1.
        """
        for served in self.served():
            if served.name == model:
                seconds = served.seconds_per_job or UNMEASURED_SECONDS_PER_JOB
                return seconds, served.ready or served.workers
        return UNMEASURED_SECONDS_PER_JOB, 1

    def wait_seconds(self, model: str, jobs: int) -> int:
        """Return the seconds that the model's workers need for `jobs` jobs, at least 1."""
        seconds, workers = self.pace(model)
        return max(1, math.ceil(jobs * seconds / workers))

    def seconds_until_end(self, model: str, position: int, running: int) -> float:
        """Return the seconds after which a waiting job will have ended.

        It starts when enough of the jobs before it have ended. Those that run have half of their
        time left, on average.

        Args:
            position: of the job in its queue, 1 being next.
            running: jobs of the model that run.
        """
        seconds, workers = self.pace(model)
        must_end = position + running - workers
        if must_end <= 0:
            return seconds
        return seconds + (must_end - 0.5 * min(1, running / workers)) * seconds / workers

    def are_absent(self, model: str, seconds: float) -> bool:
        """Return whether no worker of a model has announced itself for `seconds`.

        A Redis that was started later may have lost what they announced.
        """
        uptime = self._uptime_seconds()
        read = self._read()
        ages = [item.age_seconds(read.now) for item in read.by_model.get(model, ())]
        return min([uptime, *ages]) >= seconds

    def forget_stale(self) -> None:
        """Remove the announcements that no longer make a model known.

        Of the dead workers of a model, the latest is enough. A worker that crashes at every start
        leaves thousands of announcements a day, and each would be read with every job.
        """
        now = redis_now(self._redis)
        parsed = {
            worker: parse_announcement(text)
            for worker, text in self._announcements.read_raw().items()
        }
        latest = {item.model.name: item for item in _sort_known(parsed.values(), now)}
        stale = [
            worker
            for worker, item in parsed.items()
            if item is None or (not item.is_live(now) and item != latest.get(item.model.name))
        ]
        self._announcements.remove(*stale)

    def _uptime_seconds(self) -> float:
        """Return for how long Redis has been running."""
        return cast("dict[str, int]", self._redis.info("server"))["uptime_in_seconds"]

    def _read(self) -> Reading:
        """Return the announcements, read now or so recently that it costs less; see `READ_SHARE`.

        While one thread reads them, others use the last reading for as long again.
        """
        began, kept = time.monotonic(), self._kept
        if kept and began < kept.read_at + kept.keep_seconds:
            return kept
        is_reader = self._reading.acquire(blocking=False)
        try:
            if kept and not is_reader and began < kept.read_at + 2 * kept.keep_seconds:
                return kept
            spent = time.thread_time()
            read = self._read_now()
            read.read_at = began
            read.keep_seconds = min(MAX_KEPT_SECONDS, (time.thread_time() - spent) / READ_SHARE)
            self._kept = read
        finally:
            if is_reader:
                self._reading.release()
        return read

    def _read_now(self) -> Reading:
        """Return the announcements as they are in Redis.

        Remember their models: Redis may lose its data.
        """
        announcements = self._announcements.read().values()
        now = redis_now(self._redis)
        known = _sort_known(announcements, now)
        for item in known:
            left = KNOWN_SECONDS - abs(item.age_seconds(now))
            self._remembered_until[item.model.name] = self._clock() + left
        return Reading(now, known)


def differ(announcements: Iterable[Announcement]) -> bool:
    """Return whether these workers of one model do not all serve the same."""
    return len({item.identity() for item in announcements if item.takes_jobs}) > 1


def _sort_known(announcements: Iterable[Announcement | None], now: datetime) -> list[Announcement]:
    readable = (item for item in announcements if item)
    known = (item for item in readable if abs(item.age_seconds(now)) <= KNOWN_SECONDS)
    return sorted(known, key=lambda item: item.beat_at)


def _by_model(announcements: Iterable[Announcement]) -> dict[str, list[Announcement]]:
    found: dict[str, list[Announcement]] = defaultdict(list)
    for item in announcements:
        found[item.model.name].append(item)
    return dict(found)


def _only(by_model: Iterable[str]) -> str | None:
    """Return the one name among these, None if there are several or none."""
    names = set(by_model)
    return names.pop() if len(names) == 1 else None


def _raise_unknown(model: str, known: list[str], *, is_passing: bool) -> NoReturn:
    hint = suggest(model, known)
    detail = f"{model!r} is not known; known: {', '.join(known)}" + (f"; {hint}" if hint else "")
    if is_passing:
        raise ModelUnavailable(f"{detail}; no worker has announced it yet, or not again")
    raise UnknownModel(detail, field="model")


def _describe(announcements: list[Announcement]) -> ServedModel:
    """Summarize the workers of one model. Where they differ, the latest heartbeat counts."""
    latest = announcements[-1]
    measured = _seconds_per_job(announcements)
    return ServedModel(
        name=latest.model.name,
        spec=latest.model,
        checkpoint_sha256=latest.checkpoint_sha256,
        checkpoints_differ=differ(announcements),
        engines=tuple(sorted({item.engine for item in announcements})),
        devices=tuple(sorted({item.device for item in announcements})),
        precisions=tuple(sorted({item.precision for item in announcements if item.precision})),
        workers=len(announcements),
        ready=sum(item.ready for item in announcements),
        waiting_for=_waiting_for(announcements),
        seconds_per_job=fmean(measured) if measured else None,
    )


def _seconds_per_job(announcements: list[Announcement]) -> list[float]:
    """Return what each worker has measured: of jobs, if any has run one; else of clips."""
    known = [item for item in announcements if item.seconds_per_job]
    of_jobs = [item for item in known if item.counters is None or item.counters.attempts]
    return [cast(float, item.seconds_per_job) for item in of_jobs or known]


def _waiting_for(announcements: list[Announcement]) -> Literal["store"] | None:
    """Return what keeps all workers of a model from being ready, as far as they say it."""
    if any(item.ready for item in announcements):
        return None
    return next((item.waiting_for for item in announcements if item.waiting_for), None)
