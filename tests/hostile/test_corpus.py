"""Run a job for every hostile file, with a real runner, a real media process and a fake engine."""

import io
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import av
import pytest
from redis import Redis

from rollout_core.contract import ExplainRequest
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.records import Ended, JobRecord, Ticket
from rollout_core.jobs.redis_records import job_key
from rollout_core.video.signatures import HEAD_BYTES, is_video_container
from tests.hostile.codes import CONTAINER
from tests.hostile.corpus import Hostile, make_corpus
from tests.hostile.fake_containers import texts
from tests.hostile.header_claims import alias, refer
from tests.hostile.maker import Maker
from tests.rollout_core import films
from worker.children import Children, Media
from worker.messages import EngineOptions, MediaOptions
from worker.redis_jobs import RetryingRecords
from worker.runner import Runner
from worker.settings import Settings

TOKEN = b"token-of-another-client"
DEADLINE_SECONDS = 8.0
MAX_SECONDS = 20.0
MAX_BYTES = 1 << 29


class MeasuredChildren(Children):
    """Child processes; records the peak memory of the media processes."""

    def __init__(self) -> None:
        super().__init__(
            "fake",
            EngineOptions(model="fake"),
            MediaOptions(),
            load_seconds=30,
        )
        self.peak_bytes = 0

    def take_media(self) -> Media:
        media = super().take_media()
        kill = media.kill

        def measure_and_kill() -> None:
            self.peak_bytes = max(self.peak_bytes, peak_bytes(media.pid))
            kill()

        media.kill = measure_and_kill  # type: ignore[method-assign]
        return media


def peak_bytes(pid: int) -> int:
    """Return the peak memory of a process, 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


@dataclass(frozen=True)
class Outcome:
    """How a job with a hostile file ended, and its output files."""

    code: str
    detail: str
    attempt: int
    seconds: float
    outputs: bytes


class JobRunner:
    """Runs jobs one after another; the store also has a film of another client."""

    def __init__(self, folder: Path, redis: Redis, children: MeasuredChildren) -> None:
        settings = Settings(
            engine="fake", data_dir=folder / "data", job_deadline_seconds=DEADLINE_SECONDS
        )
        self.children = children
        self._redis = redis
        self._store = FolderStore(settings.data_dir)
        self._runner = Runner(settings, children, RetryingRecords(redis), self._store, lambda: None)
        film = films.encode(folder / "secret.mp4", metadata={"title": TOKEN.decode()})
        self.secret = self._store.upload_path(self._submit(film.read_bytes()))
        self.secret.with_name("secret.txt").write_bytes(TOKEN)

    def run(self, upload: bytes) -> Outcome:
        """Run a job, delete it and return its outcome."""
        job_id = self._submit(upload)
        began = time.monotonic()
        self._runner.run(job_id)
        seconds = time.monotonic() - began
        end = self._store.ending(job_id)
        assert end is not None
        outputs = contents(self._store.upload_path(job_id).parents[1] / "result")
        self._store.delete(job_id)
        if isinstance(end, Ended):
            assert end.error is not None
            return Outcome(end.error.code, end.error.detail, end.attempt, seconds, outputs)
        return Outcome("succeeded", "", end.attempt, seconds, outputs)

    def _submit(self, upload: bytes) -> str:
        ticket = Ticket(
            id=uuid.uuid4().hex,
            request=ExplainRequest(model="fake", preview=True),
            created_at=datetime.now(UTC),
            upload_bytes=len(upload),
        )
        with self._store.receiving() as path:
            path.write_bytes(upload)
            self._store.accept(ticket, path)
        self._redis.set(job_key(ticket.id), JobRecord().model_dump_json())
        return ticket.id


def contents(folder: Path) -> bytes:
    """Return the content of all files in a folder, unpacked."""
    found = []
    for path in folder.iterdir():
        found.append(path.read_bytes())
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found += [archive.read(name) for name in archive.namelist()]
    return b"\n".join(found)


@contextmanager
def open_runner(folder: Path, redis_url: str) -> Iterator[JobRunner]:
    children = MeasuredChildren()
    with Redis.from_url(redis_url) as redis:
        try:
            yield JobRunner(folder, redis, children)
        finally:
            children.close()


@pytest.fixture(scope="module")
def runner(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobRunner]:
    with open_runner(tmp_path_factory.mktemp("runner"), redis_url) as runner:
        yield runner


@pytest.fixture(scope="module")
def corpus(runner: JobRunner, tmp_path_factory: pytest.TempPathFactory) -> list[Hostile]:
    return [*make_corpus(tmp_path_factory.mktemp("corpus"), runner.secret)]


@pytest.fixture(scope="module")
def engine(runner: JobRunner) -> int:
    """Return the engine's process id before the first hostile file."""
    return runner.children.engine.pid


