"""Workers whose store is in a bucket."""

import errno
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.request import urlopen

import pytest

from rollout_core.contract import RESULT_NAME, ExplainRequest
from rollout_core.jobs.bucket import Bucket
from rollout_core.jobs.object_store import ObjectStore
from rollout_core.jobs.records import Ended, JobRecord, Ticket
from rollout_core.jobs.redis_records import job_key
from tests.rollout_core.jobs.store_cases import gone_bucket
from tests.system.waiting import wait_until
from tests.worker.test_ill_store import running
from worker.redis_jobs import RetryingRecords
from worker.runner import StoreTrouble


@pytest.fixture
def store(bucket, settings) -> ObjectStore:
    """The store of the worker."""
    return ObjectStore(bucket, settings.data_dir)


@pytest.fixture
def service(bucket_url, tmp_path) -> ObjectStore:
    """The same store on the machine of the service."""
    return ObjectStore(Bucket.at(bucket_url), tmp_path / "service", remember_seconds=0)


@pytest.fixture
def records(redis) -> RetryingRecords:
    return RetryingRecords(redis)


@pytest.fixture
def record(redis) -> Callable[[str], JobRecord]:
    return lambda job_id: JobRecord.model_validate_json(redis.get(job_key(job_id)))


@pytest.fixture
def submit(redis, service, video):
    """Return a function that stores a job as the service does, without queueing it."""

    def submit(**request: object) -> str:
        job_id, content = uuid.uuid4().hex, video.read_bytes()
        key = f"uploads/{job_id}/video"
        service.bucket.put(key, content)
        ticket = Ticket(
            id=job_id,
            request=ExplainRequest.model_validate({"model": "fake"} | request),
            created_at=datetime.now(UTC),
            upload_bytes=len(content),
        )
        service.accept(ticket, PurePosixPath(key))
        redis.set(job_key(job_id), JobRecord().model_dump_json())
        return job_id

    return submit


@pytest.fixture
def outage(store, monkeypatch):
    """The bucket of the worker: a test takes it away and brings it back."""
    return Outage(store.bucket, gone_bucket(monkeypatch))


class Outage:
    def __init__(self, bucket: Bucket, gone: Bucket) -> None:
        self._bucket, self._present, self._gone = bucket, bucket._store, gone._store
        self.is_there = True

    def begin(self) -> None:
        self._bucket._store, self.is_there = self._gone, False

    def end(self) -> None:
        self._bucket._store, self.is_there = self._present, True


def files_here(store: ObjectStore) -> list[str]:
    return [str(path) for path in Path(store.root).rglob("*") if path.is_file()]


def test_job_is_fetched_run_and_published(settings, records, store, service, submit, redis):
    job_id = submit()
    with running(settings, records, store) as runner:
        runner.run(job_id)
    result = service.result(job_id)
    assert result.attempt == 1
    for artifact in result.artifacts:
        file = service.artifact(job_id, artifact.name)
        assert file.size == artifact.bytes == len(file.read())
    assert service.artifact(job_id, RESULT_NAME)
    assert files_here(store) == []
    assert not redis.exists(job_key(job_id))


def test_links_to_artifacts_have_their_headers(settings, records, store, service, submit):

    job_id = submit(overlay=None)
    with running(settings, records, store) as runner:
        runner.run(job_id)
    shown = {}
    for artifact in service.result(job_id).artifacts:
        file = service.artifact(job_id, artifact.name)
        with urlopen(service.bucket.link(file.key, 60), timeout=10) as answer:
            shown[artifact.name] = (
                answer.headers["Content-Disposition"],
                answer.headers.get_content_type(),
            )
    name = f"{job_id[:8]}-rollout.npz"
    assert shown["rollout.npz"] == (f'attachment; filename="{name}"', "application/octet-stream")
    assert {kind for _, kind in shown.values()} > {"image/png"}


