"""The API is killed at each step of an upload's life: nothing leaks, nothing counts twice."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
import pytest

from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.redis_records import WORKERS_KEY, Announcement
from rollout_core.jobs.store import ArtifactStore
from rollout_core.model.specs import ModelSpec
from service.folder_uploads import FolderUploads
from service.inventory import Inventory
from service.ledger import ENTRIES_KEY, LEASES_KEY, SUMS_KEY, Ledger
from service.maintenance import STALE_UPLOAD_SECONDS, Reconciler
from service.stored_uploads import StoredUploads
from tests.system.system import System, open_system
from tests.system.waiting import wait_until

MP4 = b"\0\0\0\x18ftypisom" + bytes(range(256)) * 1000
MOMENT_SECONDS = 20.0

SPEC = ModelSpec(name="fake", frames=4, clip_seconds=1, height=32, width=48, classes=3)


@dataclass(frozen=True)
class Crash:
    """A point at which the API is killed.

    Attributes:
        call: the call under way.
        uploads: how many uploads are left after the sweep.
        jobs: how many jobs are left.
    """

    when: str
    point: str
    call: str
    uploads: int
    jobs: int = 0

    def __str__(self) -> str:
        return f"{self.call}, {self.when} {self.point.rpartition(':')[2]}"


CRASHES = [
    Crash("before", "service.receiving:HashedFile.write", "upload", uploads=0),
    Crash("before", "service.folder_uploads:FolderUploads.add", "upload", uploads=0),
    Crash("after", "service.folder_uploads:FolderUploads._share", "upload", uploads=0),
    Crash("after", "service.folder_uploads:FolderUploads.add", "upload", uploads=1),
    Crash("after", "service.folder_uploads:FolderUploads.add", "form", uploads=0),
    Crash("after", "service.folder_uploads:FolderUploads.attach", "form", uploads=0),
    Crash("after", "rollout_core.jobs.folder_store:FolderStore.accept", "form", uploads=1, jobs=1),
    Crash("after", "service.folder_uploads:FolderUploads.attach", "job", uploads=1),
    Crash("after", "rollout_core.jobs.folder_store:FolderStore.accept", "job", uploads=1, jobs=1),
    Crash("before", "service.folder_uploads:FolderUploads.remove_unused_blob", "delete", uploads=0),
    Crash("before", "service.folder_uploads:FolderUploads.detach", "delete job", uploads=0),
]


@pytest.fixture
def system() -> Iterator[System]:
    with open_system(forked=True) as system:
        yield system


@pytest.mark.parametrize("crash", CRASHES, ids=str)
def test_a_killed_api_leaves_what_it_accepted_and_nothing_else(system, crash):
    mark = system.mark("reached")
    api = system.api(under=("tests.system.breakpoints", crash.when, crash.point, str(mark)))
    announce(system)
    call = prepared(system, crash.call)
    mark.unlink(missing_ok=True)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call)
        wait_until(mark.exists, MOMENT_SECONDS, str(crash))
        api.take_down()
        assert isinstance(answer.exception(), httpx.TransportError)
    store = sweep(system)

    jobs, uploads = store.names(), FolderUploads(store).names()
    assert (len(uploads), len(jobs)) == (crash.uploads, crash.jobs)
    assert all(store.upload_path(job_id).read_bytes() == MP4 for job_id in jobs)
    assert all(FolderUploads(store).jobs(upload_id) == jobs for upload_id in uploads)
    files = {path.stat().st_ino for path in store.root.rglob("video") if path.is_file()}
    blobs = {path.stat().st_ino for path in (store.root / "blobs").iterdir()}
    assert len(files | blobs) == (crash.uploads > 0)
    assert not list((store.root / "incoming").iterdir())


def prepared(system: System, name: str) -> Callable[[], httpx.Response]:
    """Return a call that is to be interrupted, after those that it needs."""
    client = system.client
    if name == "upload":
        return lambda: client.post("/v1/uploads", content=MP4)
    if name == "form":
        return lambda: client.post("/v1/jobs", files={"video": ("v.mp4", MP4)})
    if name == "delete job":
        job_id = accepted(client.post("/v1/jobs", files={"video": ("v.mp4", MP4)}))
        return lambda: client.delete(f"/v1/jobs/{job_id}")
    upload_id = accepted(client.post("/v1/uploads", content=MP4))
    if name == "job":
        return lambda: client.post("/v1/jobs", json={"upload": upload_id})
    return lambda: client.delete(f"/v1/uploads/{upload_id}")


def accepted(response: httpx.Response) -> str:
    assert response.is_success, response.text
    return str(response.json()["id"])


def announce(system: System) -> None:
    """Announce a worker that takes no job."""
    announcement = Announcement(
        model=SPEC,
        checkpoint_sha256=None,
        engine="fake",
        device="cpu",
        ready=True,
        seconds_per_job=None,
        beat_at=datetime.now(UTC),
    )
    with system.redis as redis:
        redis.hset(WORKERS_KEY, "worker", announcement.model_dump_json())


def sweep(system: System) -> ArtifactStore:
    """Sweep the store as an API does that runs on for some time; check what is counted."""
    clock = [time.monotonic()]
    store = FolderStore(system.data_dir, clock=lambda: clock[0])
    inventory = Inventory(store)
    with system.redis as redis:
        ledger = Ledger(redis)
        uploads = StoredUploads(
            store,
            inventory,
            ledger,
            upload_ttl=86400,
            result_ttl=86400,
            now=lambda: datetime.now(UTC),
            monotonic=lambda: clock[0],
        )
        reconciler = Reconciler(store, inventory, redis, ledger)
        for _ in range(2):
            reconciler.reconcile()
            uploads.sweep()
            store.remove_stale_uploads(STALE_UPLOAD_SECONDS)
            clock[0] += STALE_UPLOAD_SECONDS + 1
        uploads.sweep()
        reconciler.reconcile()
        leased = [redis.hget(ENTRIES_KEY, key) for key in redis.zrange(LEASES_KEY, 0, -1)]
        in_flight = sum(int(entry.split()[0]) for entry in leased)  # of the killed process
        counted = int(redis.hget(SUMS_KEY, "owner:") or 0)
    assert counted - in_flight == stored_bytes(store)
    return store


def stored_bytes(store: ArtifactStore) -> int:
    """Return the size of all files, each counted once."""
    paths = [path for place in ("jobs", "uploads") for path in store.root.glob(f"{place}/**/*")]
    files = {path.stat().st_ino: path.stat().st_size for path in paths if path.is_file()}
    return sum(files.values())
