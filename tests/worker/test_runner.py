"""Jobs run by the runner, with real children and a real Valkey, but without RQ."""

import errno
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from threading import Thread

import av
import numpy as np
import pytest
from PIL import Image
from redis import Redis

from rollout_core import archive
from rollout_core.contract import ExplainRequest
from rollout_core.errors import AttemptLost, JobHeld, OtherStore, UnknownFormat
from rollout_core.jobs.counters import WorkerCounters
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.records import LEASE_SECONDS, Ended, JobError, JobRecord, Progress
from rollout_core.jobs.redis_records import announce_store, job_key, token_key
from tests.system.waiting import wait_until
from tests.worker.clips import make_video
from worker import fake_engine
from worker.children import Children
from worker.heartbeat import ShuttingDown
from worker.messages import EngineOptions, MediaOptions
from worker.redis_jobs import RetryingRecords
from worker.runner import JobMissing, Runner


class StopWaiting(Exception):
    """The runner waits for the other attempt."""


@pytest.fixture
def records(redis) -> RetryingRecords:
    return RetryingRecords(redis)


@pytest.fixture
def record(redis) -> Callable[[str], JobRecord]:
    return lambda job_id: JobRecord.model_validate_json(redis.get(job_key(job_id)))


@pytest.fixture
def token(redis) -> Callable[[str], str]:
    """Return a function that returns the token of a job's latest claim."""
    return lambda job_id: redis.get(token_key(job_id)).decode()


@pytest.fixture
def failure(store) -> Callable[[str], Ended]:
    """Return a function that returns the end of a job without a result."""

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


def media_processes_of(runner: Runner) -> list[int]:
    """Return the ids of the media processes that work on a job."""
    template = runner.children.template.pid
    children = Path(f"/proc/{template}/task/{template}/children").read_text()
    return [int(pid) for pid in children.split()]


def test_job_succeeds_with_every_artifact(runner, store, submit):
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


def test_preview_shows_the_sampled_frames_at_their_times(runner, store, submit):
    job_id = submit(clips="tile", preview=True)
    runner.run(job_id)
    result = store.result(job_id)
    names = {item.name for item in result.artifacts}
    assert names == {"rollout.npz", "overlay.mp4", "sheet.png", "preview.mp4", "thumbnails.jpg"}
    found = archive.load(store.artifact_path(job_id, "rollout.npz"))
    with av.open(str(store.artifact_path(job_id, "preview.mp4"))) as preview:
        frames = list(preview.decode(video=0))
    assert len(frames) == 24
    for index, seconds in zip(found.frame_index.flat, found.pts_seconds.flat, strict=True):
        assert frames[index].time == pytest.approx(seconds, abs=1e-3)
    tiles = result.thumbnails
    assert tiles.frame_index == tuple(np.unique(found.frame_index))
    with Image.open(store.artifact_path(job_id, "thumbnails.jpg")) as image:
        pixels = np.asarray(image).astype(float)
    for place, index in enumerate(tiles.frame_index):
        row, column = divmod(place, tiles.columns)
        tile = pixels[90 * row :][:90, tiles.tile_width * column :][:, : tiles.tile_width]
        expected = np.asarray(frames[index].to_image().resize(tile.shape[1::-1]))
        assert np.abs(tile - expected).mean() < 6  # the square moves, so no other frame is as near


def test_result_contains_the_resolved_defaults(runner, store, submit):
    job_id = submit(start_seconds=0.5, overlay=None)
    runner.run(job_id)
    result = store.result(job_id)
    assert result.request == ExplainRequest(
        model="fake", sampling="uniform", start_seconds=0.5, end_seconds=3.0, overlay=None
    )
    assert [item.name for item in result.artifacts] == ["rollout.npz", "sheet.png"]
    stages = {"wait", "open", "decode", "explain", "render", "save", "total"}
    assert set(result.timings_seconds) == stages
    assert sum(prediction.probability for prediction in result.predictions) == pytest.approx(1)
    stored = json.loads(store.artifact_path(job_id, "result.json").read_text())
    assert re.fullmatch(r"[0-9a-f]{64}", stored["checkpoint_sha256"])


