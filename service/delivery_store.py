"""Deliveries of webhooks on the disk: what is still to be delivered, and what became of the rest.

    webhooks/pending/<job id>.json    a `StoredDelivery`; empty before the first attempt
    webhooks/done/<job id>.json       one that was delivered, or given up

The files hold attempts only. What the client asked for, its URL and its events, is in the job's
submission. A file is made before its job is accepted, so no crash can lose a webhook. One without a
job was left by a crash in between, or belongs to a job that has been deleted.
"""

import os
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from rollout_core.jobs.records import JobId, StoredRecord
from rollout_core.jobs.schemas import Delivery, DeliveryAttempt, DeliveryState, Job
from rollout_core.jobs.store import PRIVATE, ArtifactStore, read_if_exists, sync, write_atomically

SETTLED_SECONDS = 2.0
"""A folder that changed less than this before it was read may have changed again since."""

ORPHAN_SECONDS = 600.0
"""A file of this age without a job is removed; a younger one's job may be about to be accepted."""


class StoredDelivery(StoredRecord):
    """The attempts to deliver the event of a job.

    Attributes:
        next_attempt_at: None before the first attempt, and after the last.
    """

    job: JobId
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

    def expect(self, job_id: str) -> None:
        """Note that a job which is about to be accepted has a webhook. It survives a power cut.

        Attempts that were made already are kept: another call with the same Idempotency-Key may
        have made the job.
        """
        _file(self._pending, job_id).touch()
        sync(self._pending)

    def pending(self, job_id: str) -> StoredDelivery | None:
        """Return the delivery of a job, None if it has none or it is done.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        if _file(self._done, job_id).exists():  # noted again, by a slower call with the same key
            _file(self._pending, job_id).unlink(missing_ok=True)
            return None
        return _read(self._pending, job_id)

    def get(self, job_id: str) -> StoredDelivery | None:
        """Return the delivery of a job, also if it is done.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        return self.pending(job_id) or _read(self._done, job_id)

    def describe(self, job: Job) -> tuple[Delivery, ...]:
        """Return the events for a job's webhook; none if it has no webhook or has not ended."""
        stored, webhook = self.get(job.id), self._store.submission(job.id).webhook
        event = f"job.{job.state}"
        if stored is None or webhook is None or event not in webhook.events:
            return ()
        delivery = Delivery.model_validate(
            {
                "webhook_id": webhook_id(job.id, event),
                "event": event,
                "url": webhook.url,
                "state": stored.state,
                "attempts": stored.attempts,
                "next_attempt_at": stored.next_attempt_at,
            }
        )
        return (delivery,)

    def update(self, delivery: StoredDelivery) -> None:
        """Replace a pending delivery; move it if it is done, drop it if its job is gone."""
        pending = _file(self._pending, delivery.job)
        write_atomically(pending, delivery.to_json())
        if delivery.state != "pending":
            with suppress(FileNotFoundError):  # another process was faster
                pending.replace(_file(self._done, delivery.job))
        if not self._store.exists(delivery.job):
            self.delete(delivery.job)

    def delete(self, job_id: str) -> None:
        """Forget the webhook of a job, if it has one."""
        for folder in (self._pending, self._done):
            _file(folder, job_id).unlink(missing_ok=True)

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
                    age_seconds = time.time() - _file(folder, job_id).stat().st_mtime
                    if age_seconds > ORPHAN_SECONDS and not self._store.exists(job_id):
                        self.delete(job_id)


def webhook_id(job_id: str, event: str) -> str:
    """Return the id of an event: the same for each attempt, also after a crash."""
    return f"msg_{job_id}_{event.removeprefix('job.')}"


def _file(folder: Path, job_id: str) -> Path:
    return folder / f"{job_id}.json"


def _read(folder: Path, job_id: str) -> StoredDelivery | None:
    text = read_if_exists(_file(folder, job_id))
    if text is None:
        return None
    return StoredDelivery.from_json(text) if text else StoredDelivery(job=job_id)


def _ids(folder: Path) -> list[str]:
    """Return the ids of the jobs that have a file; temporary files begin with a dot."""
    names = os.listdir(folder)  # noqa: PTH208, there may be 50,000
    return [name.removesuffix(".json") for name in names if not name.startswith(".")]
