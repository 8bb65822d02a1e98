"""What a worker has counted, in an announcement that other releases read."""

import json
from datetime import UTC, datetime

import pytest

from rollout_core.jobs.counters import StageSum, WorkerCounters
from rollout_core.jobs.redis_records import Announcement, Gpu, parse_announcement
from rollout_core.model.specs import ModelSpec

COUNTERS = WorkerCounters(
    attempts=7,
    jobs={"succeeded": 5, "failed": 1},
    restarts={"engine": 2},
    stages={"decode": StageSum(attempts=6, seconds=1.25)},
    clips=11,
    explain_seconds=3.5,
    engine_seconds=4.5,
)
GPU = Gpu(uuid="GPU-1", name="H100", memory_total_bytes=80, memory_used_bytes=30)


def announcement(**changes):
    spec = ModelSpec(name="fake", frames=4, clip_seconds=1, height=32, width=48, classes=3)
    return Announcement(
        model=spec,
        checkpoint_sha256=None,
        engine="fake",
        device="cpu",
        ready=True,
        beat_at=datetime(2026, 1, 1, tzinfo=UTC),
        **changes,
    )


def text(**fields):
    """Return an announcement as another release would write it, with these fields."""
    return json.dumps(json.loads(announcement().model_dump_json()) | fields).encode()


def test_counters_and_gpu_come_back_as_they_were_written():
    full = announcement(counters=COUNTERS, gpu=GPU)

    read = parse_announcement(full.model_dump_json(exclude_defaults=True).encode())

    assert read == full
    assert read.counters.stages["decode"].seconds == 1.25


def test_an_announcement_of_the_release_before_has_none():
    old = json.loads(text())
    del old["counters"], old["gpu"]

    read = parse_announcement(json.dumps(old).encode())

    assert (read.counters, read.gpu) == (None, None)


def test_fields_of_a_newer_release_are_ignored():
    newer = json.loads(COUNTERS.model_dump_json()) | {"batches": 3}
    newer["stages"]["decode"]["longest"] = 9

    assert parse_announcement(text(counters=newer)).counters == COUNTERS


@pytest.mark.parametrize("counters", [3, [], {"attempts": -1}, {"jobs": 5}, {"clips": "many"}])
def test_counters_in_another_form_do_not_hide_the_worker(counters):
    read = parse_announcement(text(counters=counters))

    assert read.ready
    assert read.counters is None


def test_counters_of_a_busy_worker_are_small():
    long = COUNTERS.model_copy(
        update={"stages": {name: StageSum(attempts=10**6, seconds=1e6) for name in "abcdefg"}}
    )

    assert len(long.model_dump_json(exclude_defaults=True)) < 600
