"""Jobs' lives, with real children and a real Valkey; only the delivery is left out."""

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from rollout_core import archive
from rollout_core.contract import ExplainRequest
from rollout_core.errors import AttemptLost, JobHeld
from rollout_core.jobs.records import LEASE_SECONDS, Ended, JobError, JobRecord, Progress
from rollout_core.jobs.redis_records import job_key
from rollout_core.jobs.store import ArtifactStore
from tests.worker.clips import make_video
from worker import fake_engine
from worker.children import Children
from worker.heartbeat import ShuttingDown
from worker.messages import EngineOptions, MediaOptions
from worker.redis_jobs import RetryingRecords
from worker.runner import Runner


@pytest.fixture
def records(redis) -> RetryingRecords:
    return RetryingRecords(redis)


@pytest.fixture
def record(redis) -> Callable[[str], JobRecord]:
    return lambda job_id: JobRecord.model_validate_json(redis.get(job_key(job_id)))


@pytest.fixture
def failure(store) -> Callable[[str], Ended]:
    """How a job ended that did not succeed."""

    def failure(job_id: str) -> Ended:
        ended = store.ending(job_id)
        assert isinstance(ended, Ended)
        return ended

    return failure


@contextmanager
def running(settings, records, store, model="fake", do_duties=lambda: None) -> Iterator[Runner]:
    children = Children("fake", EngineOptions(model=model), MediaOptions(), load_seconds=30)
    try:
        yield Runner(settings, children, records, store, do_duties)
    finally:
        children.close()


@pytest.fixture
def runner(settings, records, store) -> Iterator[Runner]:
    with running(settings, records, store) as runner:
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
    np.testing.assert_allclose(
        found.relevance.sum(axis=(1, 2, 3)), 1 - fake_engine.CLS_SHARE, rtol=1e-5
    )
    assert (np.diff(found.frame_index.ravel()) >= 0).all()
    assert found.crop_xywh.tolist() == [8, 0, 80, 80]


def test_a_job_that_is_gone_or_has_ended_is_left_alone(
    runner, records, store, redis, submit, record
):
    gone = submit()
    redis.delete(job_key(gone))
    store.delete(gone)
    runner.run(gone)
    canceled = submit()
    store.end(canceled, JobRecord().ended("canceled", datetime.now(UTC)))
    runner.run(canceled)
    assert record(canceled).attempt == 0
    forgotten = submit()
    redis.delete(job_key(forgotten))
    runner.run(forgotten)
    assert store.is_open(forgotten)
    assert runner.seconds_per_job is None


def test_a_job_that_has_a_result_is_not_done_again(runner, store, submit):
    job_id = submit(overlay=None)
    runner.run(job_id)
    before = store.artifact_path(job_id, "result.json").read_bytes()
    runner.run(job_id)
    assert store.artifact_path(job_id, "result.json").read_bytes() == before


def test_a_deliberate_failure_of_the_engine_is_final(settings, records, store, submit, failure):
    with running(settings, records, store, "fake-fail") as runner:
        job_id = submit()
        runner.run(job_id)
    assert (failure(job_id).state, failure(job_id).attempt) == ("failed", 1)
    assert failure(job_id).error.code == "out_of_memory"
    assert attempts_left(store, job_id) == []


def test_an_upload_that_is_no_video_fails_with_its_code(runner, store, submit, failure):
    job_id = submit(b"\0\0\0\x18ftypmp42" + bytes(1000))
    runner.run(job_id)
    assert failure(job_id).state == "failed"
    assert failure(job_id).error.code.startswith("video_")


def test_a_request_that_the_model_cannot_meet_fails_with_its_code(runner, submit, failure):
    job_id = submit(start_layer=99)
    runner.run(job_id)
    assert failure(job_id).error.code == "invalid_request"
    assert "99" in failure(job_id).error.detail


def test_the_runner_serves_on_after_failures(runner, store, submit):
    for request in ({"start_layer": 99}, {"start_seconds": 60.0}):
        runner.run(submit(**request))
    job_id = submit(overlay=None)
    runner.run(job_id)
    assert store.result(job_id)


