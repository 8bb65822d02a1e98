"""Jobs' lives, with real children and a real Valkey; only the delivery is left out."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from rollout_core import archive
from rollout_core.contract import ExplainRequest, job_key
from rollout_core.lifecycle import JobRecord
from tests.worker.clips import make_video
from worker import fake
from worker.crew import Crew
from worker.ledger import Ledger
from worker.messages import EngineOptions, MediaOptions
from worker.runner import Runner


@pytest.fixture
def ledger(redis) -> Ledger:
    return Ledger(redis)


@pytest.fixture
def record(redis) -> Callable[[str], JobRecord]:
    return lambda job_id: JobRecord.model_validate_json(redis.get(job_key(job_id)))


@contextmanager
def running(settings, ledger, store, model="fake", tend=lambda: None) -> Iterator[Runner]:
    crew = Crew("fake", EngineOptions(model=model), MediaOptions(), load_seconds=30)
    try:
        yield Runner(settings, crew, ledger, store, tend)
    finally:
        crew.close()


@pytest.fixture
def runner(settings, ledger, store) -> Iterator[Runner]:
    with running(settings, ledger, store) as runner:
        yield runner


def attempts_left(store, job_id: str) -> list[str]:
    return [path.name for path in store.upload_path(job_id).parents[1].glob("attempts/*")]


def test_a_job_succeeds_with_every_artifact(runner, store, submit):
    job_id = submit(clips="tile", discard_ratio=0.25)
    runner.run(job_id)
    result = store.result(job_id)
    assert (result.clips, result.frames, result.attempt) == (3, 24, 1)
    assert [item.name for item in result.artifacts] == ["rollout.npz", "overlay.mp4", "sheet.png"]
    found = archive.load(store.artifact_path(job_id, "rollout.npz"))
    assert found.relevance.shape == (3, 8, 8, 8)
    assert found.meta["method"]["discard_ratio"] == 0.25
    with av.open(str(store.artifact_path(job_id, "overlay.mp4"))) as overlay:
        assert len(list(overlay.decode(video=0))) == 24
    with Image.open(store.artifact_path(job_id, "sheet.png")) as sheet:
        assert sheet.width > sheet.height > 0
    assert attempts_left(store, job_id) == []
    assert runner.seconds_per_job > 0


def test_the_result_names_every_default_that_was_filled_in(runner, store, submit):
    job_id = submit(start_seconds=0.5, overlay=None)
    runner.run(job_id)
    result = store.result(job_id)
    assert result.request == ExplainRequest(
        model="fake", sampling="uniform", start_seconds=0.5, end_seconds=3.0, overlay=None
    )
    assert [item.name for item in result.artifacts] == ["rollout.npz", "sheet.png"]
    assert set(result.timings_seconds) == {"decode", "explain", "render", "total"}
    assert sum(prediction.probability for prediction in result.predictions) == pytest.approx(1)
    stored = json.loads(store.artifact_path(job_id, "result.json").read_text())
    assert stored["checkpoint_sha256"] is None


def test_the_archive_holds_what_the_engine_says_of_these_frames(runner, store, submit):
    job_id = submit(clips="tile")
    runner.run(job_id)
    found = archive.load(store.artifact_path(job_id, "rollout.npz"))
    np.testing.assert_allclose(found.relevance.sum(axis=(1, 2, 3)), 1 - fake.CLS_SHARE, rtol=1e-5)
    assert (np.diff(found.frame_index.ravel()) >= 0).all()
    assert found.crop_xywh.tolist() == [8, 0, 80, 80]


def test_a_job_that_is_gone_or_has_ended_is_left_alone(runner, ledger, store, submit, record):
    gone = submit()
    store.delete(gone)
    runner.run(gone)
    canceled = submit()
    ledger.claim(canceled, max_attempts=3, cause="")
    ledger.yield_cancel(canceled, 1)
    runner.run(canceled)
    assert record(canceled).attempt == 1
    assert runner.seconds_per_job is None


def test_a_job_that_has_a_result_is_not_done_again(runner, store, submit, record):
    job_id = submit(overlay=None)
    runner.run(job_id)
    before = store.artifact_path(job_id, "result.json").read_bytes()
    runner.run(job_id)
    assert store.artifact_path(job_id, "result.json").read_bytes() == before
    assert record(job_id).attempt == 1


def test_a_deliberate_failure_of_the_engine_is_final(settings, ledger, store, submit, record):
    with running(settings, ledger, store, "fake-fail") as runner:
        job_id = submit()
        runner.run(job_id)
    assert record(job_id).stage == "failed"
    assert record(job_id).attempt == 1
    assert record(job_id).error.code == "out_of_memory"
    assert attempts_left(store, job_id) == []


def test_an_upload_that_is_no_video_fails_with_its_code(runner, store, submit, record):
    job_id = submit(b"\0\0\0\x18ftypmp42" + bytes(1000))
    runner.run(job_id)
    assert record(job_id).stage == "failed"
    assert record(job_id).error.code.startswith("video_")


def test_a_request_that_the_model_cannot_meet_fails_with_its_code(runner, submit, record):
    job_id = submit(start_layer=99)
    runner.run(job_id)
    assert record(job_id).error.code == "invalid_request"
    assert "99" in record(job_id).error.detail


def test_the_runner_serves_on_after_failures(runner, store, submit):
    for request in ({"start_layer": 99}, {"start_seconds": 60.0}):
        runner.run(submit(**request))
    job_id = submit(overlay=None)
    runner.run(job_id)
    assert store.has_result(job_id)


def test_an_engine_that_dies_every_time_uses_up_the_attempts(
    settings, ledger, store, submit, record
):
    with running(settings, ledger, store, "fake-crash") as runner:
        job_id = submit()
        runner.run(job_id)
    assert (record(job_id).stage, record(job_id).attempt) == ("failed", 3)
    assert record(job_id).error.code == "worker_crashed"
    assert f"the engine exited with status {fake.CRASH_STATUS}" in record(job_id).error.detail


def test_an_engine_that_hangs_every_time_uses_up_the_attempts(
    settings, ledger, store, submit, record
):
    settings = settings.model_copy(update={"engine_timeout_seconds": 0.5, "max_attempts": 2})
    with running(settings, ledger, store, "fake-hang") as runner:
        job_id = submit()
        runner.run(job_id)
    assert record(job_id).attempt == 2
    assert record(job_id).error.code == "worker_crashed"
    assert "the engine did not answer within 0.5 seconds" in record(job_id).error.detail


def test_a_job_that_takes_too_long_fails_at_once(settings, ledger, store, submit, record):
    settings = settings.model_copy(update={"job_deadline_seconds": 1.5})
    with running(settings, ledger, store, "fake-hang") as runner:
        job_id = submit()
        runner.run(job_id)
    assert record(job_id).attempt == 1
    assert record(job_id).error.code == "deadline_exceeded"


def test_a_job_whose_worker_died_at_its_last_attempt_fails(runner, ledger, submit, record):
    job_id = submit()
    for _ in range(3):
        ledger.claim(job_id, max_attempts=3, cause="")
    runner.run(job_id)
    assert (record(job_id).stage, record(job_id).attempt) == ("failed", 3)
    assert record(job_id).error.code == "worker_crashed"
    assert "the worker died" in record(job_id).error.detail


def test_a_media_process_that_is_killed_costs_one_attempt(settings, ledger, store, submit, record):
    killed = []

    def kill_media_once() -> None:
        if not killed and record(job_id).progress.stage == "explain":
            (media,) = media_processes_of(runner)
            os.kill(media, signal.SIGKILL)
            killed.append(media)

    with running(settings, ledger, store, "fake-slow", kill_media_once) as runner:
        job_id = submit(clips="tile")
        runner.run(job_id)
    assert killed
    assert store.result(job_id).attempt == 2


def test_a_canceled_job_stops_at_a_clips_boundary(settings, ledger, store, redis, submit, record):
    def cancel() -> None:
        asked = record(job_id).model_copy(update={"cancel_requested": True})
        redis.set(job_key(job_id), asked.model_dump_json())

    with running(settings, ledger, store, "fake-slow", cancel) as runner:
        job_id = submit(clips="tile")
        began = time.monotonic()
        runner.run(job_id)
    assert record(job_id).stage == "canceled"
    assert time.monotonic() - began < 8
    assert not store.has_result(job_id)
    assert attempts_left(store, job_id) == []


def test_a_job_deleted_while_it_runs_is_dropped(settings, ledger, store, redis, submit):
    job_id, following = submit(clips="tile"), submit(overlay=None)

    def delete() -> None:
        redis.delete(job_key(job_id))
        store.delete(job_id)

    with running(settings, ledger, store, "fake-slow", delete) as runner:
        runner.run(job_id)
        assert not store.upload_path(job_id).parents[1].exists()
        runner.run(following)
    assert store.has_result(following)


def test_an_attempt_that_lost_the_job_leaves_it_to_the_newer_one(
    settings, ledger, store, submit, record
):
    def claim_elsewhere() -> None:
        ledger.claim(job_id, max_attempts=9, cause="")

    with running(settings, ledger, store, "fake-slow", claim_elsewhere) as runner:
        job_id = submit(clips="tile")
        runner.run(job_id)
    assert record(job_id).stage == "running"
    assert not store.has_result(job_id)


def test_beats_tell_how_far_the_job_is(settings, ledger, store, submit, record):
    seen = []

    with running(
        settings, ledger, store, "fake-slow", lambda: seen.append(record(job_id))
    ) as runner:
        job_id = submit(clips="tile")
        runner.run(job_id)
    assert [stage for stage, _ in groupby(beat.progress.stage for beat in seen)] == [
        "decode",
        "explain",
        "render",
    ]
    assert datetime.now(UTC) - seen[-1].lease_until < timedelta(seconds=5)
    explaining = [beat.progress for beat in seen if beat.progress.stage == "explain"]
    assert {progress.total for progress in explaining} == {3}
    assert explaining[-1].done > explaining[0].done


def test_a_bug_of_ours_ends_the_attempt_not_the_worker(settings, ledger, store, submit, record):
    def stumble() -> None:
        raise ZeroDivisionError

    with running(settings, ledger, store, "fake", stumble) as runner:
        job_id = submit()
        runner.run(job_id)
    assert record(job_id).error.code == "worker_crashed"
    assert "internal error" in record(job_id).error.detail


def test_an_engine_that_died_between_jobs_costs_no_attempt(settings, ledger, store, submit):
    with running(settings, ledger, store) as runner:
        runner.run(submit(overlay=None))
        os.kill(runner._crew.engine.pid, signal.SIGKILL)
        job_id = submit(overlay=None)
        runner.run(job_id)
    assert store.result(job_id).attempt == 1


def test_every_second_of_a_longer_video_has_its_clip(runner, store, submit, tmp_path):
    long = make_video(tmp_path / "long.mp4", seconds=20, width=64, height=64)
    job_id = submit(long.read_bytes(), clips="tile", overlay=None)
    runner.run(job_id)
    assert store.result(job_id).clips == 20


def media_processes_of(runner: Runner) -> list[int]:
    """Return the media processes that serve a job: all but the spare one."""
    spare = runner._crew._spare_media.pid
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return [
        pid
        for pid in map(int, children.split())
        if pid != spare and "\0media\0" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
