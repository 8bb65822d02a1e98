import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis

from rollout_core.contract import ExplainRequest
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.records import JobRecord, Ticket
from rollout_core.jobs.redis_records import job_key
from rollout_core.jobs.store import ArtifactStore
from tests.worker.clips import make_video
from worker.child import next_message
from worker.children import Engine
from worker.fork_server import ForkServer
from worker.messages import EngineOptions, MediaOptions, Ready
from worker.scripted_child import ScriptedMedia
from worker.settings import Settings

Submit = Callable[..., str]


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "moving-square.mp4")


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """A template of media processes for all tests."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return FolderStore(tmp_path / "data")


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings(engine="fake", redis_url=redis_url, data_dir=tmp_path / "data")


@pytest.fixture
def submit(redis: Redis, store: ArtifactStore, video: Path) -> Submit:
    """Return a function that stores a job as the service does, without queueing it."""

    def submit(upload: bytes | None = None, **request: object) -> str:
        job_id = uuid.uuid4().hex
        content = video.read_bytes() if upload is None else upload
        ticket = Ticket(
            id=job_id,
            request=ExplainRequest.model_validate({"model": "fake"} | request),
            created_at=datetime.now(UTC),
            upload_bytes=len(content),
        )
        with store.receiving() as path:
            path.write_bytes(content)
            store.accept(ticket, path)
        redis.set(job_key(job_id), JobRecord().model_dump_json())
        return job_id

    return submit


@pytest.fixture
def start() -> Iterator[object]:
    started: list[Engine] = []

    def start(model: str = "fake", kind: str = "fake") -> Engine:
        started.append(Engine(kind, EngineOptions(model=model), load_seconds=30))
        return started[-1]

    yield start
    for engine in started:
        engine.kill()


@pytest.fixture
def ready(start):
    def ready(model: str = "fake") -> Engine:
        engine = start(model)
        next_message(engine, Ready, lambda: None)
        return engine

    return ready


@pytest.fixture
def media() -> Iterator[ScriptedMedia]:
    """A media process whose files are limited; the test speaks for it."""
    media = ScriptedMedia(MediaOptions(file_bytes=10_000))
    yield media
    media.kill()
