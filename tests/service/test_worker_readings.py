from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from rollout_core.jobs.counters import STAGES, StageSum, WorkerCounters
from rollout_core.jobs.redis_records import LIVE_SECONDS, Announcement, Gpu
from rollout_core.model.specs import ModelSpec
from rollout_core.timings import TOTAL
from service.metric_table import READ_AT_SCRAPE, Families
from service.worker_readings import add_workers

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = ModelSpec(name="m", frames=4, clip_seconds=1, height=32, width=48, classes=3)


def worker(model="m", *, age_seconds=0.0, ready=True, **changes):
    return Announcement(
        model=SPEC.model_copy(update={"name": model}),
        checkpoint_sha256=None,
        engine="torch",
        device="cuda:0",
        ready=ready,
        beat_at=NOW - timedelta(seconds=age_seconds),
        **changes,
    )


def samples(announced):
    """Return what is told of these workers: name and labels → value."""
    families = Families(READ_AT_SCRAPE)
    add_workers(families, announced, NOW)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(found, name, /, **labels):
    return found.get((name, tuple(sorted(labels.items()))))


def test_live_workers_are_counted_by_state():
    found = samples(
        {
            "1": worker(),
            "2": worker(),
            "3": worker(ready=False),
            "4": worker(ready=False, waiting_for="store"),
            "5": worker(ready=False, stopping=True),
            "6": worker(age_seconds=LIVE_SECONDS + 1),
            "7": worker("gone", age_seconds=LIVE_SECONDS + 1),
        }
    )

    states = {
        state: value(found, "rollout_workers", model="m", state=state)
        for state in ("ready", "loading", "paused", "stopping")
    }
    assert states == {"ready": 2, "loading": 1, "paused": 1, "stopping": 1}
    assert value(found, "rollout_workers", model="gone", state="ready") == 0


def test_counters_are_told_by_worker():
    counters = WorkerCounters(
        attempts=7,
        jobs={"succeeded": 5},
        restarts={"engine": 2},
        stages={"decode": StageSum(attempts=6, seconds=1.25)},
        clips=11,
        explain_seconds=3.5,
        engine_seconds=4.5,
    )
    found = samples({"1": worker(counters=counters), "2": worker(counters=WorkerCounters())})

    def of(name, **labels):
        return value(found, f"rollout_worker_{name}", model="m", worker="1", **labels)

    assert of("attempts_total") == 7
    assert of("clips_total") == 11
    assert of("explain_seconds_total") == 3.5
    assert of("engine_busy_seconds_total") == 4.5
    assert of("jobs_total", state="succeeded") == 5
    assert of("jobs_total", state="failed") == 0
    assert of("child_restarts_total", child="engine") == 2
    assert of("child_restarts_total", child="media") == 0
    assert of("stage_seconds_sum", stage="decode") == 1.25
    assert of("stage_seconds_count", stage="decode") == 6
    assert of("stage_seconds_count", stage="save") == 0
    assert value(found, "rollout_worker_attempts_total", model="m", worker="2") == 0


def test_a_worker_of_the_release_before_is_counted_but_tells_no_counters():
    found = samples({"1": worker()})

    assert value(found, "rollout_workers", model="m", state="ready") == 1
    assert not [name for name, _ in found if name.endswith("_total")]


def test_a_dead_worker_disappears():
    found = samples({"1": worker(age_seconds=LIVE_SECONDS + 1, counters=WorkerCounters())})

    assert not [labels for _, labels in found if "worker" in dict(labels)]


def test_names_that_this_release_does_not_know_share_one_label():
    unknown = {f"new-{number}": StageSum(attempts=1, seconds=2) for number in range(9)}
    counters = WorkerCounters(stages=unknown, jobs={"expired": 3, "lost": 4})
    found = samples({"1": worker(counters=counters)})

    stages = {dict(labels).get("stage") for _, labels in found} - {None}
    assert stages == {*STAGES, "other"}
    of = {"model": "m", "worker": "1"}
    assert value(found, "rollout_worker_stage_seconds_sum", stage="other", **of) == 18
    assert value(found, "rollout_worker_jobs_total", state="other", **of) == 7


def test_a_gpu_of_two_workers_is_told_once_and_as_seen_last():
    def gpu(used):
        return Gpu(uuid="GPU-1", name="H100", memory_total_bytes=80, memory_used_bytes=used)

    found = samples(
        {
            "1": worker(gpu=gpu(30), age_seconds=1),
            "2": worker(gpu=gpu(20), age_seconds=2),
            "3": worker(gpu=gpu(70), age_seconds=LIVE_SECONDS + 1),
        }
    )

    assert value(found, "rollout_gpu_memory_used_bytes", gpu="GPU-1", name="H100") == 30
    assert value(found, "rollout_gpu_memory_size_bytes", gpu="GPU-1", name="H100") == 80
    info = [dict(labels) for name, labels in found if name == "rollout_worker_info"]
    assert {each["gpu"] for each in info} == {"GPU-1"}


def test_workers_on_a_processor_have_an_empty_gpu():
    found = samples({"1": worker(precision="float32")})

    (info,) = (dict(labels) for name, labels in found if name == "rollout_worker_info")
    assert (info["gpu"], info["device"], info["precision"]) == ("", "cuda:0", "float32")


def test_the_stages_are_those_of_an_attempt():
    text = (Path(__file__).parents[2] / "worker" / "attempt.py").read_text()
    named = {part.partition('"')[0] for part in text.split('.timings.stage("')[1:]}

    assert named == set(STAGES)
    assert TOTAL not in STAGES


@pytest.mark.parametrize("name", READ_AT_SCRAPE)
def test_a_metric_without_a_reading_has_no_samples(name):
    registry = CollectorRegistry()

    class Nothing:
        def collect(self):
            return Families(READ_AT_SCRAPE)

    registry.register(Nothing())

    families = {family.name: family for family in registry.collect()}
    assert families[name.removesuffix("_total")].samples == []