def test_archive_holds_the_answer_of_the_engine(runner, store, submit):
    job_id = submit(clips="tile")
    runner.run(job_id)
    found = archive.load(store.artifact_path(job_id, "rollout.npz"))
    np.testing.assert_allclose(
        found.relevance.sum(axis=(1, 2, 3)), 1 - fake_engine.CLS_RELEVANCE, rtol=1e-5
    )
    assert (np.diff(found.frame_index.ravel()) >= 0).all()
    assert found.crop_xywh.tolist() == [8, 0, 80, 80]


def test_deleted_or_ended_job_is_not_run(runner, records, store, redis, submit, record):
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


def test_job_with_a_result_is_not_run_again(runner, store, submit):
    job_id = submit(overlay=None)
    runner.run(job_id)
    before = store.artifact_path(job_id, "result.json").read_bytes()
    runner.run(job_id)
    assert store.artifact_path(job_id, "result.json").read_bytes() == before


def test_failed_message_of_the_engine_is_not_retried(settings, records, store, submit, failure):
    with running(settings, records, store, "fake-fail") as runner:
        job_id = submit()
        runner.run(job_id)
    assert (failure(job_id).state, failure(job_id).attempt) == ("failed", 1)
    assert failure(job_id).error.code == "out_of_memory"
    assert attempts_left(store, job_id) == []


def test_upload_that_is_no_video_fails_with_a_video_code(runner, store, submit, failure):
    job_id = submit(b"\0\0\0\x18ftypmp42" + bytes(1000))
    runner.run(job_id)
    assert failure(job_id).state == "failed"
    assert failure(job_id).error.code.startswith("video_")


def test_request_the_model_cannot_meet_fails_as_invalid(runner, submit, failure):
    job_id = submit(start_layer=99)
    runner.run(job_id)
    assert failure(job_id).error.code == "invalid_request"
    assert "99" in failure(job_id).error.detail


def test_runner_takes_the_next_job_after_failures(runner, store, submit):
    for request in ({"start_layer": 99}, {"start_seconds": 60.0}):
        runner.run(submit(**request))
    job_id = submit(overlay=None)
    runner.run(job_id)
    assert store.result(job_id)


def test_engine_that_always_dies_uses_up_the_attempts(settings, records, store, submit, failure):
    with running(settings, records, store, "fake-crash") as runner:
        job_id = submit()
        runner.run(job_id)
    assert (failure(job_id).state, failure(job_id).attempt) == ("failed", 3)
    assert failure(job_id).error.code == "worker_crashed"
    assert (
        f"the engine exited with status {fake_engine.CRASH_STATUS}" in failure(job_id).error.detail
    )


def test_engine_that_always_hangs_uses_up_the_attempts(settings, records, store, submit, failure):
    settings = settings.model_copy(update={"engine_timeout_seconds": 0.5, "max_attempts": 2})
    with running(settings, records, store, "fake-hang") as runner:
        job_id = submit()
        runner.run(job_id)
    assert failure(job_id).attempt == 2
    assert failure(job_id).error.code == "worker_crashed"
    assert "the engine did not answer within 0.5 seconds" in failure(job_id).error.detail


def test_deadline_fails_the_job_without_a_retry(settings, records, store, submit, failure):
    settings = settings.model_copy(update={"job_deadline_seconds": 1.5})
    with running(settings, records, store, "fake-hang") as runner:
        job_id = submit()
        runner.run(job_id)
    assert failure(job_id).attempt == 1
    assert failure(job_id).error.code == "deadline_exceeded"


