"""Whether this API process can accept jobs."""

from rollout_core.jobs.store import ArtifactStore
from service.jobs import Jobs


def check_ready(store: ArtifactStore, jobs: Jobs) -> dict[str, int]:
    """Check that Redis and the store are writable, and that the store was counted.

    Returns:
        How many workers are ready for each known model.

    Raises:
        StoreUnavailable, StoreFull: the store cannot be written.
        RedisError: Redis does not answer, or refuses.
        NotCounted: the store was not counted yet.
    """
    store.check_writable()
    jobs.check_redis_writable()
    workers = jobs.ready_workers()
    jobs.require_count()
    return workers
