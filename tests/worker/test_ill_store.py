"""Jobs whose store is full, read-only, broken or gone for a while: none may end by that."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from unittest.mock import Mock

import pytest

from rollout_core.errors import StoreFull, VideoUndecodable
from rollout_core.jobs.records import Ended, JobError, JobRecord
from rollout_core.jobs.redis_records import job_key
from rollout_core.jobs.store import FULL
from tests.system.waiting import wait_until
from tests.worker.file_calls import WRITING, file_calls
from worker import wire
from worker.child import ChildLost
from worker.children import Children
from worker.heartbeat import ShuttingDown
from worker.messages import EngineOptions, Failed, MediaOptions, Working
from worker.redis_jobs import RetryingRecords
from worker.runner import ROOM_BYTES, Exhausted, Runner, StoreTrouble
from worker.scripted_child import ScriptedMedia

NUMBERS = ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ENOTCONN")


@pytest.fixture
def records(redis) -> RetryingRecords:
    return RetryingRecords(redis)


@pytest.fixture
def record(redis) -> Callable[[str], JobRecord]:
    return lambda job_id: JobRecord.model_validate_json(redis.get(job_key(job_id)))


@contextmanager
def running(
    settings, records, store, model="fake", do_duties=lambda: None, start_media=None
) -> Iterator[Runner]:
    children = Children(
        "fake",
        EngineOptions(model=model),
        MediaOptions(),
        load_seconds=30,
        start_media=start_media,
    )
    try:
        yield Runner(settings, children, records, store, do_duties)
    finally:
        children.close()


class Disk:
    """A disk that refuses what writes to it while `error` is set."""

    def __init__(self) -> None:
        self.error: int | None = None
        self.break_at: str | None = None

    def refuse(self, name: str) -> None:
        if name == self.break_at:
            self.error = errno.EROFS
        if self.error is not None and name in WRITING:
            raise OSError(self.error, os.strerror(self.error))


@pytest.fixture
def disk(settings) -> Iterator[Disk]:
    disk = Disk()
    with file_calls(settings.data_dir, disk.refuse):
        yield disk


def test_ill_store_hands_the_job_back(settings, records, store, submit, record, disk):
    job_id = submit(overlay=None)
    with running(settings, records, store) as runner:
        for name in NUMBERS:
            disk.error = getattr(errno, name)
            with pytest.raises(StoreTrouble, match="the store cannot be used") as caught:
                runner.run(job_id)
            assert caught.value.full == (disk.error in FULL)
            assert (record(job_id).attempt, record(job_id).lease_until) == (0, None)
        disk.error = None
        runner.run(job_id)
    assert store.result(job_id).attempt == 1


@pytest.mark.parametrize("stage", ["decode", "explain", "render", "publish"])
def test_store_that_falls_ill_in_an_attempt_hands_the_job_back(
    settings, records, store, submit, record, disk, stage
):
    def fall_ill() -> None:
        if record(job_id).progress.stage == stage:
            disk.error = errno.EIO

    with running(settings, records, store, "fake-slow", fall_ill) as runner:
        job_id = submit(overlay=None)
        with pytest.raises(StoreTrouble, match="Input/output error"):
            runner.run(job_id)
    assert (record(job_id).attempt, record(job_id).lease_until) == (0, None)
    disk.error = None
    with running(settings, records, store) as runner:
        runner.run(job_id)
    assert store.result(job_id).attempt == 1


@pytest.mark.parametrize("call", ["replace", "fsync", "rename"])
def test_store_that_falls_ill_while_it_publishes_hands_the_job_back(
    settings, records, store, submit, record, disk, call, monkeypatch
):
    publish = store.publish

    def publish_late(*args: object) -> None:
        disk.break_at = call
        publish(*args)

    monkeypatch.setattr(store, "publish", publish_late)
    job_id = submit(overlay=None)
    with running(settings, records, store) as runner:
        with pytest.raises(StoreTrouble, match="Read-only file system"):
            runner.run(job_id)
        assert record(job_id).attempt == 0
        disk.error = disk.break_at = None
        monkeypatch.setattr(store, "publish", publish)
        runner.run(job_id)
    assert store.result(job_id).attempt == 1


def test_attempt_that_is_handed_back_leaves_no_files(settings, records, store, submit, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rollout_core.archive.save", full)
    job_id = submit(overlay=None)
    with running(settings, records, store) as runner, pytest.raises(StoreTrouble):
        runner.run(job_id)
    assert list(store.upload_path(job_id).parents[1].glob("attempts/*")) == []


@pytest.mark.parametrize("is_running", [False, True])
def test_vanished_store_hands_the_job_back(
    settings, records, store, submit, record, tmp_path, is_running
):
    """As when its mount goes away: an empty folder is left."""

    def vanish() -> None:
        if not (tmp_path / "away").exists():
            settings.data_dir.rename(tmp_path / "away")
            settings.data_dir.mkdir()

    with running(settings, records, store, "fake-slow", vanish) as runner:
        job_id = submit(overlay=None)
        if not is_running:
            vanish()
        with pytest.raises(StoreTrouble, match="No such file"):
            runner.run(job_id)
        settings.data_dir.rmdir()
        (tmp_path / "away").rename(settings.data_dir)
        assert record(job_id).lease_until is None
        (tmp_path / "away").mkdir()
        runner.run(job_id)
    assert store.result(job_id).attempt == 1


ENDS = {
    "failed": ({"start_layer": 99}, "invalid_request"),
    "canceled": ({}, None),
    "all attempts used": ({}, "worker_crashed"),
}


@pytest.mark.parametrize("end", ENDS)
def test_end_waits_for_the_store_and_keeps_the_lease(
    settings, redis, records, store, submit, record, disk, end, monkeypatch
):
    monkeypatch.setattr("worker.heartbeat.BEAT_SECONDS", 0.1)
    request, code = ENDS[end]
    job_id = submit(**request)
    if end == "canceled":
        records._records.update(job_id, lambda record, _: record.request_cancel())
    if end == "all attempts used":
        settings = settings.model_copy(update={"max_attempts": 1})
        records.claim(job_id, max_attempts=1)
        records.release(job_id, 1)
    store_end = store.end_attempts

    def fall_ill(job_id: str) -> None:
        if not leases:
            disk.error = errno.EROFS
        store_end(job_id)

    leases: list[datetime] = []
    monkeypatch.setattr(store, "end_attempts", fall_ill)
    with running(settings, records, store) as runner:
        thread = threading.Thread(target=runner.run, args=(job_id,), daemon=True)
        thread.start()
        wait_until(lambda: runner.waiting_for == "store")
        leases.append(record(job_id).lease_until)
        wait_until(lambda: record(job_id).lease_until > leases[0])
        assert store.is_open(job_id)
        disk.error = None
        thread.join(10)
        assert not thread.is_alive()
        assert runner.waiting_for is None
    ended = store.ending(job_id)
    assert isinstance(ended, Ended)
    assert (ended.error and ended.error.code) == code
    assert not redis.exists(job_key(job_id))


def test_shutdown_ends_the_wait_for_the_store(settings, records, store, submit, record, disk):
    def stop() -> None:
        if runner.waiting_for:
            raise ShuttingDown

    with running(settings, records, store, do_duties=stop) as runner:
        job_id = submit(start_layer=99)
        monkey = store.end_attempts
        store.end_attempts = lambda job_id: (setattr(disk, "error", errno.EROFS), monkey(job_id))
        with pytest.raises(ShuttingDown):
            runner.run(job_id)
    disk.error = None
    assert store.is_open(job_id)
    assert record(job_id).attempt == 0


def complaining(error) -> Callable[[MediaOptions], ScriptedMedia]:
    """Return what starts media processes that answer with `error`."""

    def start(options: MediaOptions) -> ScriptedMedia:
        media = ScriptedMedia(options)
        wire.send(media.script, Working())
        wire.send(media.script, Failed.of(error))
        return media

    return start


def test_full_disk_of_the_media_process_hands_the_job_back(
    settings, records, store, submit, record, disk
):
    job_id = submit(overlay=None)

    def fill() -> None:
        if record(job_id).progress:
            disk.error = errno.ENOSPC

    start = complaining(StoreFull("the disk is full"))
    with (
        running(settings, records, store, do_duties=fill, start_media=start) as runner,
        pytest.raises(StoreTrouble) as caught,
    ):
        runner.run(job_id)
    assert caught.value.full
    assert record(job_id).attempt == 0


def test_complaint_about_a_store_that_is_well_counts(settings, records, store, submit):
    """A media process that a video has compromised must not keep its job for ever."""
    job_id = submit(overlay=None)
    start = complaining(StoreFull("the disk is full"))
    with running(settings, records, store, start_media=start) as runner:
        runner.run(job_id)
    assert store.ending(job_id).error.code == "worker_crashed"
    assert "could not write, but the store is well" in store.ending(job_id).error.detail


def test_other_failures_of_media_end_the_job_though_the_store_is_full(
    settings, records, store, submit
):
    job_id = submit(overlay=None)
    start = complaining(VideoUndecodable("no"))
    with running(settings, records, store, start_media=start) as runner:
        runner.run(job_id)
    assert store.ending(job_id).error.code == "video_undecodable"


def test_exhausted_supervisor_hands_the_job_back(
    settings, records, store, submit, record, monkeypatch
):
    with running(settings, records, store) as runner:
        job_id = submit(overlay=None)
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
            for place in ("socket.socketpair", "os.pipe", "os.dup"):
                refused = OSError(number, os.strerror(number))
                with monkeypatch.context() as patch:
                    patch.setattr(place, Mock(side_effect=refused))
                    with pytest.raises(Exhausted, match="its job goes back to the queue"):
                        runner.run(job_id)
                assert (record(job_id).attempt, record(job_id).lease_until) == (0, None)
        runner.run(job_id)
    assert store.result(job_id).attempt == 1


def test_folder_that_is_missing_costs_an_attempt_not_the_job(settings, records, store, submit):
    """Another attempt, or an operator, has moved it away."""
    job_id = submit(overlay=None)
    seen = []

    def remove() -> None:
        for folder in store.upload_path(job_id).parents[1].glob("attempts/1-*"):
            folder.rename(folder.with_name(f"gone-{len(seen)}"))
            seen.append(folder)

    with running(settings, records, store, "fake-slow", remove) as runner:
        runner.run(job_id)
    assert seen
    assert store.result(job_id).attempt == 2


def test_job_whose_own_folder_cannot_be_used_does_not_pause_the_worker(
    settings, records, store, submit, record, monkeypatch
):
    """The store is well, so the job's attempts count, and others are not kept waiting."""
    job_id = submit(overlay=None)
    begin = store.begin_attempt

    def refuse(name: str, *args: object) -> Path:
        if name == job_id:
            raise PermissionError(errno.EACCES, "Permission denied", "attempts")
        return begin(name, *args)

    monkeypatch.setattr(store, "begin_attempt", refuse)
    with running(settings, records, store) as runner:
        runner.run(job_id)
        other = submit(overlay=None)
        runner.run(other)
    assert store.ending(job_id).error.code == "worker_crashed"
    assert store.result(other).attempt == 1


def test_disk_that_has_room_again_for_a_probe_only_counts_as_full(
    settings, records, store, submit, record, monkeypatch
):
    job_id = submit(overlay=None)
    failed = Failed.of(StoreFull("the disk is full"))
    monkeypatch.setattr(store, "free_bytes", lambda: ROOM_BYTES - 1)
    with running(settings, records, store) as runner:
        error = JobError(code=failed.code, title=failed.title, detail=failed.detail)
        claimed = records.claim(job_id, max_attempts=3, token="a" * 32)
        with pytest.raises(StoreTrouble) as caught:
            runner._check_complaint(job_id, claimed, error)
        assert caught.value.full
        monkeypatch.setattr(store, "free_bytes", lambda: ROOM_BYTES)
        with pytest.raises(ChildLost):
            runner._check_complaint(job_id, claimed, error)