def test_failure_ends_the_job_and_leaves_nothing(settings, records, store, service, submit):
    job_id = submit(start_layer=99)
    with running(settings, records, store) as runner:
        runner.run(job_id)
    assert service.ending(job_id).error.code == "invalid_request"
    assert files_here(store) == []
    assert service.latest_attempt(job_id) == 0


def test_attempt_of_a_killed_worker_is_followed_by_another(
    settings, records, store, service, submit, tmp_path
):
    job_id = submit(overlay=None)
    killed = ObjectStore(store.bucket, tmp_path / "killed")
    records.claim(job_id, max_attempts=3, token="a" * 32)
    (killed.begin_attempt(job_id, 1, "a" * 32) / "sheet.png").write_bytes(b"half")
    records.release(job_id, 1, "a" * 32)
    with running(settings, records, store) as runner:
        runner.run(job_id)
    assert service.result(job_id).attempt == 2
    assert service.latest_attempt(job_id) == 2
    names = {
        found.key.split("/attempts/")[-1].split("-")[0] for found in service.bucket.objects("jobs")
    }
    assert "1" not in names


def test_job_deleted_while_it_runs_leaves_nothing(
    settings, records, store, service, submit, redis, record
):
    def delete() -> None:
        if service.exists(job_id) and record(job_id).progress:
            service.delete(job_id)
            redis.delete(job_key(job_id))

    job_id = submit(overlay=None)
    with running(settings, records, store, "fake-slow", delete) as runner:
        runner.run(job_id)
    assert not service.exists(job_id)
    assert service.bucket.objects("jobs") == []
    assert files_here(store) == []


@pytest.mark.parametrize("stage", ["decode", "explain", "publish"])
def test_outage_in_an_attempt_hands_the_job_back(
    settings, records, store, service, submit, record, outage, stage
):
    def fall_ill() -> None:
        progress = record(job_id).progress
        if progress and progress.stage == stage:
            outage.begin()

    job_id = submit(overlay=None)
    with (
        running(settings, records, store, "fake-slow", fall_ill) as runner,
        pytest.raises(StoreTrouble, match=r"Error performing|error sending"),
    ):
        runner.run(job_id)
    assert not outage.is_there
    assert (record(job_id).attempt, record(job_id).lease_until) == (0, None)
    outage.end()
    with running(settings, records, store) as runner:
        runner.run(job_id)
    assert service.result(job_id).attempt == 1
    assert files_here(store) == []


def test_end_waits_for_the_bucket_and_keeps_the_lease(
    settings, records, store, service, submit, record, outage, redis, monkeypatch
):
    monkeypatch.setattr("worker.heartbeat.BEAT_SECONDS", 0.1)
    job_id = submit(start_layer=99)
    end_attempts, leases = store.end_attempts, []

    def fall_ill(name: str) -> None:
        if not leases:
            outage.begin()
        end_attempts(name)

    monkeypatch.setattr(store, "end_attempts", fall_ill)
    with running(settings, records, store) as runner:
        thread = threading.Thread(target=runner.run, args=(job_id,), daemon=True)
        thread.start()
        wait_until(lambda: runner.waiting_for == "store")
        leases.append(record(job_id).lease_until)
        wait_until(lambda: record(job_id).lease_until > leases[0])
        assert service.is_open(job_id)
        outage.end()
        thread.join(20)
        assert not thread.is_alive()
    ended = service.ending(job_id)
    assert isinstance(ended, Ended)
    assert ended.error.code == "invalid_request"
    assert not redis.exists(job_key(job_id))


def test_full_disk_of_this_machine_hands_the_job_back(
    settings, records, store, submit, record, monkeypatch
):

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    job_id = submit(overlay=None)
    with running(settings, records, store) as runner:
        with monkeypatch.context() as patch:
            patch.setattr(store.bucket, "download", fill)
            with pytest.raises(StoreTrouble) as caught:
                runner.run(job_id)
        assert caught.value.full
        assert record(job_id).attempt == 0
        runner.run(job_id)
    assert store.result(job_id).attempt == 1
