"""Clears away what has outlived its use."""

from service.dependencies import Services

SWEEP_SECONDS = 300.0
STALE_UPLOAD_SECONDS = 600.0
"""An upload that has not grown for so long was left by a process that was killed."""

REMEMBERED_TTLS = 4
"""After so many times its time to live, nothing is left of a job."""


def sweep(services: Services) -> None:
    """Expire and forget old jobs, remove broken uploads, and what workers long gone have said."""
    ttl = services.settings.result_ttl
    for job_id in services.store.older_than(ttl):
        services.queue.expire(job_id)
    for job_id in services.store.older_than(REMEMBERED_TTLS * ttl):
        services.queue.forget(job_id)
    services.store.remove_stale_uploads(STALE_UPLOAD_SECONDS)
    services.queue.forget_stale_workers()
