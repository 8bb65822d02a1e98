"""Keeps the lists of jobs in Redis as the store has them."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from service.inventory import Changes, Inventory
from service.job_lists import state_of
from service.redis_jobs import RedisJobs

COMPARE_SECONDS = 300.0
"""All lists are compared with the store this often, and whenever Redis may have lost some."""


class ListKeeper:
    """Enters what changes in the store into the lists, and compares them from time to time."""

    def __init__(self, inventory: Inventory, redis_jobs: RedisJobs) -> None:
        self._inventory = inventory
        self._redis_jobs = redis_jobs
        self._lists = redis_jobs.lists
        self._holder: str | None = None
        self._compare_at = 0.0

    def correct(self, changes: Changes) -> None:
        """Enter what has changed; compare the lists that cannot be right."""
        holder = self._lists.holder()
        if holder is None or holder != self._holder or time.monotonic() >= self._compare_at:
            self._compare(self._lists.owners() | self._inventory.owners(), changes.jobs.keys())
            self._lists.set_complete()
            self._holder = self._lists.holder()
            self._compare_at = time.monotonic() + COMPARE_SECONDS
            return
        self._lists.put(changes.jobs)
        for job_id, owner in changes.gone.items():
            self._redis_jobs.remove(job_id, owner)
        self._compare(self._lists.disagree(self._inventory.owners()))

    def _compare(self, owners: Iterable[str | None], seen: Collection[str] = ()) -> None:
        """Correct the places of all jobs of these owners.

        Args:
            seen: jobs that have just been looked at.
        """
        owners = set(owners)
        if not owners:
            return
        wanted = self._wanted()
        for owner in owners:
            wrong: set[str] = set()
            for state, listed in self._lists.of(owner).items():
                wrong |= listed ^ wanted[owner, state]
            self._inventory.look(wrong.difference(seen))
            self._correct_each(wrong, owner)

    def _wanted(self) -> Mapping[tuple[str | None, str | None], set[str]]:
        """Return the jobs that belong in each list, by owner and state; state None: all jobs."""
        wanted: dict[tuple[str | None, str | None], set[str]] = defaultdict(set)
        for job_id, job in self._inventory.jobs.items():
            if job.created_at is not None:
                wanted[job.owner, None].add(job_id)
                wanted[job.owner, state_of(job)].add(job_id)
        return wanted

    def _correct_each(self, job_ids: Iterable[str], owner: str | None) -> None:
        """Put jobs where they belong; remove those that are gone from the owner's lists."""
        places = {}
        for job_id in job_ids:
            if job := self._inventory.get(job_id):
                places[job_id] = job
            else:
                self._redis_jobs.remove(job_id, owner)
        self._lists.put(places)
