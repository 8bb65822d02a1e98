"""One bad job hurts one job: its fault is logged once, and the others are dealt with."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError

from rollout_core.errors import UnknownFormat
from rollout_core.jobs.store import ArtifactStore

MAX_REMEMBERED = 10_000
"""Faults that are remembered, so that they are not logged again."""


class Faults:
    """The faults of single jobs that have been logged."""

    def __init__(self, logger: logging.Logger, store: ArtifactStore) -> None:
        self._logger = logger
        self._store = store
        self._logged: set[tuple[str, str]] = set()

    def report(
        self, name: str, kind: str, fault: object, unexpected: Exception | None = None
    ) -> None:
        """Log a fault of a job, unless this kind has been logged for it.

        Args:
            name: the job's id, or what else stands in its place.
            kind: what cannot be done, to follow "Job NAME ".
            unexpected: an exception whose traceback is logged, too.
        """
        if (name, kind) in self._logged:
            return
        if len(self._logged) >= MAX_REMEMBERED:
            self._logged.clear()
        self._logged.add((name, kind))
        level = logging.ERROR if unexpected else logging.WARNING
        about = {"fields": {"job_id": name}}
        self._logger.log(
            level, "Job %s %s: %s", name, kind, fault, exc_info=unexpected, extra=about
        )

    @contextmanager
    def isolated(self, name: str, kind: str) -> Iterator[None]:
        """Report an exception of one job instead of raising it.

        Raises:
            RedisError, OSError: Redis or the whole store fails, and so would every other job.
        """
        try:
            yield
        except RedisError:
            raise
        except OSError as error:
            if not self._store.blames_one_job(error):
                raise
            self.report(name, kind, error)
        except UnknownFormat as error:
            self.report(name, kind, error)
        except Exception as error:
            self.report(name, kind, error, error)
