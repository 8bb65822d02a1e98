"""What clients saw of each accepted job during a storm, and the count of errors.

An accepted job must end exactly once. It is *lost* if the API answers 404 although no client
deleted it, *double* if it changes after its end or is found after its deletion, and *stuck* if it
has not ended when the storm is over. A job that was deleted before its end counts as canceled.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

from tests.system.system import ENDED

End = tuple[Any, ...]
"""State, attempt, time, artifacts and error code of a job that has ended."""


@dataclass
class Entry:
    """One accepted job; times are those of `time.monotonic`."""

    model: str
    accepted_at: float = field(default_factory=time.monotonic)
    ended_at: float | None = None
    to_be_deleted: bool = False
    deleted_at: float | None = None
    end: End | None = None
    faults: set[str] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        """Whether it has not ended yet."""
        return self.end is None and self.deleted_at is None and "lost" not in self.faults


class JobLog:
    """A log of accepted jobs; several threads write to it."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._lock = RLock()
        self.remarks: list[str] = []

    def accept(self, job_id: str, model: str) -> None:
        """Add a job that the API answered with 202."""
        with self._lock:
            if self._entries.setdefault(job_id, entry := Entry(model)) is not entry:
                self._add_fault(job_id, "double", "two jobs have this id")

    def record(self, job: dict[str, Any], asked_at: float) -> None:
        """Record an answer about a job, requested at `asked_at`.

        A thread must wait for one answer before it asks again. Otherwise answers may come in the
        wrong order.
        """
        with self._lock:
            job_id, entry, end = job["id"], self._entries[job["id"]], _end(job)
            if entry.deleted_at is not None and entry.deleted_at < asked_at:
                self._add_fault(job_id, "double", f"deleted, but it is {job['state']}")
            if entry.end not in (None, end):
                self._add_fault(job_id, "double", f"first {entry.end}, then {end or job['state']}")
            if entry.end is None and end is not None:
                entry.end, entry.ended_at = end, time.monotonic()

    def record_missing(self, job_id: str) -> None:
        """Record that a job was not found."""
        with self._lock:
            if not self._entries[job_id].to_be_deleted:
                self._add_fault(job_id, "lost", "not found")

    def ask_deletion(self, job_id: str) -> None:
        """Record that a client is about to delete a job: from now on, 404 is no error."""
        with self._lock:
            self._entries[job_id].to_be_deleted = True

    def confirm_deletion(self, job_id: str) -> None:
        """Record that the service has confirmed the deletion of a job."""
        with self._lock:
            self._entries[job_id].deleted_at = time.monotonic()

    @property
    def accepted(self) -> list[str]:
        """Ids of all jobs."""
        return self._ids(lambda entry: True)

    @property
    def deleted(self) -> list[str]:
        """Ids of the jobs whose deletion the service has confirmed."""
        return self._ids(lambda entry: entry.deleted_at is not None)

    @property
    def open(self) -> list[str]:
        """Ids of the jobs that have not ended yet."""
        return self._ids(lambda entry: entry.is_open)

    def count_open(self, model: str) -> int:
        """Return how many jobs of a model have not ended yet."""
        return len(self._ids(lambda entry: entry.is_open and entry.model == model))

    @property
    def slowest_seconds(self) -> float:
        """The longest time from a job's acceptance to the answer that showed its end."""
        with self._lock:
            entries = self._entries.values()
            return max((e.ended_at - e.accepted_at for e in entries if e.ended_at), default=0.0)

    @property
    def codes(self) -> Counter[str]:
        """How many jobs failed with each code."""
        with self._lock:
            ends = [entry.end for entry in self._entries.values() if entry.end]
            return Counter(end[-1] for end in ends if end[0] == "failed")

    @property
    def all_ended_once(self) -> bool:
        """Whether every job ended exactly once."""
        return not self._ids(lambda entry: entry.is_open or bool(entry.faults))

    def __str__(self) -> str:
        """Return the counts in one line."""
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

    def _add_fault(self, job_id: str, fault: str, what: str) -> None:
        self._entries[job_id].faults.add(fault)
        self.remarks.append(f"{job_id} {fault}: {what}")


def _end(job: dict[str, Any]) -> End | None:
    """Return what must never change about a job that has ended; None if it has not."""
    if job["state"] not in ENDED:
        return None
    artifacts = tuple(item["sha256"] for item in (job["result"] or {}).get("artifacts", ()))
    code = (job["error"] or {}).get("code")
    return job["state"], job["attempt"], job["ended_at"], artifacts, code
