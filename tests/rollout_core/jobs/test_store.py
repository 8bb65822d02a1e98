import errno
import json
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from rollout_core.contract import RESULT_NAME, ExplainRequest, ExplainResult, describe
from rollout_core.errors import AttemptLost, StoreFull, StoreUnavailable, UnknownFormat
from rollout_core.jobs.disk import fsync_files, link_or_copy
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.records import Ended, JobError, Origin, Ticket
from rollout_core.jobs.store import unavailable

JOB = "0123456789abcdef" * 2
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """An empty store."""
    return FolderStore(tmp_path / "data")


@pytest.fixture
def job(store: FolderStore) -> str:
    """An accepted job."""
    with store.receiving() as upload:
        upload.write_bytes(b"a video")
        ticket = Ticket(id=JOB, request=ExplainRequest(), created_at=NOW, upload_bytes=7)
        store.accept(ticket, upload)
    return JOB


def result(attempt: int) -> ExplainResult:
    return ExplainResult(
        model="m",
        checkpoint_sha256=None,
        request=ExplainRequest(),
        predictions=(),
        clips=1,
        frames=8,
        artifacts=(),
        timings_seconds={},
        attempt=attempt,
        started_at=NOW,
        ended_at=NOW,
    )


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestOrigin:
    ORIGIN = Origin(request_id="a/1", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")

    def accept(self, store: FolderStore, origin: Origin | None) -> Path:
        with store.receiving() as upload:
            upload.write_bytes(b"a video")
            ticket = Ticket(id=JOB, request=ExplainRequest(), created_at=NOW, upload_bytes=7)
            store.accept(ticket, upload, origin=origin)
        return store.root / "jobs" / JOB

    def test_it_is_kept_with_the_job_and_counted(self, store):
        folder = self.accept(store, self.ORIGIN)
        assert store.origin(JOB) == self.ORIGIN
        without = store.survey(JOB).total_bytes - (folder / "origin.json").stat().st_size
        (folder / "origin.json").unlink()
        assert store.survey(JOB).total_bytes == without

    @pytest.mark.parametrize("origin", [None, Origin()])
    def test_an_empty_one_takes_no_file(self, store, origin):
        folder = self.accept(store, origin)
        assert not (folder / "origin.json").exists()
        assert store.origin(JOB) == Origin()

    def test_its_job_is_read_by_releases_that_do_not_know_it(self, store):
        """They look at files by name, so one more hurts none of them."""
        folder = self.accept(store, self.ORIGIN)
        assert "request_id" not in (folder / "job.json").read_text()
        assert "request_id" not in (folder / "submission.json").read_text()

    def test_what_a_newer_release_adds_is_left_out(self, store):
        folder = self.accept(store, self.ORIGIN)
        newer = json.loads((folder / "origin.json").read_text()) | {"version": 9, "more": 1}
        (folder / "origin.json").write_text(json.dumps(newer))
        assert store.origin(JOB).request_id == "a/1"

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b"\xff", b'{"request_id": "a b"}', b'{"traceparent": "x"}']
    )
    def test_what_cannot_be_read_counts_as_nothing(self, store, content):
        (self.accept(store, self.ORIGIN) / "origin.json").write_bytes(content)
        assert store.origin(JOB) == Origin()

    def test_a_fault_of_the_disk_does_not_hurt_the_job(self, store):
        folder = self.accept(store, None)
        (folder / "origin.json").mkdir()
        assert store.origin(JOB) == Origin()
        assert store.origin("f" * 32) == Origin()


def test_an_accepted_job_has_its_upload_and_its_ticket(store: FolderStore, job: str):
    assert store.upload_path(job).read_bytes() == b"a video"
    assert [path.name for path in store.upload_path(job).parent.iterdir()] == ["video"]
    ticket = store.ticket(job)
    assert ticket is not None
    assert (ticket.id, ticket.upload_bytes) == (JOB, 7)


def test_an_upload_that_is_not_accepted_leaves_nothing(store: FolderStore, tmp_path: Path):
    with pytest.raises(ConnectionError), store.receiving() as upload:
        upload.write_bytes(b"half")
        raise ConnectionError
    assert files_below(tmp_path) == []
    assert list((tmp_path / "data" / "incoming").iterdir()) == []


