"""What the store holds, as it was last looked at: size, owner and state of every job.

With 50,000 jobs, it takes seconds to look at each of them. So a job that is known is looked at
again only if there is a reason, such as a record that is gone, or if it is its turn. The turns come
round within minutes; they find what other processes have done, such as files that have expired.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from threading import Lock
from typing import Literal

from pydantic import ConfigDict
from redis.exceptions import RedisError

from rollout_core.contract import Frozen
from rollout_core.errors import UnknownFormat
from rollout_core.jobs.records import Ended, JobId, StoredRecord, Ticket
from rollout_core.jobs.store import ArtifactStore
from rollout_core.jobs.survey import File, Survey
from service.entries import Entries
from service.faults import Faults
from service.ledger import Entry, Ledger
from service.names import Names
from service.upload_inventory import UploadInventory
from service.uploads_of import uploads_of

TURN_SECONDS = 0.01
"""Processor time of each pass for looking at known jobs."""

TURN_WAIT_SECONDS = 1.0
"""The same, in wall time: a slow disk must not hold up a pass."""

THREADS = 8
"""Threads that look at many jobs on a slow disk, so that its delays do not add up."""

WAITS = 4
"""A disk is slow if looking at jobs takes this many times the processor time. On a fast one,
several threads would only wait for each other."""

CHUNK = 100
"""Jobs that a thread looks at, one after the other."""

JOB_ID = re.compile(r"[0-9a-f]{32}")

logger = logging.getLogger(__name__)

StoredState = Literal["open", "succeeded", "failed", "canceled", "unknown"]


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job of the store.

    Attributes:
        changed: number of its folder; an ended job with the same number is the same.
        state: "unknown" if this version cannot read how it ended, or its ticket.
        created_at: None if this version cannot read its ticket.
        ticket: None if it has ended, or cannot be read.
        model: None if this version cannot read its ticket.
        shared: its video, if an upload has a link to it; `bytes` is without it.
    """

    changed: int
    bytes: int
    state: StoredState
    owner: str | None = None
    created_at: datetime | None = None
    ticket: Ticket | None = None
    shared: File | None = None
    model: str | None = None

    @property
    def entry(self) -> Entry:
        """The entry of the job in the ledger of bytes, without the shared file."""
        if self.ticket is None:
            return Entry.of_files(self.owner, self.bytes)
        entry_of = Entry.of_upload if self.shared is None else Entry.of_result
        return entry_of(self.owner, self.ticket.upload_bytes, self.bytes)


@dataclass(frozen=True)
class Changes:
    """Jobs that are new or have ended, and the owners of jobs that are gone, by id."""

    jobs: dict[str, StoredJob] = field(default_factory=dict)
    gone: dict[str, str | None] = field(default_factory=dict)


