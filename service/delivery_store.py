"""Deliveries of webhooks on the disk: what is still to be delivered, and what became of the rest.

    webhooks/pending/<job id>.json    a `StoredDelivery` whose job may not have ended yet
    webhooks/done/<job id>.json       one that was delivered, or given up

A file is written before its job is accepted, so no crash can lose a webhook. One without a job was
left by a crash in between, or belongs to a job that has been deleted.
"""

import os
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from rollout_core.contract import Webhook
from rollout_core.jobs.records import JobId, StoredRecord
from rollout_core.jobs.schemas import DeliveryAttempt, DeliveryState
from rollout_core.jobs.store import PRIVATE, ArtifactStore, read_if_exists, sync, write_atomically

SETTLED_SECONDS = 2.0
"""A folder that changed less than this before it was read may have changed again since."""

ORPHAN_SECONDS = 600.0
"""A file of this age without a job is removed; a younger one's job may be about to be accepted."""


class StoredDelivery(StoredRecord):
    """The webhook of a job, and the attempts to deliver it.

    Attributes:
        next_attempt_at: None before the first attempt, and after the last.
    """

    job: JobId
    webhook: Webhook
    owner: str | None = None
    state: DeliveryState = "pending"
    attempts: tuple[DeliveryAttempt, ...] = ()
    next_attempt_at: datetime | None = None


class DeliveryStore:
    """The deliveries of an artifact store."""

    def __init__(self, store: ArtifactStore) -> None:
        """Use the folder `webhooks` of a store, and create it if missing."""
        self._store = store
        self._pending = store.root / "webhooks" / "pending"
        self._done = store.root / "webhooks" / "done"
        for folder in (self._pending.parent, self._pending, self._done):
            folder.mkdir(mode=PRIVATE, exist_ok=True)
        self._names: tuple[str, ...] = ()
        self._changed: int | None = None

    def expect(self, job_id: str, webhook: Webhook, owner: str | None) -> None:
        """Store the webhook of a job that is about to be accepted. It survives a power cut."""
        self._write(StoredDelivery(job=job_id, webhook=webhook, owner=owner))
        sync(self._pending)

    def pending(self, job_id: str) -> StoredDelivery | None:
        """Return the delivery of a job, None if it has none or it is done.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        return _read(self._pending / f"{job_id}.json")

    def get(self, job_id: str) -> StoredDelivery | None:
        """Return the delivery of a job, also if it is done.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        return self.pending(job_id) or _read(self._done / f"{job_id}.json")

    def update(self, delivery: StoredDelivery) -> None:
        """Replace a pending delivery; move it if it is done, drop it if its job is gone."""
        self._write(delivery)
        if delivery.state != "pending":
            name = f"{delivery.job}.json"
            with suppress(FileNotFoundError):  # another process was faster
                (self._pending / name).replace(self._done / name)
        if not self._store.exists(delivery.job):
            self.delete(delivery.job)

    def delete(self, job_id: str) -> None:
        """Forget the webhook of a job, if it has one."""
        for folder in (self._pending, self._done):
            (folder / f"{job_id}.json").unlink(missing_ok=True)

    def pending_ids(self) -> tuple[str, ...]:
        """Return the jobs with a pending delivery. The folder is read only if it has changed."""
        changed = self._pending.stat().st_mtime_ns
        if changed != self._changed:
            self._names = tuple(_ids(self._pending))
            is_settled = time.time() - changed / 1e9 > SETTLED_SECONDS
            self._changed = changed if is_settled else None
        return self._names

    def remove_orphans(self) -> None:
        """Remove old deliveries whose jobs do not exist."""
        for folder in (self._pending, self._done):
            for job_id in _ids(folder):
                with suppress(FileNotFoundError):
                    age_seconds = time.time() - (folder / f"{job_id}.json").stat().st_mtime
                    if age_seconds > ORPHAN_SECONDS and not self._store.exists(job_id):
                        self.delete(job_id)

    def _write(self, delivery: StoredDelivery) -> None:
        write_atomically(self._pending / f"{delivery.job}.json", delivery.to_json())


def webhook_id(job_id: str, event: str) -> str:
    """Return the id of an event: the same for each attempt, also after a crash."""
    return f"msg_{job_id}_{event.removeprefix('job.')}"


def _read(path: Path) -> StoredDelivery | None:
    text = read_if_exists(path)
    return None if text is None else StoredDelivery.from_json(text)


def _ids(folder: Path) -> list[str]:
    """Return the ids of the jobs that have a file; temporary files begin with a dot."""
    names = os.listdir(folder)  # noqa: PTH208, there may be 50,000
    return [name.removesuffix(".json") for name in names if not name.startswith(".")]
