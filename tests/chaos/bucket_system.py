"""A system whose store is in a bucket, and whose workers are each on a machine of their own.

moto's server stands for S3, in a process that no blow meets: S3 is not part of the system.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from rollout_core.jobs.bucket import Bucket
from rollout_core.jobs.object_store import ObjectStore
from tests.moto_server import ENVIRONMENT, NAME
from tests.system.processes import Process
from tests.system.system import System
from tests.system.waiting import wait_until

SERVER_SECONDS = 60.0
PREFIX = "storm"


class BucketSystem(System):
    """All processes around one bucket."""

    def __init__(self, folder: Path) -> None:
        """Start a Valkey server in `folder`; the bucket is that of the environment."""
        self._clock = 0.0
        self._machines = 0
        super().__init__(folder)
        self._store = ObjectStore(
            Bucket.at(os.environ["ROLLOUT_STORE"]),
            folder / "looker",
            clock=lambda: self._clock,
            remember_seconds=0,
        )

    @property
    def store(self) -> ObjectStore:
        """The store, as a further machine sees it."""
        return self._store

    def shifting_worker(
        self,
        *flags: str,
        models: tuple[str | None, ...],
        kept: bool = True,
        under: tuple[str, ...] = (),
        data_dir: Path | None = None,
    ) -> Process:
        """Start a worker; if `data_dir` is given, it has another store than the service, too."""
        if data_dir is None:
            self._machines += 1
            data_dir = self._folder / f"machine-{self._machines}"
        else:
            flags = (*flags, "--store", f"s3://{NAME}/astray")
        return super().shifting_worker(
            *flags, models=models, kept=kept, under=under, data_dir=data_dir
        )

    def stored_jobs(self) -> list[str]:
        """See `System.stored_jobs`."""
        return [name for name in self._store.names() if self._store.exists(name)]

    def ends_of(self, job_id: str) -> list[str]:
        """See `System.ends_of`."""
        found = self._store.bucket.objects(f"jobs/{job_id}")
        return [item.key for item in found if item.name == "end.json"]

    def attempts_of(self, job_id: str) -> list[str]:
        """See `System.attempts_of`."""
        keys = [item.key.split("/") for item in self._store.bucket.objects(f"jobs/{job_id}")]
        names = {key[4] for key in keys if key[3:4] == ["attempts"]}
        job = self._store._find(job_id)
        end = self._store._end_of(job_id, job) if job else None
        return sorted(names - {end.attempt if end else None})

    def has_files(self, job_id: str) -> bool:
        """See `System.has_files`."""
        return bool(self._store.bucket.objects(f"jobs/{job_id}"))

    def remove_leftovers(self) -> None:
        """Remove what killed processes have left, as the service does after ten minutes."""
        for _ in range(2):
            self._store.remove_stale_uploads(600)
            self._clock += 601


@contextmanager
def open_bucket_system() -> Iterator[BucketSystem]:
    """Yield a system in a temporary folder, and a bucket of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="bucket-", dir="/tmp") as folder,
        _running_server(Path(folder) / "server") as url,
        patch.dict(
            os.environ,
            ENVIRONMENT | {"AWS_ENDPOINT_URL": url, "ROLLOUT_STORE": f"s3://{NAME}/{PREFIX}"},
        ),
        BucketSystem(Path(folder)) as system,
    ):
        yield system


@contextmanager
def _running_server(url_file: Path) -> Iterator[str]:
    """Serve a bucket from a process of its own; yield its URL."""
    command = [sys.executable, "-m", "tests.moto_server", str(url_file)]
    with url_file.with_suffix(".log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(url_file.exists, SERVER_SECONDS, "the server of the bucket")
        yield url_file.read_text()
    finally:
        server.kill()
        server.wait()
