"""What store and Redis hold about a job that has not ended: to tell a late job from a stuck one."""

from redis import Redis
from rq import Queue
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from rollout_core.jobs.records import JobRecord
from rollout_core.jobs.redis_records import job_key, queue_name, redis_now
from rollout_core.jobs.store import ArtifactStore
from tests.system.system import System


def account(system: System, job_id: str) -> str:
    """Return one line about an unfinished job: its record, its delivery, and its folder."""
    store = system.store
    ticket = store.ticket(job_id)
    with system.redis as redis:
        record = _record(redis, job_id)
        delivery = _delivery(redis, job_id, ticket.model) if ticket else "unknown model"
    return f"{job_id}: record: {record}; delivery: {delivery}; store: {_folder(store, job_id)}"


def _record(redis: Redis, job_id: str) -> str:
    """Describe the job's record: attempt, lease, progress."""
    text = redis.get(job_key(job_id))
    if text is None:
        return "none"
    record = JobRecord.from_json(text)
    if record.lease_until is None:
        lease = "no lease"
    else:
        left = (record.lease_until - redis_now(redis)).total_seconds()
        lease = f"lease for {left:.1f} s" if left > 0 else f"lease over since {-left:.1f} s"
    stage = f", {record.progress.stage}" if record.progress else ""
    flags = [name for name in ("cancel_requested", "over") if getattr(record, name)]
    return ", ".join([f"attempt {record.attempt}", lease + stage, *flags])


def _delivery(redis: Redis, job_id: str, model: str) -> str:
    """Describe where RQ holds the job: waiting, taken by a worker, started by one; or nowhere."""
    queue = Queue(queue_name(model), connection=redis, serializer=JSONSerializer)
    waiting = queue.get_job_ids()
    places = []
    if job_id in waiting:
        places.append(f"waits as {waiting.index(job_id) + 1} of {len(waiting)}")
    if job_id in queue.intermediate_queue.get_job_ids():
        places.append("taken")
    if job_id in queue.started_job_registry.get_job_ids(cleanup=False):
        places.append("started")
    data = redis.hmget(RqJob.key_for(job_id), "status", "worker_name")
    status, worker = (value.decode() if value else None for value in data)
    return f"{' and '.join(places) or 'nowhere'}, status {status}, worker {worker}"


def _folder(store: ArtifactStore, job_id: str) -> str:
    """Describe the job's folder."""
    if not store.exists(job_id):
        return "no folder"
    ended = "ended" if store.has_ended(job_id) else "open"
    return f"{ended}, latest attempt {store.latest_attempt(job_id)}"
