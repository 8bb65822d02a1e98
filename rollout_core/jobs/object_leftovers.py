"""What killed processes have left of jobs in a bucket; see `rollout_core.jobs.object_store`."""

from collections.abc import Callable
from itertools import groupby

from rollout_core.jobs.bucket import Bucket, Object, digest
from rollout_core.jobs.object_records import JOB_NAME, life_of
from rollout_core.jobs.watch import Watch


class Leftovers:
    """Objects below `jobs` that belong to no life that a job.json names."""

    def __init__(self, bucket: Bucket, clock: Callable[[], float]) -> None:
        """Look at a bucket; nothing is requested yet."""
        self._bucket = bucket
        self._watch = Watch(clock)

    def remove(self, age_seconds: float) -> None:
        """Remove what did not change between calls for this long.

        A job that is being accepted looks the same until its job.json is written.
        """
        self._watch.begin()
        for job_id, objects in groupby(self._bucket.iterate("jobs"), _id_of):
            for folder in self._find(job_id, list(objects)):
                found = self._bucket.objects(folder)
                if found and self._watch.seconds(folder, str(digest(found))) >= age_seconds:
                    self._bucket.delete_folder(folder)

    def _find(self, job_id: str, objects: list[Object]) -> list[str]:
        """Return the folders of lives that a job does not have any more, or not yet."""
        below = f"jobs/{job_id}/"
        names = {found.key.removeprefix(below).partition("/")[0] for found in objects}
        lives = names - {JOB_NAME}
        if JOB_NAME in names and len(lives) <= 1:
            return []
        text = self._bucket.get(f"{below}{JOB_NAME}")
        life = None if text is None else life_of(text)
        if text is not None and life is None:  # another version may know whose they are
            return []
        return [f"{below}{name}" for name in sorted(lives) if name != life]


def _id_of(found: Object) -> str:
    """Return the id of the job that an object belongs to."""
    return found.key.split("/")[1]
