"""The account of a storm: every job that was accepted, and everything that was seen of it.

An accepted job must end exactly once. It is *lost* if it cannot be found although nobody deleted
it, *double* if it changes after its end or comes back after its deletion, and *stuck* if it has
not ended when it must. One that was deleted before its end counts as canceled.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

from tests.system.system import ENDED

End = tuple[Any, ...]
"""All that can be seen of how a job ended."""


@dataclass
class Entry:
    """One accepted job; times as `time.monotonic` has them."""

    model: str
    to_be_deleted: bool = False
    deleted_at: float | None = None
    end: End | None = None
    faults: set[str] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        """Whether it is to end yet."""
        return self.end is None and self.deleted_at is None and "lost" not in self.faults


class JobLog:
    """Keeps the account; several threads write it."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._lock = RLock()
        self.remarks: list[str] = []

    def accept(self, job_id: str, model: str) -> None:
        """Enter a job that was answered with 202."""
        with self._lock:
            if self._entries.setdefault(job_id, entry := Entry(model)) is not entry:
                self._blame(job_id, "double", "its id was given twice")

    def see(self, job: dict[str, Any], asked_at: float) -> None:
        """Note how a job was seen by someone who asked at that moment.

        Whoever asks twice waits for the first answer: only then are changes in the right order.
        """
        with self._lock:
            job_id, entry, end = job["id"], self._entries[job["id"]], _end(job)
            if entry.deleted_at is not None and entry.deleted_at < asked_at:
                self._blame(job_id, "double", f"deleted, but it is {job['state']}")
            if entry.end not in (None, end):
                self._blame(job_id, "double", f"first {entry.end}, then {end or job['state']}")
            entry.end = entry.end or end

    def miss(self, job_id: str) -> None:
        """Note that a job was not found."""
        with self._lock:
            if not self._entries[job_id].to_be_deleted:
                self._blame(job_id, "lost", "not found")

    def ask_deletion(self, job_id: str) -> None:
        """Note that a job is about to be deleted: from now on it may be there or not."""
        with self._lock:
            self._entries[job_id].to_be_deleted = True

    def confirm_deletion(self, job_id: str) -> None:
        """Note that the service has deleted a job."""
        with self._lock:
            self._entries[job_id].deleted_at = time.monotonic()

    @property
    def accepted(self) -> list[str]:
        """Ids of all jobs."""
        return self._ids(lambda entry: True)

    @property
    def deleted(self) -> list[str]:
        """Ids of the jobs that must not be found."""
        return self._ids(lambda entry: entry.deleted_at is not None)

    @property
    def open(self) -> list[str]:
        """Ids of the jobs that are to end yet."""
        return self._ids(lambda entry: entry.is_open)

    def count_open(self, model: str) -> int:
        """Return how many jobs of a model are to end yet."""
        return len(self._ids(lambda entry: entry.is_open and entry.model == model))

    @property
    def codes(self) -> Counter[str]:
        """How many jobs failed with each code."""
        with self._lock:
            ends = [entry.end for entry in self._entries.values() if entry.end]
            return Counter(end[-1] for end in ends if end[0] == "failed")

    @property
    def balances(self) -> bool:
        """Whether every job ended exactly once."""
        return not self._ids(lambda entry: entry.is_open or bool(entry.faults))

    def __str__(self) -> str:
        """Return the account in one line."""
        with self._lock:
            entries = self._entries.values()
            ends = Counter(entry.end[0] for entry in entries if entry.end)
            unseen = sum(entry.end is None and entry.deleted_at is not None for entry in entries)
            counts = {
                "accepted": len(entries),
                "succeeded": ends["succeeded"],
                "failed": ends["failed"],
                "canceled": ends["canceled"] + unseen,
                "lost": sum("lost" in entry.faults for entry in entries),
                "double": sum("double" in entry.faults for entry in entries),
                "stuck": sum(entry.is_open for entry in entries),
            }
        return " ".join(f"{name}={count}" for name, count in counts.items())

    def _ids(self, wanted: Callable[[Entry], bool]) -> list[str]:
        with self._lock:
            return [job_id for job_id, entry in self._entries.items() if wanted(entry)]

    def _blame(self, job_id: str, fault: str, what: str) -> None:
        self._entries[job_id].faults.add(fault)
        self.remarks.append(f"{job_id} {fault}: {what}")


def _end(job: dict[str, Any]) -> End | None:
    """Return all that must never change about a job that has ended; None for any other."""
    if job["state"] not in ENDED:
        return None
    artifacts = tuple(item["sha256"] for item in (job["result"] or {}).get("artifacts", ()))
    code = (job["error"] or {}).get("code")
    return job["state"], job["attempt"], job["ended_at"], artifacts, code