FAILED = Ended(
    state="failed",
    attempt=1,
    started_at=NOW,
    ended_at=NOW,
    error=JobError(code="c", title="t", detail="d"),
)
CANCELED = Ended(state="canceled", attempt=0, started_at=None, ended_at=NOW)


def test_a_job_ends_once(store: FolderStore, job: str, tmp_path: Path):
    store.begin_attempt(job, 1)
    store.end(job, FAILED)
    with pytest.raises(AttemptLost):
        store.end(job, CANCELED)
    with pytest.raises(AttemptLost):
        store.publish(job, 1, result(1))
    assert store.ending(job) == FAILED
    assert list((tmp_path / "data" / "incoming").iterdir()) == []


def test_a_deleted_job_cannot_end(store: FolderStore, job: str, tmp_path: Path):
    store.delete(job)
    with pytest.raises(AttemptLost):
        store.end(job, FAILED)
    assert files_below(tmp_path) == []


def test_an_end_that_cannot_be_stored_says_so(store: FolderStore, job: str, monkeypatch):
    def fill(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", fill)
        store.end(job, FAILED)
    assert store.is_open(job)
    store.end(job, FAILED)


@pytest.fixture
def flushed(monkeypatch) -> list[int]:
    """The inodes of the files and folders that are flushed to the disk."""
    inodes: list[int] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        inodes.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return inodes


def inodes_of(*paths: Path) -> list[int]:
    return sorted(path.stat().st_ino for path in paths)


def test_an_accepted_job_is_flushed_once(store: FolderStore, flushed, request, tmp_path: Path):
    request.getfixturevalue("job")
    jobs = tmp_path / "data" / "jobs"
    folder = jobs / JOB
    documents = folder / "job.json", folder / "submission.json"
    assert sorted(flushed) == inodes_of(*documents, folder / "upload", folder, jobs)


def test_a_result_is_flushed_once(store: FolderStore, job: str, flushed, tmp_path: Path):
    folder = store.begin_attempt(job, 1)
    for name in ("rollout.npz", "sheet.png"):
        (folder / name).write_bytes(b"content")
    flushed.clear()
    fsync_files(folder)
    store.publish(job, 1, result(1))
    published = tmp_path / "data" / "jobs" / job / "result"
    assert sorted(flushed) == inodes_of(*published.iterdir(), published, published.parent)


def test_a_copy_where_there_are_no_links_is_flushed(tmp_path: Path, flushed, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    (tmp_path / "source").write_bytes(b"content")
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    link_or_copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"content"
    assert flushed == inodes_of(tmp_path / "target")


def test_a_full_disk_has_its_own_error():
    full = unavailable(OSError(errno.ENOSPC, "No space left on device"), "d")
    assert (full.code, str(full)) == ("store_full", "the disk is full")
    broken = unavailable(OSError(errno.EIO, "Input/output error"), "d")
    assert (broken.code, str(broken)) == ("store_unavailable", "d")


def test_folders_of_the_release_before_are_understood(store: FolderStore, job: str):
    plain = store.begin_attempt(job, 3)
    assert plain.name == "3"
    assert store.latest_attempt(job) == 3
    new = store.begin_attempt(job, 4, "a")
    assert not plain.exists()
    assert store.latest_attempt(job) == 4
    store.end_attempts(job)
    assert not new.exists()


def test_the_latest_attempt_is_the_highest_folder(store: FolderStore, job: str):
    assert store.latest_attempt(job) == 0
    store.begin_attempt(job, 9)
    store.begin_attempt(job, 10)
    (store.upload_path(job).parents[1] / "attempts" / ".nfs01").touch()
    assert store.latest_attempt(job) == 10
    assert store.latest_attempt("f" * 32) == 0


def test_a_deleted_job_leaves_nothing_and_cannot_be_published(
    store: FolderStore, job: str, tmp_path: Path
):
    store.begin_attempt(job, 1)
    assert store.delete(job)
    assert files_below(tmp_path) == []
    with pytest.raises(AttemptLost):
        store.publish(job, 1, result(1))
    with pytest.raises(AttemptLost):
        store.begin_attempt(job, 2)
    assert files_below(tmp_path) == []


def test_an_expired_job_keeps_its_ticket_and_its_result(
    store: FolderStore, job: str, tmp_path: Path
):
    folder = store.begin_attempt(job, 1)
    (folder / "sheet.png").write_bytes(b"png")
    store.publish(job, 1, result(1))
    (store.begin_attempt(job, 2) / "overlay.mp4").write_bytes(b"left by a worker that died")
    store.expire(job)
    assert store.has_expired(job)
    assert store.result(job) == result(1)
    assert store.artifact_path(job, "sheet.png") is None
    names = {Path(name).name for name in files_below(tmp_path)}
    assert names == {"job.json", "submission.json", "result.json", "expired"}


def test_the_names_of_all_jobs_are_told_and_whether_they_changed(
    store: FolderStore, job: str, tmp_path: Path
):
    assert store.names() == [job]
    before = store.names_changed()
    time.sleep(0.02)  # the kernel's clock for files is coarse
    (tmp_path / "data" / "jobs" / "stray").touch()
    assert sorted(store.names()) == sorted([job, "stray"])
    assert store.names_changed() > before


def test_a_job_that_ends_has_changed(store: FolderStore, job: str):
    before = store.changed(job)
    time.sleep(0.02)
    store.end(job, FAILED)
    assert store.changed(job) == store.survey(job).changed > before
    store.delete(job)
    assert store.changed(job) is store.survey(job) is None


def test_a_folder_in_place_of_a_file_is_an_unknown_format(
    store: FolderStore, job: str, tmp_path: Path
):
    ticket = tmp_path / "data" / "jobs" / job / "job.json"
    ticket.unlink()
    ticket.mkdir()
    with pytest.raises(UnknownFormat, match=r"job\.json is a folder"):
        store.ticket(job)


def test_a_file_in_place_of_a_folder_is_no_job(store: FolderStore, tmp_path: Path):
    (tmp_path / "data" / "jobs" / "stray").touch()
    assert store.ticket("stray") is None
    assert store.accepted_at("stray") == math.inf


def test_a_result_of_another_form_is_an_unknown_format(
    store: FolderStore, job: str, tmp_path: Path
):
    store.begin_attempt(job, 1)
    store.publish(job, 1, result(1))
    path = tmp_path / "data" / "jobs" / job / "result" / RESULT_NAME
    path.write_text('{"of": "another version"}')
    with pytest.raises(UnknownFormat):
        store.ending(job)
    assert store.has_ended(job)


@pytest.fixture
def watched(tmp_path: Path) -> tuple[FolderStore, list[float]]:
    """Return a store, and the time of its monotonic clock."""
    seconds = [1000.0]
    return FolderStore(tmp_path / "data", clock=lambda: seconds[0]), seconds


def test_an_upload_is_not_stale_by_the_clocks_of_files(
    watched: tuple[FolderStore, list[float]],
):
    """They jump with the clock of a host."""
    store, seconds = watched
    with store.receiving() as upload:
        upload.write_bytes(b"half")
        for path in (upload, upload.parent):
            os.utime(path, (0, 0))
        store.remove_stale_uploads(60)
        seconds[0] += 59
        store.remove_stale_uploads(60)
        assert upload.exists()


def test_jobs_are_old_by_the_time_they_were_accepted(store: FolderStore, job: str, tmp_path: Path):
    ticket = tmp_path / "data" / "jobs" / job / "job.json"
    os.utime(ticket, (0, 60))
    assert store.accepted_at(job) == 60
    store.delete(job)
    assert store.accepted_at(job) == math.inf


@pytest.fixture
def vanishing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a folder exist when checked, and vanish before it is listed."""

    def set_up(folder: Path) -> None:
        for name in ("listdir", "scandir"):
            look = getattr(os, name)

            def late(path: Path, look: Callable[[Path], Any] = look) -> Any:
                if Path(path).is_relative_to(folder) and folder.exists():
                    folder.rename(folder.with_name("gone"))
                return look(path)

            monkeypatch.setattr(os, name, late)

    return set_up


@pytest.mark.parametrize(
    "look",
    [
        FolderStore.latest_attempt,
        FolderStore.end_attempts,
        FolderStore.expire,
    ],
)
def test_a_job_deleted_during_a_read_has_no_files(
    store: FolderStore, job: str, vanishing: Callable[[Path], None], look: Callable[..., Any]
):
    store.begin_attempt(job, 1)
    vanishing(store.upload_path(job).parents[1])
    assert not look(store, job)
    assert not store.exists(job)


def test_an_attempt_of_a_job_deleted_meanwhile_fails(
    store: FolderStore, job: str, vanishing: Callable[[Path], None]
):
    vanishing(store.upload_path(job).parents[1])
    with pytest.raises(AttemptLost):
        store.begin_attempt(job, 1)


def test_an_upload_that_ends_during_the_clean_up_is_skipped(
    store: FolderStore, tmp_path: Path, vanishing: Callable[[Path], None]
):
    with store.receiving() as upload:
        vanishing(upload.parent)
        store.remove_stale_uploads(60)
        assert (tmp_path / "data" / "incoming" / "gone").exists()


def test_files_deleted_during_the_count_are_skipped(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter([folder / "gone"]))
    store.remove_stale_uploads(0)


def test_a_job_that_cannot_be_moved_is_not_reported_as_missing(
    store: FolderStore, job: str, tmp_path: Path
):
    (tmp_path / "data" / "incoming").rmdir()
    with pytest.raises(FileNotFoundError):
        store.delete(job)
    assert store.ticket(job)


def test_a_store_without_its_folders_cannot_be_written(store: FolderStore, tmp_path: Path):
    (tmp_path / "data" / "jobs").rmdir()
    with pytest.raises(StoreUnavailable):
        store.check_writable()


def test_full_store_says_that_it_is_full(store: FolderStore, monkeypatch: pytest.MonkeyPatch):
    def fill(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(StoreFull):
        store.check_writable()


def test_ill_store_does_not_call_a_job_missing(
    store: FolderStore, job: str, monkeypatch: pytest.MonkeyPatch
):
    def fail(path: Path, **_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "stat", fail)
    for look in (store.exists, store.has_ended, store.is_open):
        with pytest.raises(OSError, match="Input/output"):
            look(job)


def test_a_store_that_cannot_be_written_says_so(store: FolderStore, tmp_path: Path):
    # Not by permissions: a root user may write all the same.
    (tmp_path / "data" / "incoming").rmdir()
    with pytest.raises(StoreUnavailable):
        store.check_writable()


def test_checking_a_full_store_leaves_no_file(store: FolderStore, tmp_path: Path, monkeypatch):
    def fill(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(StoreUnavailable):
        store.check_writable()
    assert files_below(tmp_path) == []


def test_a_file_is_described_by_its_size_and_digest(tmp_path: Path):
    path = tmp_path / "rollout.npz"
    path.write_bytes(b"abc")
    artifact = describe(path)
    assert (artifact.name, artifact.bytes) == ("rollout.npz", 3)
    assert artifact.sha256 == sha256(b"abc").hexdigest()


@pytest.mark.parametrize("plant", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(__file__)])
def test_only_a_plain_file_is_described(tmp_path, plant):
    plant(tmp_path / "sheet.png")
    with pytest.raises(OSError, match="plain file"):
        describe(tmp_path / "sheet.png")


def test_the_folders_of_the_store_are_private(tmp_path):
    for folder in (tmp_path / "old", tmp_path / "old" / "jobs"):
        folder.mkdir(mode=0o755)

    for root in (tmp_path / "old", tmp_path / "new"):
        FolderStore(root)

        for folder in (root / "jobs", root / "incoming"):
            assert folder.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o755  # it may hold more than the store


def test_what_is_made_once_is_private_and_stays(tmp_path: Path):
    store = FolderStore(tmp_path)
    made = store.made_once("session", "secret", lambda: "first")

    assert made == FolderStore(tmp_path).made_once("session", "secret", lambda: "second")
    assert (tmp_path / "session" / "secret").stat().st_mode & 0o777 == 0o600