def test_an_engine_that_dies_every_time_uses_up_the_attempts(
    settings, records, store, submit, failure
):
    with running(settings, records, store, "fake-crash") as runner:
        job_id = submit()
        runner.run(job_id)
    assert (failure(job_id).state, failure(job_id).attempt) == ("failed", 3)
    assert failure(job_id).error.code == "worker_crashed"
    assert (
        f"the engine exited with status {fake_engine.CRASH_STATUS}" in failure(job_id).error.detail
    )


def test_an_engine_that_hangs_every_time_uses_up_the_attempts(
    settings, records, store, submit, failure
):
    settings = settings.model_copy(update={"engine_timeout_seconds": 0.5, "max_attempts": 2})
    with running(settings, records, store, "fake-hang") as runner:
        job_id = submit()
        runner.run(job_id)
    assert failure(job_id).attempt == 2
    assert failure(job_id).error.code == "worker_crashed"
    assert "the engine did not answer within 0.5 seconds" in failure(job_id).error.detail


def test_a_job_that_takes_too_long_fails_at_once(settings, records, store, submit, failure):
    settings = settings.model_copy(update={"job_deadline_seconds": 1.5})
    with running(settings, records, store, "fake-hang") as runner:
        job_id = submit()
        runner.run(job_id)
    assert failure(job_id).attempt == 1
    assert failure(job_id).error.code == "deadline_exceeded"


def test_a_job_whose_worker_died_at_its_last_attempt_fails(runner, records, store, submit, failure):
    job_id = submit()
    for attempt in (1, 2, 3):
        records.claim(job_id, max_attempts=3)
        records.release(job_id, attempt)
    (store.begin_attempt(job_id, 3) / "overlay.mp4").write_bytes(b"half")
    runner.run(job_id)
    assert (failure(job_id).state, failure(job_id).attempt) == ("failed", 3)
    assert failure(job_id).error.code == "worker_crashed"
    assert "the worker died" in failure(job_id).error.detail
    assert attempts_left(store, job_id) == []


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("stage", ["explain", "render"])
def test_a_media_process_that_dies_or_hangs_costs_one_attempt(
    settings, records, store, submit, record, tmp_path, sign, stage
):
    settings = settings.model_copy(update={"media_timeout_seconds": 2.0})
    large = make_video(tmp_path / "large.mp4", width=1280, height=720)  # takes a while to render
    struck = []

    def strike_media_once() -> None:
        if not struck and record(job_id).progress.stage == stage:
            (media,) = media_processes_of(runner)
            os.kill(media, sign)
            struck.append(media)

    with running(settings, records, store, "fake-slow", strike_media_once) as runner:
        job_id = submit(large.read_bytes(), clips="tile")
        runner.run(job_id)
    assert struck
    assert store.result(job_id).attempt == 2


def test_an_engine_that_hangs_once_costs_one_attempt_and_little_time(
    settings, records, store, submit, record
):
    """With nothing set, it is noticed by what the warm-up took."""
    stopped = []

    def stop_engine_once() -> None:
        if not stopped and record(job_id).progress.stage == "explain":
            os.kill(runner._children.engine.pid, signal.SIGSTOP)
            stopped.append(time.monotonic())

    def note_the_next() -> None:
        stop_engine_once()
        if len(stopped) == 1 and record(job_id).attempt == 2:
            stopped.append(time.monotonic())

    with running(settings, records, store, "fake-slow", note_the_next) as runner:
        job_id = submit(clips="tile", overlay=None)
        runner.run(job_id)
    assert store.result(job_id).attempt == 2
    assert stopped[1] - stopped[0] < 15


def test_a_job_is_handed_back_as_if_its_attempt_had_never_begun(
    settings, records, store, submit, record
):
    def leave() -> None:
        if record(job_id).progress.stage == "explain":
            raise ShuttingDown

    with running(settings, records, store, "fake-slow", leave) as runner:
        job_id = submit(clips="tile", overlay=None)
        with pytest.raises(ShuttingDown):
            runner.run(job_id)
        assert not media_processes_of(runner)
    assert store.is_open(job_id)
    assert (record(job_id).attempt, record(job_id).lease_until) == (0, None)
    with running(settings, records, store) as runner:
        runner.run(job_id)
    assert store.result(job_id).attempt == 1