@pytest.fixture(scope="module")
def outcomes(runner: JobRunner, corpus: list[Hostile], engine: int) -> dict[str, Outcome]:
    return {hostile.name: outcome_of(hostile, runner) for hostile in corpus}


def outcome_of(hostile: Hostile, runner: JobRunner) -> Outcome:
    """Run a job; run it once more if it was late or lost a process, which a busy machine can cause.

    A file that kills a media process does so again.
    """
    first = runner.run(hostile.content)
    is_late = first.seconds >= DEADLINE_SECONDS and first.code != hostile.code
    is_slow = first.seconds >= MAX_SECONDS or first.attempt > 1
    return runner.run(hostile.content) if is_late or is_slow else first


def test_the_corpus_is_large_and_has_no_duplicates(corpus):
    assert len({hostile.name for hostile in corpus}) == len(corpus) > 200
    assert len({hostile.content for hostile in corpus}) == len(corpus)


def test_every_job_ends_with_the_right_code(corpus, outcomes):
    expected = {hostile.name: hostile.code for hostile in corpus}
    assert {name: outcome.code for name, outcome in outcomes.items()} == expected


def test_no_job_needs_a_second_attempt(outcomes):
    """No file killed a media process. That would be harmless, but none is known to."""
    attempts = {name: outcome.attempt for name, outcome in outcomes.items()}
    assert {name: attempt for name, attempt in attempts.items() if attempt > 1} == {}


def test_every_job_ends_in_time(outcomes):
    took = {name: outcome.seconds for name, outcome in outcomes.items()}
    assert {name: seconds for name, seconds in took.items() if seconds >= MAX_SECONDS} == {}


def test_no_job_takes_much_memory(outcomes, runner):
    assert 0 < runner.children.peak_bytes < MAX_BYTES


def test_no_output_contains_data_of_another_client(outcomes):
    leaks = [name for name, outcome in outcomes.items() if TOKEN in outcome.outputs]
    assert leaks == []


def test_no_detail_contains_a_path_or_a_traceback(outcomes):
    for outcome in outcomes.values():
        assert "/" not in outcome.detail
        assert "Traceback" not in outcome.detail


def test_the_same_engine_serves_a_valid_job_afterwards(runner, outcomes, engine):
    assert runner.children.engine.pid == engine
    outcome = runner.run(runner.secret.read_bytes())
    assert (outcome.code, outcome.attempt) == ("succeeded", 1)
    assert runner.children.engine.alive


def test_the_worker_also_refuses_what_the_service_refuses_at_once(corpus):
    refused = [
        hostile.code for hostile in corpus if not is_video_container(hostile.content[:HEAD_BYTES])
    ]
    assert len(refused) > 40
    assert set(refused) == {CONTAINER}


# The attacks work without the protection.


def test_a_leaked_token_is_found(runner, tmp_path):
    """A film's metadata never reach its outputs, so a token there comes from another film."""
    (tmp_path / "stolen").write_bytes(runner.secret.read_bytes())
    assert TOKEN in contents(tmp_path)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("stolen", TOKEN * 99)
    (tmp_path / "stolen").write_bytes(packed.getvalue())
    assert TOKEN in contents(tmp_path)


def test_ffmpeg_opens_another_clients_film_from_a_list(runner, tmp_path):
    lists = {name: content for name, content, _ in texts(runner.secret)}
    upload = tmp_path / "upload"
    upload.write_bytes(lists["text-concat-absolute"])
    with av.open(f"file:{upload}", options={"safe": "0"}) as container:
        assert len([*container.decode(video=0)]) == 10


def test_ffmpeg_opens_another_clients_film_from_an_alias(runner, tmp_path):
    maker = Maker(tmp_path)
    upload = tmp_path / "upload"
    upload.write_bytes(refer(maker.mp4, b"alis", alias(runner.secret, levels=0)))
    options = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(f"file:{upload}", options=options) as container:
        assert len([*container.decode(video=0)]) == 10
