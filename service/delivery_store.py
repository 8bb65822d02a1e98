"""Deliveries of webhooks on the disk: what is still to be delivered, and what became of the rest.

    webhooks/pending/<job id>.json    a `StoredDelivery`; empty before the first attempt
    webhooks/done/<job id>.json       one that was delivered, or given up

The files hold attempts only. What the client asked for, its URL and its events, is in the job's
submission. A file is made before its job is accepted, so no crash can lose a webhook. One without a
job was left by a crash in between, or belongs to a job that has been deleted.
"""

import time
from contextlib import suppress
from datetime import datetime

from rollout_core.jobs.records import JobId, StoredRecord
from rollout_core.jobs.schemas import Delivery, DeliveryAttempt, DeliveryState, Job
from rollout_core.jobs.store import ArtifactStore

PENDING, DONE = "webhooks/pending", "webhooks/done"

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
        """Use the small files of a store."""
        self._store = store
        self._files = store.small_files
        self._names: tuple[str, ...] = ()
        self._changed: int | None = None

    def expect(self, job_id: str) -> None:
        """Note that a job which is about to be accepted has a webhook. It survives a power cut.

        Attempts that were made already are kept: another call with the same Idempotency-Key may
        have made the job.
        """
        self._files.add(_key(PENDING, job_id))

    def pending(self, job_id: str) -> StoredDelivery | None:
        """Return the delivery of a job, None if it has none or it is done.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        if self._files.exists(_key(DONE, job_id)):  # noted again, by a slower call with the key
            self._files.remove(_key(PENDING, job_id))
            return None
        return self._read(PENDING, job_id)

    def get(self, job_id: str) -> StoredDelivery | None:
        """Return the delivery of a job, also if it is done.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        return self.pending(job_id) or self._read(DONE, job_id)

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
        is_done = delivery.state != "pending"
        folder = DONE if is_done else PENDING
        self._files.write(_key(folder, delivery.job), delivery.to_json())
        if is_done:
            self._files.remove(_key(PENDING, delivery.job))
        if not self._store.exists(delivery.job):
            self.delete(delivery.job)

    def delete(self, job_id: str) -> None:
        """Forget the webhook of a job, if it has one."""
        for folder in (PENDING, DONE):
            self._files.remove(_key(folder, job_id))

    def pending_ids(self) -> tuple[str, ...]:
        """Return the jobs with a pending delivery. The folder is read only if it has changed."""
        changed = self._files.changed(PENDING)
        if changed != self._changed:
            self._names = tuple(self._ids(PENDING))
            is_settled = time.time() - changed / 1e9 > SETTLED_SECONDS
            self._changed = changed if is_settled else None
        return self._names

    def remove_orphans(self) -> None:
        """Remove old deliveries whose jobs do not exist."""
        for folder in (PENDING, DONE):
            for job_id in self._ids(folder):
                with suppress(FileNotFoundError):
                    age_seconds = time.time() - self._files.written_at(_key(folder, job_id))
                    if age_seconds > ORPHAN_SECONDS and not self._store.exists(job_id):
                        self.delete(job_id)

    def _read(self, folder: str, job_id: str) -> StoredDelivery | None:
        text = self._files.read(_key(folder, job_id))
        if text is None:
            return None
        return StoredDelivery.from_json(text) if text else StoredDelivery(job=job_id)

    def _ids(self, folder: str) -> list[str]:
        """Return the ids of the jobs that have a file."""
        return [name.removesuffix(".json") for name in self._files.names(folder)]


def webhook_id(job_id: str, event: str) -> str:
    """Return the id of an event: the same for each attempt, also after a crash."""
    return f"msg_{job_id}_{event.removeprefix('job.')}"


def _key(folder: str, job_id: str) -> str:
    return f"{folder}/{job_id}.json"