def test_a_canceled_job_stops_at_a_clips_boundary(
    settings, records, store, redis, submit, record, failure
):
    def cancel() -> None:
        asked = record(job_id).model_copy(update={"cancel_requested": True})
        redis.set(job_key(job_id), asked.model_dump_json())

    with running(settings, records, store, "fake-slow", cancel) as runner:
        job_id = submit(clips="tile")
        began = time.monotonic()
        runner.run(job_id)
    assert failure(job_id).state == "canceled"
    assert time.monotonic() - began < 8
    assert not store.result(job_id)
    assert attempts_left(store, job_id) == []


def test_a_job_deleted_while_it_runs_is_dropped(settings, records, store, redis, submit):
    job_id, following = submit(clips="tile"), submit(overlay=None)

    def delete() -> None:
        redis.delete(job_key(job_id))
        store.delete(job_id)

    with running(settings, records, store, "fake-slow", delete) as runner:
        runner.run(job_id)
        assert not store.upload_path(job_id).parents[1].exists()
        runner.run(following)
    assert store.result(following)


@pytest.mark.parametrize("takes_folder", [True, False])
def test_an_attempt_that_lost_the_job_waits_for_the_newer_one(
    settings, records, store, submit, record, takes_folder, failure
):
    """It neither disturbs the newer attempt, nor leaves before that has ended."""
    ends_at = time.monotonic() + 4

    def work_elsewhere() -> None:
        if record(job_id).attempt == 1:
            records.release(job_id, 1)
            records.claim(job_id, max_attempts=9)
            if takes_folder:
                store.begin_attempt(job_id, 2)
        elif time.monotonic() < ends_at:
            records.beat(job_id, 2, Progress(stage="render", done=0, total=1))
        else:
            error = JobError(code="video_undecodable", title="t", detail="d")
            store.end(job_id, record(job_id).ended("failed", datetime.now(UTC), error))

    with running(settings, records, store, "fake-slow", work_elsewhere) as runner:
        job_id = submit(clips="tile")
        runner.run(job_id)
    assert time.monotonic() > ends_at
    assert (failure(job_id).attempt, failure(job_id).error.code) == (2, "video_undecodable")
    assert not store.result(job_id)


def test_a_job_that_a_live_worker_has_is_taken_over_when_that_dies(runner, records, store, submit):
    job_id = submit(overlay=None)
    records.claim(job_id, max_attempts=1)
    runner._settings = runner._settings.model_copy(update={"max_attempts": 2})
    began = time.monotonic()
    runner.run(job_id)
    assert store.result(job_id).attempt == 2
    assert time.monotonic() - began > LEASE_SECONDS - 1


def test_a_job_whose_worker_goes_on_and_on_is_left_to_it(
    settings, records, store, submit, record, monkeypatch
):
    """A second delivery must not keep this worker from others for as long as that one lasts."""
    monkeypatch.setattr("worker.runner.HELD_SECONDS", 1.0)

    def beat_elsewhere() -> None:
        records.beat(job_id, 1, Progress(stage="render", done=0, total=1))

    with running(settings, records, store, do_duties=beat_elsewhere) as runner:
        job_id = submit()
        records.claim(job_id, max_attempts=9)
        with pytest.raises(JobHeld):
            runner.run(job_id)
        following = submit(overlay=None)
        runner._do_duties = lambda: None
        runner.run(following)
    assert store.is_open(job_id)
    assert (record(job_id).attempt, record(job_id).lease_until is None) == (1, False)
    assert store.result(following)


def test_what_was_canceled_in_the_last_moment_is_not_published(
    settings, records, store, redis, submit, failure
):
    def cancel_at_the_end() -> None:
        if any(store.upload_path(job_id).parents[1].glob("attempts/1/rollout.npz")):
            canceled = JobRecord().ended("canceled", datetime.now(UTC))
            with suppress(AttemptLost):
                store.end(job_id, canceled)

    class LateLedger(RetryingRecords):
        def beat(self, *arguments):
            cancel_at_the_end()
            return super().beat(*arguments)

    with running(settings, LateLedger(redis), store) as runner:
        job_id = submit(overlay=None)
        runner.run(job_id)
    assert failure(job_id).state == "canceled"
    assert not store.result(job_id)