def test_job_whose_worker_died_in_the_last_attempt_fails(runner, records, store, submit, failure):
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
def test_media_that_dies_or_hangs_costs_one_attempt(
    settings, records, store, submit, record, tmp_path, sign, stage
):
    settings = settings.model_copy(update={"media_timeout_seconds": 2.0})
    large = make_video(tmp_path / "large.mp4", width=1280, height=720)  # takes a while to render
    signaled = []

    def signal_media_once() -> None:
        if not signaled and record(job_id).progress.stage == stage:
            (media,) = media_processes_of(runner)
            os.kill(media, sign)
            signaled.append(media)

    with running(settings, records, store, "fake-slow", signal_media_once) as runner:
        job_id = submit(large.read_bytes(), clips="tile")
        runner.run(job_id)
    assert signaled
    assert store.result(job_id).attempt == 2


def test_engine_that_hangs_once_costs_one_attempt_and_little_time(
    settings, records, store, submit, record
):
    """Without a setting, the timeout follows the engine's warm-up."""
    stopped = []

    def stop_engine_once() -> None:
        if not stopped and record(job_id).progress.stage == "explain":
            os.kill(runner.children.engine.pid, signal.SIGSTOP)
            stopped.append(time.monotonic())

    def note_next_attempt() -> None:
        stop_engine_once()
        if len(stopped) == 1 and record(job_id).attempt == 2:
            stopped.append(time.monotonic())

    with running(settings, records, store, "fake-slow", note_next_attempt) as runner:
        job_id = submit(clips="tile", overlay=None)
        runner.run(job_id)
    assert store.result(job_id).attempt == 2
    assert stopped[1] - stopped[0] < 15


def test_attempt_handed_back_at_shutdown_does_not_count(settings, records, store, submit, record):
    def stop_worker() -> None:
        if record(job_id).progress.stage == "explain":
            raise ShuttingDown

    with running(settings, records, store, "fake-slow", stop_worker) as runner:
        job_id = submit(clips="tile", overlay=None)
        with pytest.raises(ShuttingDown):
            runner.run(job_id)
        assert not media_processes_of(runner)
    assert store.is_open(job_id)
    assert (record(job_id).attempt, record(job_id).lease_until) == (0, None)
    with running(settings, records, store) as runner:
        runner.run(job_id)
    assert store.result(job_id).attempt == 1


