"""Fixtures: a real Valkey server, the real app, and a fake worker driven by the tests."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from redis import Redis
from starlette.testclient import TestClient

from rollout_core.contract import (
    ARCHIVE_NAME,
    FAITHFULNESS_NAME,
    OVERLAY_NAME,
    PREVIEW_NAME,
    SHEET_NAME,
    THUMBNAILS_NAME,
    ExplainRequest,
    ExplainResult,
    JobOptions,
    Prediction,
    describe,
)
from rollout_core.jobs.counters import WorkerCounters
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.records import Ended, JobError, JobRecord, Progress, Ticket
from rollout_core.jobs.redis_records import WORKERS_KEY, Announcement, job_key
from rollout_core.jobs.store import ArtifactStore
from rollout_core.model.specs import ModelSpec
from service import names, workers
from service.app import create_app
from service.inventory import Inventory
from service.jobs import Jobs
from service.maintenance import Reconciler
from service.routes.artifacts import artifact_url
from service.settings import Settings
from service.upload_store import Received
from service.usage import Owner
from tests.service.owners import write_keys

MP4 = b"\0\0\0\x18ftypisom" + bytes(range(256)) * 8


@pytest.fixture(autouse=True)
def _old_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests' Redis count as one that all workers have announced themselves to."""
    monkeypatch.setattr(workers, "YOUNG_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def _eager_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each call see what workers have just announced."""
    monkeypatch.setattr(workers, "READ_SHARE", math.inf)


@pytest.fixture(autouse=True)
def _eager_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each pass find at once what a test has written behind the service's back."""
    monkeypatch.setattr(names, "LISTS_SHARE", math.inf)


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings(redis_url=redis_url, data_dir=tmp_path / "data")


@pytest.fixture
def store(settings: Settings) -> ArtifactStore:
    return FolderStore(settings.data_dir)


@pytest.fixture
def jobs(redis: Redis, store: ArtifactStore) -> Jobs:
    return Jobs(redis, store, artifact_url=artifact_url)


@pytest.fixture
def open_client(settings: Settings, redis: Redis) -> Iterator[Callable[..., TestClient]]:
    """Open a client of a new app; keyword arguments override its settings."""
    with ExitStack() as stack:

        def open_one(*, raise_server_exceptions: bool = True, **changes: Any) -> TestClient:
            app = create_app(settings.model_copy(update=changes))
            client = TestClient(
                app, "http://localhost", raise_server_exceptions=raise_server_exceptions
            )
            return stack.enter_context(client)

        yield open_one


@pytest.fixture
def client(open_client: Callable[..., TestClient]) -> TestClient:
    return open_client()


@pytest.fixture
def announce(redis: Redis) -> Callable[..., Announcement]:
    """Write an announcement, as a worker that serves a model does."""

    def beat(
        model: str = "fake",
        *,
        worker: str = "w1",
        age_seconds: float = 0,
        ready: bool = True,
        device: str = "cpu",
        seconds_per_job: float | None = None,
        sha256: str | None = None,
        stopping: bool = False,
        waiting_for: Literal["store"] | None = None,
        engine: Literal["torch", "fake"] = "fake",
        counters: WorkerCounters | None = None,
        **changes: Any,
    ) -> Announcement:
        spec = ModelSpec(name=model, frames=4, clip_seconds=1, height=32, width=48, classes=3)
        announcement = Announcement(
            model=spec.model_copy(update=changes),
            checkpoint_sha256=sha256,
            engine=engine,
            device=device,
            ready=ready,
            stopping=stopping,
            waiting_for=waiting_for,
            seconds_per_job=seconds_per_job,
            counters=counters,
            beat_at=datetime.now(UTC) - timedelta(seconds=age_seconds),
        )
        redis.hset(WORKERS_KEY, worker, announcement.model_dump_json())
        return announcement

    return beat


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """The keys of ann and ben; see `owners`."""
    path = tmp_path / "keys.toml"
    write_keys(path)
    return path


@pytest.fixture
def keyed(
    open_client: Callable[..., TestClient], announce: Callable[..., Announcement], keys_file: Path
) -> TestClient:
    """A client of a service with these keys."""
    announce()
    return open_client(api_keys_file=keys_file)


@pytest.fixture
def shift_redis_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Make the clock of Redis differ from that of this host, by seconds."""

    def shift(seconds: float) -> None:
        def shifted(_: Redis) -> tuple[int, int]:
            now = time.time() + seconds
            return int(now), int(now % 1 * 1e6)

        monkeypatch.setattr(Redis, "time", shifted)

    return shift


@pytest.fixture
def reconciler(store: ArtifactStore, redis: Redis) -> Reconciler:
    return Reconciler(store, Inventory(store), redis)


@pytest.fixture
def submit(
    jobs: Jobs, store: ArtifactStore, announce: Callable[..., Announcement]
) -> Callable[..., str]:
    """Submit a job to `jobs`, or to others, as the upload route does; return its id."""
    announce()
    usual = jobs

    def one(jobs: Jobs | None = None, *, owner: Owner | None = None, **request: Any) -> str:
        with store.receiving() as path:
            path.write_bytes(b"video")
            to, name = jobs or usual, owner.name if owner else None
            with to.submissions.adding_upload(path, Received.of(path), owner=name) as upload:
                return to.submit(JobOptions(**request), upload, owner=owner).id

    return one


@pytest.fixture
def accept(store: ArtifactStore) -> Callable[..., Ticket]:
    """Put a job into the store, but not into Redis; return its ticket."""

    def one(number: int, *, size: int = 1000, owner: str | None = None) -> Ticket:
        ticket = Ticket(
            id=f"{number:032x}",
            request=ExplainRequest(model="fake"),
            created_at=datetime.now(UTC),
            upload_bytes=size,
            owner=owner,
        )
        with store.receiving() as path:
            path.write_bytes(bytes(size))
            store.accept(ticket, path)
        return ticket

    return one


class Worker:
    """Performs the steps of a worker process on jobs."""

    def __init__(self, redis: Redis, store: ArtifactStore) -> None:
        self._redis = redis
        self._store = store

    def record(self, job_id: str) -> JobRecord:
        return JobRecord.model_validate_json(self._redis.get(job_key(job_id)))

    def write(self, job_id: str, record: JobRecord) -> None:
        self._redis.set(job_key(job_id), record.model_dump_json())

    def claim(self, job_id: str, *, age_seconds: float = 0) -> None:
        now = datetime.now(UTC) - timedelta(seconds=age_seconds)
        self._redis.delete(f"rq:queue:rollout-{self._store.ticket(job_id).request.model}")
        self.write(job_id, self.record(job_id).claim(now, max_attempts=9))

    def beat(self, job_id: str, progress: Progress) -> None:
        record = self.record(job_id)
        self.write(job_id, record.beat(record.attempt, datetime.now(UTC), progress))

    def fail(self, job_id: str, error: JobError) -> None:
        self.end(job_id, self.record(job_id).ended("failed", datetime.now(UTC), error))

    def end(self, job_id: str, ended: Ended) -> None:
        self._store.end(job_id, ended)
        self._redis.delete(job_key(job_id))

    def succeed(self, job_id: str, *, checkpoint_sha256: str | None = None) -> dict[str, bytes]:
        """Run the job from claim to publication; return its files."""
        self.claim(job_id)
        attempt = self.record(job_id).attempt
        folder = self._store.begin_attempt(job_id, attempt)
        files = {
            ARCHIVE_NAME: b"PK\x03\x04" + bytes(100),
            OVERLAY_NAME: bytes(range(256)) * 40,
            SHEET_NAME: b"\x89PNG" + bytes(50),
            FAITHFULNESS_NAME: b"\x89PNG" + bytes(60),
            PREVIEW_NAME: bytes(70),
            THUMBNAILS_NAME: b"\xff\xd8\xff" + bytes(80),
        }
        for name, content in files.items():
            (folder / name).write_bytes(content)
        now = datetime.now(UTC)
        result = ExplainResult(
            model="fake",
            checkpoint_sha256=checkpoint_sha256,
            request=self._store.ticket(job_id).request,
            predictions=(Prediction(label="left", index=0, probability=0.75),),
            clips=2,
            frames=8,
            artifacts=tuple(describe(folder / name) for name in files),
            timings_seconds={"decode": 0.5},
            attempt=attempt,
            started_at=now,
            ended_at=now + timedelta(seconds=1),
        )
        self._store.publish(job_id, attempt, result)
        self._redis.delete(job_key(job_id))
        return files


@pytest.fixture
def worker(redis: Redis, store: ArtifactStore) -> Worker:
    return Worker(redis, store)


@pytest.fixture
def mp4() -> bytes:
    return MP4


@pytest.fixture
def new_job(client: TestClient, announce: Callable[..., Announcement]) -> Callable[..., str]:
    """Upload a video for the model "fake", over HTTP; return the job's id."""
    announce()

    def create(request: str = '{"model": "fake"}') -> str:
        files = {"video": ("clip.mp4", MP4), "request": (None, request, "application/json")}
        response = client.post("/v1/jobs", files=files)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    return create


@pytest.fixture
def leftovers(settings: Settings) -> Callable[[], list[Path]]:
    """List all files and folders of jobs and uploads."""
    places = ("incoming", "jobs", "uploads", "blobs")
    return lambda: [path for place in places for path in (settings.data_dir / place).rglob("*")]