def test_a_store_that_is_full_fails_the_job_with_its_code(runner, submit, monkeypatch, failure):
    def full(path: Path, found: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive, "save", full)
    job_id = submit(overlay=None)
    runner.run(job_id)
    assert (failure(job_id).state, failure(job_id).attempt) == ("failed", 1)
    assert failure(job_id).error.code == "store_full"
    assert failure(job_id).error.detail == "the disk is full"


def test_an_end_waits_until_the_disk_has_room_for_it(runner, store, submit, failure, monkeypatch):
    end, calls = store.end, []

    def full_for_a_while(job_id: str, ended: Ended) -> None:
        calls.append(None)
        if len(calls) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        end(job_id, ended)

    monkeypatch.setattr(store, "end", full_for_a_while)
    job_id = submit(start_layer=99)
    runner.run(job_id)
    assert len(calls) == 4
    assert failure(job_id).error.code == "invalid_request"


def test_a_job_that_is_in_another_store_is_left_to_others(
    settings, records, store, submit, record, caplog
):
    with running(settings, records, ArtifactStore(settings.data_dir / "elsewhere")) as runner:
        job_id = submit()
        runner.run(job_id)
    assert store.is_open(job_id)
    assert record(job_id).attempt == 0
    assert f"{job_id} is not in this store" in caplog.text


def test_a_job_that_redis_forgot_is_left_as_it_is(runner, store, redis, submit):
    """Another worker may have begun it anew by now."""
    job_id = submit()
    folder = store.begin_attempt(job_id, 1)
    redis.delete(job_key(job_id))
    runner.run(job_id)
    assert folder.exists()


def test_a_job_that_has_ended_is_forgotten_by_redis(runner, redis, submit):
    succeeded, failed = submit(overlay=None), submit(start_layer=99)
    for job_id in (succeeded, failed):
        runner.run(job_id)
        assert not redis.exists(job_key(job_id))


def test_an_attempt_that_was_taken_for_dead_cannot_fail_the_job(
    settings, records, store, redis, submit, record
):
    """It comes back, and fails, while the newer attempt runs; the first to end is the newer."""

    class Sleepy(RetryingRecords):
        def require(self, job_id: str, attempt: int) -> None:
            if attempt == 1:
                self.release(job_id, 1)
                self.claim(job_id, max_attempts=9)
            super().require(job_id, attempt)
            raise AssertionError("attempt 1 was believed")

    with running(settings, Sleepy(redis), store) as runner:
        job_id = submit(start_layer=99)
        with pytest.raises(StopWaiting):
            runner._wait = stop_waiting
            runner.run(job_id)
    assert store.is_open(job_id)
    assert record(job_id).attempt == 2


class StopWaiting(Exception):
    """The runner waits for the other attempt."""


def stop_waiting() -> None:
    raise StopWaiting


def test_beats_tell_how_far_the_job_is(settings, records, store, submit, record):
    seen = []

    with running(
        settings, records, store, "fake-slow", lambda: seen.append(record(job_id))
    ) as runner:
        job_id = submit(clips="tile")
        runner.run(job_id)
    assert [stage for stage, _ in groupby(beat.progress.stage for beat in seen)] == [
        "decode",
        "explain",
        "render",
        "publish",
    ]
    assert datetime.now(UTC) - seen[-1].lease_until < timedelta(seconds=5)
    explaining = [beat.progress for beat in seen if beat.progress.stage == "explain"]
    assert {progress.total for progress in explaining} == {3}
    assert explaining[-1].done > explaining[0].done


def test_a_bug_of_ours_ends_the_attempt_not_the_worker(settings, records, store, submit, failure):
    def stumble() -> None:
        raise ZeroDivisionError

    with running(settings, records, store, "fake", stumble) as runner:
        job_id = submit()
        runner.run(job_id)
    assert failure(job_id).error.code == "worker_crashed"
    assert "internal error" in failure(job_id).error.detail


def test_an_engine_that_died_between_jobs_costs_no_attempt(settings, records, store, submit):
    with running(settings, records, store) as runner:
        runner.run(submit(overlay=None))
        os.kill(runner._children.engine.pid, signal.SIGKILL)
        os.waitid(os.P_PID, runner._children.engine.pid, os.WEXITED | os.WNOWAIT)
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
    spare = runner._children._spare_media.pid
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return [
        pid
        for pid in map(int, children.split())
        if pid != spare and "\0media\0" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
