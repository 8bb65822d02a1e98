"""Pages of the list of jobs, newest first, with those jobs alone that a filter accepts."""

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import groupby, islice

from rollout_core.jobs.records import JobRecord, JobState
from rollout_core.jobs.schemas import Job, JobPage
from service.job_filters import JobFilter
from service.job_lists import CHUNK, OPEN, Place
from service.job_states import JobStates
from service.redis_jobs import RedisJobs

SCAN_LIMIT = 2000
"""Jobs read for one page at most; a page whose filter matches few of them is short."""

FILTERED_SIZE = 100
"""Jobs read together, at least, if only those with a tag or a model are wanted."""

NEVER_CLAIMED = JobRecord().to_json().encode()
"""Record of a job that no attempt has claimed, and that was not canceled: it has not ended."""


class JobPages:
    """The pages of the jobs of one store and one Redis."""

    def __init__(self, redis_jobs: RedisJobs, states: JobStates) -> None:
        self._redis_jobs = redis_jobs
        self._lists = redis_jobs.lists
        self._states = states

    def page(
        self, wanted: JobFilter, *, limit: int, cursor: str | None, owner: str | None
    ) -> JobPage:
        """Return up to `limit` of the owner's jobs, newest first, from `cursor` on.

        Raises:
            InvalidRequest: the cursor is not valid.
        """
        last = Place.parse(cursor) if cursor else None
        state = wanted.state
        if state is None:
            places, size = self._lists.newest_first(owner, last), limit
        elif self._lists.disagree([owner]):  # until the `Reconciler` has corrected them
            places, size = self._lists.newest_first(owner, last), CHUNK
        else:
            places, size = self._candidates(state, owner, last), limit
        if wanted.tag or wanted.model:  # they may be rare: few calls of Redis for `SCAN_LIMIT` jobs
            size = max(size, FILTERED_SIZE)
        jobs, last, more = self._select(places, size, wanted, owner, limit)
        return JobPage(jobs=jobs, next_cursor=str(last) if more else None)

    def _candidates(
        self, state: JobState, owner: str | None, after: Place | None
    ) -> Iterator[Place]:
        """Yield the places of all jobs that can be in `state`, newest first, and of few others.

        Jobs that are not known to have ended are read before those that are: a job that ends
        meanwhile is in one of the two.
        """
        if state == "queued":
            return self._lists.newest_first(owner, after, state=OPEN)
        places = self._lists.not_ended(owner, after)
        records = self._redis_jobs.records.get_many_raw(place.job_id for place in places)
        begun = [place for place in places if records[place.job_id] != NEVER_CLAIMED]
        if state == "running":
            return iter(begun)
        ended = self._lists.newest_first(owner, after, state=state)
        return _without_repeats(merge(begun, ended, reverse=True))

    def _select(
        self,
        places: Iterator[Place],
        size: int,
        wanted: JobFilter,
        owner: str | None,
        limit: int,
    ) -> tuple[tuple[Job, ...], Place | None, bool]:
        """Return the first `limit` jobs wanted, the last place read, and whether more follow.

        Args:
            size: places whose jobs are read together.
        """
        jobs: list[Job] = []
        last = None
        snapshot = self._states.snapshot()
        for batch in _batches(islice(places, SCAN_LIMIT), size):
            found = self._states.get_each([place.job_id for place in batch], owner, snapshot)
            for index, last in enumerate(batch, start=1):
                job = found.get(last.job_id)
                if job and wanted.accepts(job):
                    jobs.append(job)
                if len(jobs) == limit:
                    return tuple(jobs), last, index < len(batch) or any(True for _ in places)
        return tuple(jobs), last, any(True for _ in places)


def _without_repeats(places: Iterable[Place]) -> Iterator[Place]:
    return (place for place, _ in groupby(places))


def _batches(places: Iterator[Place], size: int) -> Iterator[list[Place]]:
    while batch := list(islice(places, size)):
        yield batch