class Inventory:
    """All jobs of a store. One thread refreshes it; others may read it and add to it."""

    def __init__(self, store: ArtifactStore) -> None:
        """Know no job yet."""
        self._store = store
        self._faults = Faults(logger, store)
        self._jobs: dict[str, StoredJob] = {}
        self._open: dict[str, Ticket] = {}
        self._entries = Entries()
        self.uploads = UploadInventory(uploads_of(store), self._entries)
        self._owners: Counter[str | None] = Counter()
        self._counts: Counter[tuple[str | None, StoredState]] = Counter()
        self._changes = Changes()
        self._lock = Lock()
        self._turns: Iterator[str] = iter(())
        self._names = Names(store)

    @property
    def open(self) -> dict[str, Ticket]:
        """The readable tickets of jobs that had not ended."""
        return dict(self._open)

    @property
    def jobs(self) -> dict[str, StoredJob]:
        """All jobs by id."""
        return dict(self._jobs)

    def get(self, job_id: str) -> StoredJob | None:
        """Return what is known about a job."""
        return self._jobs.get(job_id)

    def owners(self) -> set[str | None]:
        """Return the owners of all jobs, and of some that are gone."""
        return set(self._owners)

    def counts(self) -> Mapping[tuple[str | None, StoredState], int]:
        """Return the number of jobs by model and state."""
        with self._lock:
            return dict(self._counts)

    def entries(self) -> Mapping[str, Entry]:
        """Return a view of the entries of all jobs, uploads and shared files."""
        return self._entries.all()

    def take_changed_entries(self) -> set[str]:
        """Return the keys of the entries that have changed since the last call."""
        return self._entries.take_changed()

    @contextmanager
    def giving_back(
        self, ledger: Ledger, *, jobs: Collection[str] = (), uploads: Collection[str] = ()
    ) -> Iterator[None]:
        """Give back at once, at the end, what these jobs and uploads do not hold any more."""
        self.look(jobs)
        self.uploads.look(uploads)
        held = set().union(*map(self._entries.keys_of, (*jobs, *uploads)))
        yield
        self.look(jobs)
        self.uploads.look(uploads)
        with suppress(RedisError):  # the next count does it
            ledger.remove(*self._entries.missing(held))

    def take_changes(self) -> Changes:
        """Return what has been seen to change since the last call."""
        with self._lock:
            changes, self._changes = self._changes, Changes()
        return changes

    def refresh(self) -> None:
        """Look at new jobs, forget those that are gone, and look at some of the others."""
        self.look(self._compare_names())
        self.uploads.refresh()
        self._take_turns()

    def look(self, job_ids: Collection[str]) -> None:
        """Look at some jobs again."""
        ids = iter(job_ids)
        while chunk := list(islice(ids, CHUNK)):
            began, cpu = time.monotonic(), time.thread_time()
            self._look_at_each(chunk)
            if time.monotonic() - began > WAITS * (time.thread_time() - cpu):
                break
        chunks = iter(lambda: list(islice(ids, CHUNK)), [])
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(self._look_at_each, chunks):
                pass

    def _compare_names(self) -> list[str]:
        """Forget the jobs that are gone; return the new ones. Skipped if nothing can be new."""
        known = set(self._jobs)
        names = self._names.read(sparingly=True)
        if names is None:
            return []
        for job_id in known - names:
            if self._store.changed(job_id) is None:  # a listing may miss a name
                self._put(job_id, None)
        return [name for name in names - known if self._is_id(name)]

    def _is_id(self, name: str) -> bool:
        if JOB_ID.fullmatch(name):
            return True
        self._faults.report(name, "is skipped", "its name is not that of a job")
        return False

    def _take_turns(self) -> None:
        cpu_end = time.thread_time() + TURN_SECONDS
        end = time.monotonic() + TURN_WAIT_SECONDS
        for job_id in self._turns:
            job = self._jobs.get(job_id)
            if job and (job.state == "open" or self._store.changed(job_id) != job.changed):
                self._look_at_each([job_id])
            if time.thread_time() > cpu_end or time.monotonic() > end:
                return
        self._turns = iter(list(self._jobs))

    def _look_at_each(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            job: StoredJob | None = self._jobs.get(job_id) or StoredJob(0, 0, "unknown")
            with self._faults.isolated(job_id, "cannot be counted"):
                seen = self._store.survey(job_id)
                job = self._describe(job_id, seen) if seen else None
            self._put(job_id, job)

    def _describe(self, job_id: str, seen: Survey) -> StoredJob:
        """Return a job as it was seen, as far as this version can read it."""
        what = seen.changed, seen.total_bytes
        if seen.ticket is None:
            self._faults.report(job_id, "cannot be read", "it has no job.json")
            return StoredJob(*what, "unknown", shared=seen.shared)
        try:
            if not seen.has_ended:
                ticket = Ticket.from_json(seen.ticket)
                return StoredJob(
                    *what,
                    "open",
                    ticket.owner,
                    ticket.created_at,
                    ticket,
                    shared=seen.shared,
                    model=ticket.model,
                )
            head = _Head.from_json(seen.ticket)
        except UnknownFormat as error:
            self._faults.report(job_id, "cannot be read", error)
            return StoredJob(*what, "unknown", shared=seen.shared)
        state = self._read_end(job_id, seen)
        model = head.request.model
        return StoredJob(*what, state, head.owner, head.created_at, shared=seen.shared, model=model)

    def _read_end(self, job_id: str, seen: Survey) -> StoredState:
        """Return how a job has ended."""
        if seen.ended is None:
            return "succeeded"
        try:
            return Ended.from_json(seen.ended).state
        except UnknownFormat as error:
            self._faults.report(job_id, "has an end that cannot be read", error)
            return "unknown"

    def _put(self, job_id: str, job: StoredJob | None) -> None:
        """Replace what is known about a job; None: it is gone."""
        with self._lock:
            old = self._jobs.pop(job_id, None)
            self._open.pop(job_id, None)
            self._entries.put(job_id, job.entry if job else None, job.shared if job else None)
            if old:
                self._owners[old.owner] -= 1
                self._counts[old.model, old.state] -= 1
            if job:
                self._jobs[job_id] = job
                self._owners[job.owner] += 1
                self._counts[job.model, job.state] += 1
                if job.ticket:
                    self._open[job_id] = job.ticket
                if old is None or old.state != job.state:
                    self._changes.jobs[job_id] = job
            elif old:
                self._changes.jobs.pop(job_id, None)
                self._changes.gone[job_id] = old.owner


class _Asked(Frozen):
    """What is needed of the request in a ticket."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None


class _Head(StoredRecord):
    """What is needed of the ticket of a job that has ended: it is read faster than all of it."""

    model_config = ConfigDict(extra="ignore")

    id: JobId
    request: _Asked = _Asked()
    created_at: datetime
    owner: str | None = None