def test_canceled_job_stops_after_the_current_clip(
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


def test_job_deleted_while_it_runs_leaves_no_folder(settings, records, store, redis, submit):
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
def test_attempt_that_lost_the_job_waits_for_the_newer_one(
    settings, records, store, submit, record, token, takes_folder, failure
):
    """It does not disturb the newer attempt, and waits until that has ended."""
    ends_at = time.monotonic() + 4

    def work_elsewhere() -> None:
        if record(job_id).attempt == 1:
            records.release(job_id, 1, token(job_id))
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


def test_job_is_claimed_once_the_lease_of_a_dead_worker_ends(settings, records, store, submit):
    settings = settings.model_copy(update={"max_attempts": 2})
    with running(settings, records, store) as runner:
        job_id = submit(overlay=None)
        records.claim(job_id, max_attempts=1)
        began = time.monotonic()
        runner.run(job_id)
    assert store.result(job_id).attempt == 2
    assert time.monotonic() - began > LEASE_SECONDS - 1


def test_runner_stops_waiting_for_a_healthy_attempt(
    settings, records, store, submit, record, monkeypatch
):
    """A second delivery must not block this worker for the whole job."""
    monkeypatch.setattr("worker.runner.HELD_SECONDS", 1.0)
    held = True

    def beat_elsewhere() -> None:
        if held:
            records.beat(job_id, 1, Progress(stage="render", done=0, total=1))

    with running(settings, records, store, do_duties=beat_elsewhere) as runner:
        job_id = submit()
        records.claim(job_id, max_attempts=9)
        with pytest.raises(JobHeld):
            runner.run(job_id)
        following = submit(overlay=None)
        held = False
        runner.run(following)
    assert store.is_open(job_id)
    assert (record(job_id).attempt, record(job_id).lease_until is None) == (1, False)
    assert store.result(following)


def test_job_canceled_at_the_last_moment_is_not_published(
    settings, records, store, redis, submit, failure
):
    def cancel_at_the_end() -> None:
        if any(store.upload_path(job_id).parents[1].glob("attempts/1-*/rollout.npz")):
            canceled = JobRecord().ended("canceled", datetime.now(UTC))
            with suppress(AttemptLost):
                store.end(job_id, canceled)

    class CancelAtTheEnd(RetryingRecords):
        def beat(self, *arguments):
            cancel_at_the_end()
            return super().beat(*arguments)

    with running(settings, CancelAtTheEnd(redis), store) as runner:
        job_id = submit(overlay=None)
        runner.run(job_id)
    assert failure(job_id).state == "canceled"
    assert not store.result(job_id)


def test_end_is_retried_while_the_disk_is_full(runner, store, submit, failure, monkeypatch):
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


def test_worker_with_another_store_than_the_service_does_not_touch_the_job(
    settings, records, redis, store, submit, record
):
    announce_store(redis, store.identity())
    with running(settings, records, FolderStore(settings.data_dir / "elsewhere")) as runner:
        job_id = submit()
        with pytest.raises(OtherStore):
            runner.run(job_id)
    assert store.is_open(job_id)
    assert record(job_id) == JobRecord()


def test_worker_whose_store_is_an_old_copy_does_not_touch_the_job(
    settings, records, redis, store, submit, record, caplog
):
    announce_store(redis, store.identity())
    copy = shutil.copytree(settings.data_dir, settings.data_dir.with_name("copy"))
    with running(settings, records, FolderStore(copy)) as runner:
        job_id = submit()
        with pytest.raises(JobMissing):
            runner.run(job_id)
    assert store.is_open(job_id)
    assert record(job_id) == JobRecord()
    assert "the job is not in this store" in caplog.text


def test_job_is_dropped_if_its_record_vanishes_soon_after_its_folder(
    runner, redis, store, submit, monkeypatch
):
    """The service deletes the folder first."""
    job_id = submit()
    store.delete(job_id)
    monkeypatch.setattr("worker.runner.time.sleep", lambda _: redis.delete(job_key(job_id)))
    runner.run(job_id)


def test_job_without_a_record_keeps_its_attempt_folder(runner, store, redis, submit):
    """Another worker may have started a new attempt."""
    job_id = submit()
    folder = store.begin_attempt(job_id, 1)
    redis.delete(job_key(job_id))
    runner.run(job_id)
    assert folder.exists()


def test_record_of_an_ended_job_is_deleted(runner, redis, submit):
    succeeded, failed = submit(overlay=None), submit(start_layer=99)
    for job_id in (succeeded, failed):
        runner.run(job_id)
        assert not redis.exists(job_key(job_id))


def test_attempt_that_lost_the_job_cannot_fail_it(settings, records, store, redis, submit, record):
    """It continues after its lease ran out, and fails while the newer attempt runs."""

    class LosesAttemptOne(RetryingRecords):
        def require(self, job_id: str, attempt: int, token: str | None = None) -> None:
            if attempt == 1:
                self.release(job_id, 1, token)
                self.claim(job_id, max_attempts=9)
            super().require(job_id, attempt, token)
            raise AssertionError("attempt 1 could fail the job")

    def stop_waiting() -> None:
        if record(job_id).attempt == 2:
            raise StopWaiting

    records = LosesAttemptOne(redis)
    with running(settings, records, store, do_duties=stop_waiting) as runner:
        job_id = submit(start_layer=99)
        with pytest.raises(StopWaiting):
            runner.run(job_id)
    assert store.is_open(job_id)
    assert record(job_id).attempt == 2


def test_heartbeats_report_progress(settings, records, store, submit, record):
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


def test_failing_duty_costs_no_attempt(settings, records, store, submit):
    def fail() -> None:
        raise ZeroDivisionError

    with running(settings, records, store, "fake", fail) as runner:
        job_id = submit(overlay=None)
        runner.run(job_id)
    assert store.result(job_id).attempt == 1


def test_internal_error_ends_the_attempt_not_the_worker(
    settings, records, store, submit, failure, monkeypatch
):
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("worker.runner.Attempt", fail)
    with running(settings, records, store) as runner:
        job_id = submit()
        runner.run(job_id)
    assert failure(job_id).error.code == "worker_crashed"
    assert "internal error" in failure(job_id).error.detail


def test_engine_that_died_between_jobs_costs_no_attempt(settings, records, store, submit):
    with running(settings, records, store) as runner:
        runner.run(submit(overlay=None))
        os.kill(runner.children.engine.pid, signal.SIGKILL)
        os.waitid(os.P_PID, runner.children.engine.pid, os.WEXITED | os.WNOWAIT)
        job_id = submit(overlay=None)
        runner.run(job_id)
    assert store.result(job_id).attempt == 1


@pytest.mark.parametrize("is_record", [True, False])
def test_job_of_a_newer_version_is_left_to_a_newer_worker(
    runner, store, redis, submit, is_record, monkeypatch
):
    """It costs no attempt, and a worker that knows the format runs it later."""
    job_id = submit(overlay=None)
    ticket = store.upload_path(job_id).parents[1] / "job.json"
    old = redis.get(job_key(job_id)), ticket.read_bytes()
    if is_record:
        redis.set(job_key(job_id), '{"version": 2, "hint": "new"}')
    else:
        ticket.write_bytes(old[1].replace(b"{", b'{"priority": "new", ', 1))
    before = redis.get(job_key(job_id)), ticket.read_bytes()
    for _ in range(3):
        with pytest.raises(UnknownFormat):
            runner.run(job_id)
    assert (redis.get(job_key(job_id)), ticket.read_bytes()) == before
    assert store.is_open(job_id)
    assert attempts_left(store, job_id) == []
    redis.set(job_key(job_id), old[0])  # what a newer worker makes of it
    ticket.write_bytes(old[1])
    runner.run(job_id)
    assert store.result(job_id).attempt == 1


def test_record_that_turns_unknown_in_an_attempt_is_left_alone(
    settings, records, store, redis, submit
):
    """A newer service changed it: to cancel the job in a new way, for example."""
    newer = b'{"version": 2, "cancel": "gently"}'
    with running(
        settings, records, store, "fake-slow", lambda: redis.set(job_key(job_id), newer)
    ) as runner:
        job_id = submit(overlay=None)
        with pytest.raises(UnknownFormat):
            runner.run(job_id)
    assert redis.get(job_key(job_id)) == newer
    assert store.is_open(job_id)


def test_job_stored_by_the_release_before_is_run(runner, store, redis, submit):
    """Its record and its ticket have no version, and its attempt has a plain folder."""
    job_id = submit(overlay=None)
    ticket = store.upload_path(job_id).parents[1] / "job.json"
    assert b"version" not in ticket.read_bytes()
    begun = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
    old = {"attempt": 1, "started_at": begun, "lease_until": begun, "progress": None}
    redis.set(job_key(job_id), json.dumps(old | {"cancel_requested": False, "over": False}))
    (store.begin_attempt(job_id, 1) / "overlay.mp4").write_bytes(b"half")
    runner.run(job_id)
    assert store.result(job_id).attempt == 2
    assert attempts_left(store, job_id) == []


@pytest.mark.parametrize("stage", ["decode", "explain", "render", "publish"])
def test_attempts_with_one_number_do_not_disturb_each_other(
    settings, records, store, redis, redis_url, submit, record, stage, monkeypatch
):
    """Redis goes back to before the claim while attempt 1 runs, and another worker claims."""
    monkeypatch.setattr("worker.runner.HELD_SECONDS", 0.5)
    others: list[Thread] = []

    def go_back() -> None:
        if not others and record(job_id).progress.stage == stage:
            redis.flushall()
            redis.restore(job_key(job_id), 0, snapshot)
            others.append(Thread(target=other.run, args=(job_id,)))
            others[0].start()
            wait_until(lambda: record(job_id).attempt == 1)

    with (
        Redis.from_url(redis_url) as own,
        running(settings, RetryingRecords(own), store, "fake-slow") as other,
        running(settings, records, store, "fake-slow", go_back) as runner,
    ):
        job_id = submit(overlay=None)
        snapshot = redis.dump(job_key(job_id))
        with suppress(JobHeld):
            runner.run(job_id)
        others[0].join(30)
    assert store.result(job_id).attempt == 1
    assert not redis.keys("rollout:*")
    assert attempts_left(store, job_id) == []


def test_longer_video_gets_one_clip_per_second(runner, store, submit, tmp_path):
    long = make_video(tmp_path / "long.mp4", seconds=20, width=64, height=64)
    job_id = submit(long.read_bytes(), clips="tile", overlay=None)
    runner.run(job_id)
    assert store.result(job_id).clips == 20


def counted(runner: Runner) -> WorkerCounters:
    return runner.counts.snapshot(runner.children.restarts)


def test_a_job_that_succeeds_is_counted_with_its_clips_and_stages(runner, submit, store):
    job_id = submit(clips="tile")
    runner.run(job_id)

    found = counted(runner)

    assert (found.attempts, found.jobs, found.clips) == (1, {"succeeded": 1}, 3)
    assert found.restarts == {}
    timings = store.result(job_id).timings_seconds
    assert found.stages.keys() == timings.keys() - {"total"}
    for stage in ("open", "decode", "explain", "render"):
        assert found.stages[stage].attempts == 1
        assert found.stages[stage].seconds == pytest.approx(timings[stage], abs=0.05)
    assert 0 < found.explain_seconds == found.engine_seconds


def test_the_curves_of_faithfulness_keep_the_engine_busy(runner, submit):
    runner.run(submit(faithfulness=True))

    found = counted(runner)

    assert found.clips == 1
    assert found.engine_seconds > found.explain_seconds > 0
    assert found.stages["faithfulness"].attempts == 1


def test_an_engine_that_crashes_is_counted_with_its_attempts(settings, records, store, submit):
    with running(settings, records, store, model="fake-crash") as crashing:
        crashing.run(submit(model="fake-crash"))
        crashing.children.restart_dead()

        found = counted(crashing)

    assert (found.attempts, found.jobs) == (settings.max_attempts, {"failed": 1})
    assert found.restarts == {"engine": settings.max_attempts}
    assert found.stages["explain"].attempts == settings.max_attempts


def test_a_media_process_that_breaks_is_counted(runner, submit, monkeypatch):
    def break_media(attempt, media, model):
        raise media.kill_as_lost()

    monkeypatch.setattr("worker.attempt.Attempt._compute", break_media)
    runner.run(submit())

    assert counted(runner).restarts["media"] == runner._settings.max_attempts


def test_a_video_that_cannot_be_read_breaks_no_child(runner, submit):
    runner.run(submit(b"no video at all"))

    found = counted(runner)

    assert (found.jobs, found.restarts, found.clips) == ({"failed": 1}, {}, 0)
    assert found.stages["open"].attempts == 1


def test_a_canceled_job_is_counted_as_such(runner, submit, redis):
    job_id = submit()
    redis.set(job_key(job_id), JobRecord(cancel_requested=True).model_dump_json())
    runner.run(job_id)

    assert (counted(runner).attempts, counted(runner).jobs) == (0, {"canceled": 1})
