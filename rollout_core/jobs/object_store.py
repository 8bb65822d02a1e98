"""A store in a bucket: an object per file, none of which is ever seen in part.

    identity/id, session/secret         as in `rollout_core.jobs.folder_store`
    jobs/<id>/job.json                  the job exists while this object does; see `JobDocument`
    jobs/<id>/<life>/video              the job's own copy of its video
    jobs/<id>/<life>/attempts/<n>-<token>/.begun   marker of an attempt that has begun
    jobs/<id>/<life>/attempts/<n>-<token>/<name>   a file of its result
    jobs/<id>/<life>/end.json           how the job ended, and whose files its result is
    jobs/<id>/<life>/expired, emptied   markers: removing its old files has begun, has ended

Nothing can be renamed here, but an object can be created once only: by a write that fails if it
exists (`If-None-Match: *`). job.json and end.json are written so. What an attempt has written is a
result only once end.json names it; the rest is removed when the job has ended.

A client that repeats a call may give a new job the id of one that was deleted. So each has a `life`
of its own, a random name in its job.json, and what is left of the old one does not belong to the
new one.

Deleting a job removes job.json first. A late attempt writes before it looks for job.json: either it
finds the job gone, and removes what it wrote, or the deletion finds what it wrote. What a process
that was killed has left belongs to no life that a job.json names, and is removed when it has stayed
so for a while.

Videos are received and explained on this machine, in the folder `root`, which no other needs.
"""

import errno
import math
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath

from pydantic import ValidationError

from rollout_core.contract import RESULT_NAME, ExplainResult
from rollout_core.errors import AttemptLost, UnknownFormat
from rollout_core.jobs.bucket import Bucket, digest
from rollout_core.jobs.disk import PRIVATE
from rollout_core.jobs.local_attempts import LocalAttempts, attempt_name, attempt_number
from rollout_core.jobs.object_cache import ObjectCache
from rollout_core.jobs.object_files import FilesInBucket
from rollout_core.jobs.object_leftovers import Leftovers
from rollout_core.jobs.object_records import (
    END_NAME,
    JOB_NAME,
    EndDocument,
    JobDocument,
    encode,
    life_of,
)
from rollout_core.jobs.object_results import is_artifact_name, put_result
from rollout_core.jobs.records import Ended, Origin, Submission, Ticket
from rollout_core.jobs.spool import Spool
from rollout_core.jobs.store import UPLOAD_NAME, ArtifactStore, StoredFile, unavailable
from rollout_core.jobs.survey import Survey

REMEMBER_SECONDS = 1.0
"""What never changes about a job is read again after this long. Until then, a process may not know
that another one has deleted it."""

BEGUN_NAME = ".begun"


@dataclass(frozen=True)
class StoredObject(StoredFile):
    """A file of a result in a bucket."""

    bucket: Bucket
    key: str
    modified: datetime

    def read(self) -> bytes:
        """See `StoredFile.read`."""
        content = self.bucket.get(self.key)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, "the object has just been deleted", self.key)
        return content


class ObjectStore(ArtifactStore):
    """Jobs in a bucket, shared by the service and its workers."""

    is_on_disk = False
    small_files: FilesInBucket

    def __init__(
        self,
        bucket: Bucket,
        root: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        remember_seconds: float = REMEMBER_SECONDS,
    ) -> None:
        """Use a bucket, and the folder `root` of this machine, which is created if missing.

        Args:
            remember_seconds: see `REMEMBER_SECONDS`.
        """
        self.bucket = bucket
        self.root = root
        self.small_files = FilesInBucket(bucket)
        self._cache = ObjectCache(bucket, remember_seconds, clock)
        self._accepted_at: dict[str, float] = {}
        self._leftovers = Leftovers(bucket, clock)
        self._incoming = root / "incoming"
        root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        self._incoming.mkdir(mode=PRIVATE, exist_ok=True)
        self._spool = Spool(self._incoming, clock)
        self._here = LocalAttempts(root / "attempts")

    def identity(self) -> str:
        """See `ArtifactStore.identity`."""
        return self.made_once("identity", "id", lambda: uuid.uuid4().hex)

    def made_once(self, folder_name: str, name: str, make: Callable[[], str]) -> str:
        """See `ArtifactStore.made_once`."""
        key = f"{folder_name}/{name}"
        text = self.bucket.get(key)
        return (text or self.bucket.create_or_get(key, make().encode())).decode()

    def check_writable(self) -> None:
        """See `ArtifactStore.check_writable`; the folder of this machine is checked, too."""
        name = f"probe-{uuid.uuid4().hex}"
        try:
            try:
                (self._incoming / name).write_bytes(b"\0")
            finally:
                (self._incoming / name).unlink(missing_ok=True)
            self.bucket.put(f"probes/{name}", b"\0")
            self.bucket.delete([f"probes/{name}"])
        except OSError as error:
            raise unavailable(error, "the store cannot be written") from error

    def free_bytes(self) -> int:
        """See `ArtifactStore.free_bytes`; the bucket itself has no limit."""
        return shutil.disk_usage(self.root).free

    def total_bytes(self) -> int:
        """See `ArtifactStore.total_bytes`."""
        return shutil.disk_usage(self.root).total

    @contextmanager
    def receiving(self) -> Iterator[Path]:
        """See `ArtifactStore.receiving`."""
        with self._spool.temporary_folder() as folder:
            yield folder / UPLOAD_NAME

    def accept(
        self,
        ticket: Ticket,
        upload: PurePath,
        submission: Submission | None = None,
        *,
        answer: str | None = None,
        origin: Origin | None = None,
    ) -> None:
        """See `ArtifactStore.accept`; `upload` is a key of the bucket.

        If it is not known whether job.json was written, the other objects stay: the job may exist.
        """
        job = JobDocument.new(ticket, submission or Submission(), origin or Origin())
        folder, text = _folder(ticket.id, job), job.to_json()
        try:
            self.bucket.copy(str(upload), f"{folder}/{UPLOAD_NAME}", ticket.upload_bytes)
            if answer is not None:
                self.bucket.put(f"{folder}/{END_NAME}", self._copy_result(answer, folder).to_json())
        except BaseException:
            self._discard(folder)
            raise
        if self.bucket.create_or_get(_key(ticket.id), text) != text:
            self._discard(folder)
            raise FileExistsError(errno.EEXIST, "the job exists", ticket.id)
        self._forget(ticket.id)

    def submission(self, job_id: str) -> Submission:
        """See `ArtifactStore.submission`."""
        job = self._find(job_id)
        return Submission() if job is None else Submission.from_json(encode(job.submission))

    def origin(self, job_id: str) -> Origin:
        """See `ArtifactStore.origin`."""
        try:
            job = self._find(job_id)
        except (OSError, UnknownFormat):
            return Origin()
        return Origin.read(None if job is None else encode(job.origin))

    def ticket(self, job_id: str) -> Ticket | None:
        """See `ArtifactStore.ticket`."""
        job = self._find(job_id)
        return None if job is None else Ticket.from_json(encode(job.ticket))

    def begin_attempt(self, job_id: str, attempt: int, token: str | None = None) -> Path:
        """See `ArtifactStore.begin_attempt`.

        An older attempt that publishes at this moment may still end the job. It ends once.
        """
        self._here.remove_ended(self.is_open)
        job = self._find(job_id, now=True)
        if job is None:
            raise AttemptLost("the job has been deleted")
        name = attempt_name(attempt, token)
        marker = f"{_attempt(job_id, job, name)}/{BEGUN_NAME}"
        self.bucket.put(marker, b"")
        if not self._still_exists(job_id, job):
            self.bucket.delete([marker])
            raise AttemptLost("the job has been deleted")
        return self._here.begin(job_id, name)

    def stage_upload(self, job_id: str, attempt_folder: Path) -> Path:
        """See `ArtifactStore.stage_upload`: it is a copy beside the attempt's folder."""
        key = f"{_folder(job_id, self._require(job_id))}/{UPLOAD_NAME}"
        path = self._here.make_upload_folder(attempt_folder) / UPLOAD_NAME
        self.bucket.download(key, path)
        return path

    def latest_attempt(self, job_id: str) -> int:
        """See `ArtifactStore.latest_attempt`."""
        job = self._find(job_id)
        return self._latest(job_id, job) if job else 0

    def end_attempt(self, job_id: str, attempt: int, token: str | None = None) -> None:
        """See `ArtifactStore.end_attempt`."""
        name = attempt_name(attempt, token)
        self._here.remove(job_id, name)
        job = self._find(job_id)
        if job is not None:
            self._remove_attempt(job_id, job, name)

    def end_attempts(self, job_id: str) -> None:
        """See `ArtifactStore.end_attempts`; before the job ends, objects are left for later.

        An attempt that still runs on another machine could otherwise publish files that are gone.
        """
        self._here.remove_all(job_id)
        job = self._find(job_id)
        end = self._end_of(job_id, job) if job else None
        if job and end:
            for name in self._attempts(job_id, job):
                if name != end.attempt:
                    self.bucket.delete_folder(_attempt(job_id, job, name))

    def publish(
        self, job_id: str, attempt: int, result: ExplainResult, token: str | None = None
    ) -> None:
        """See `ArtifactStore.publish`."""
        name = attempt_name(attempt, token)
        job = self._find(job_id, now=True)
        if job is None:
            raise AttemptLost("the job was deleted")
        self._require_latest(job_id, job, attempt)
        text = result.model_dump_json(indent=2)
        try:
            here = self._here.folder(job_id, name)
            put_result(self.bucket, _attempt(job_id, job, name), here, text, job_id)
            self._require_latest(job_id, job, attempt)
            self._end(job_id, job, EndDocument.of_result(name, text))
        except AttemptLost:
            self._remove_attempt(job_id, job, name)
            raise
        self._here.remove(job_id, name)

    def end(self, job_id: str, ended: Ended) -> None:
        """See `ArtifactStore.end`."""
        job = self._find(job_id, now=True)
        if job is None:
            raise AttemptLost("the job was deleted")
        self._end(job_id, job, EndDocument.of(ended))
        with suppress(OSError):  # the job has ended; its other files can be removed later
            self.end_attempts(job_id)

    def exists(self, job_id: str) -> bool:
        """See `ArtifactStore.exists`."""
        return self._cache.get(_key(job_id)) is not None

    def has_ended(self, job_id: str) -> bool:
        """See `ArtifactStore.has_ended`."""
        job = self._find(job_id)
        return job is not None and self._cache.get(_end_key(job_id, job)) is not None

    def ending(self, job_id: str) -> ExplainResult | Ended | None:
        """See `ArtifactStore.ending`."""
        job = self._find(job_id)
        end = self._end_of(job_id, job) if job else None
        if end is None or end.ended is None:
            return _result(job_id, end)
        return Ended.from_json(encode(end.ended))

    def result(self, job_id: str) -> ExplainResult | None:
        """See `ArtifactStore.result`."""
        job = self._find(job_id)
        return _result(job_id, self._end_of(job_id, job) if job else None)

    def artifact(self, job_id: str, name: str) -> StoredObject | None:
        """See `ArtifactStore.artifact`."""
        job = self._find(job_id)
        end = self._end_of(job_id, job) if job else None
        if job is None or end is None or end.attempt is None or not is_artifact_name(name):
            return None
        key = f"{_attempt(job_id, job, end.attempt)}/{name}"
        found = self.bucket.head(key)
        if found is None:
            return None
        return StoredObject(name, found.bytes, self.bucket, key, found.modified)

    def delete(self, job_id: str) -> bool:
        """See `ArtifactStore.delete`; also of a job that this version cannot read.

        If that fails half-way, the job is gone, and its files are removed as leftovers.
        """
        text = self.bucket.get(_key(job_id))
        if text is None:
            return False
        self.bucket.delete([_key(job_id)])
        self._forget(job_id)
        self._here.remove_all(job_id)
        life = life_of(text)
        self.bucket.delete_folder(f"jobs/{job_id}/{life}" if life else f"jobs/{job_id}")
        return True

    def has_files(self, job_id: str) -> bool:
        """See `ArtifactStore.has_files`."""
        job = self._find(job_id)
        return job is not None and not self._has(job_id, job, "emptied")

    def remove_video(self, job_id: str) -> None:
        """See `ArtifactStore.remove_video`."""
        job = self._find(job_id)
        if job is not None:
            self.bucket.delete([f"{_folder(job_id, job)}/{UPLOAD_NAME}"])

    def has_expired(self, job_id: str) -> bool:
        """See `ArtifactStore.has_expired`."""
        job = self._find(job_id)
        return job is not None and self._has(job_id, job, "expired")

    def expire(self, job_id: str) -> None:
        """See `ArtifactStore.expire`."""
        job = self._find(job_id, now=True)
        if job is None:
            return
        folder = _folder(job_id, job)
        self.bucket.put(f"{folder}/expired", b"")
        self.bucket.delete_folder(f"{folder}/attempts")
        self.bucket.delete([f"{folder}/{UPLOAD_NAME}"])
        self.bucket.put(f"{folder}/emptied", b"")
        if not self._still_exists(job_id, job):
            self.bucket.delete_folder(folder)

    def names(self) -> Sequence[str]:
        """See `ArtifactStore.names`."""
        names, _ = self.bucket.list_children("jobs")
        for gone in set(self._accepted_at).difference(names):
            self._accepted_at.pop(gone, None)
        return names

    def names_changed(self) -> int:
        """Return the present time: a bucket does not tell when it changes."""
        return time.time_ns()

    def changed(self, job_id: str) -> int | None:
        """See `ArtifactStore.changed`."""
        found = self.bucket.objects(f"jobs/{job_id}")
        return digest(found) if _key(job_id) in {item.key for item in found} else None

    def survey(self, job_id: str) -> Survey | None:
        """See `ArtifactStore.survey`; nothing is shared, since jobs have copies.

        The ticket or the end is the whole document, if this version cannot read it.
        """
        found = self.bucket.objects(f"jobs/{job_id}")
        text = self.bucket.get(_key(job_id))
        if text is None:
            return None
        ticket, has_ended, ended = self._look(job_id, text)
        return Survey(
            changed=digest(found),
            total_bytes=sum(item.bytes for item in found),
            shared=None,
            has_ended=has_ended,
            ended=ended,
            ticket=ticket,
        )

    def accepted_at(self, job_id: str) -> float:
        """See `ArtifactStore.accepted_at`."""
        if job_id not in self._accepted_at:
            found = self.bucket.head(_key(job_id))
            if found is None:
                return math.inf
            self._accepted_at[job_id] = found.modified.timestamp()
        return self._accepted_at.get(job_id, math.inf)

    def remove_stale_uploads(self, age_seconds: float) -> None:
        """See `ArtifactStore.remove_stale_uploads`."""
        self._spool.remove_stale(age_seconds)
        self._leftovers.remove(age_seconds)

    def _copy_result(self, job_id: str, folder: str) -> EndDocument:
        """Copy the files of a result below the folder of another job; return how that one ends."""
        job = self._require(job_id)
        end = self._end_of(job_id, job)
        result = _result(job_id, end)
        if end is None or end.attempt is None or result is None:
            raise FileNotFoundError(errno.ENOENT, "the job has no result", job_id)
        source = _attempt(job_id, job, end.attempt)
        for name in (RESULT_NAME, *(artifact.name for artifact in result.artifacts)):
            self.bucket.copy(f"{source}/{name}", f"{folder}/attempts/{end.attempt}/{name}")
        return end

    def _end(self, job_id: str, job: JobDocument, end: EndDocument) -> None:
        """End a job unless it has ended already, or was deleted."""
        key, text = _end_key(job_id, job), end.to_json()
        if self.bucket.create_or_get(key, text) != text:
            raise AttemptLost("the job has ended before")
        if not self._still_exists(job_id, job):
            self.bucket.delete([key])
            raise AttemptLost("the job was deleted")

    def _still_exists(self, job_id: str, job: JobDocument) -> bool:
        """Return whether a job was not deleted; a new one may have its id."""
        text = self.bucket.get(_key(job_id))
        return text is not None and life_of(text) == job.life

    def _find(self, job_id: str, *, now: bool = False) -> JobDocument | None:
        """Return what never changes about a job, None if there is no such job.

        Args:
            now: read it from the bucket, even if it is remembered.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        key = _key(job_id)
        text = self.bucket.get(key) if now else self._cache.get(key)
        return None if text is None else JobDocument.read(text)

    def _require(self, job_id: str) -> JobDocument:
        job = self._find(job_id)
        if job is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such job", job_id)
        return job

    def _end_of(self, job_id: str, job: JobDocument) -> EndDocument | None:
        """Return how a job ended, None if it has not."""
        text = self._cache.get(_end_key(job_id, job))
        return None if text is None else EndDocument.read(text)

    def _look(self, job_id: str, text: bytes) -> tuple[bytes, bool, bytes | None]:
        """Return the ticket of a job, whether it has ended, and its `Ended`; see `survey`."""
        try:
            job = JobDocument.read(text)
        except UnknownFormat:
            return text, False, None
        end = self._cache.get(_end_key(job_id, job))
        if end is None:
            return encode(job.ticket), False, None
        try:
            ended = EndDocument.read(end).ended
        except UnknownFormat:
            return encode(job.ticket), True, end
        return encode(job.ticket), True, None if ended is None else encode(ended)

    def _has(self, job_id: str, job: JobDocument, name: str) -> bool:
        return self.bucket.head(f"{_folder(job_id, job)}/{name}") is not None

    def _attempts(self, job_id: str, job: JobDocument) -> list[str]:
        """Return the names of all attempts that have begun."""
        names, _ = self.bucket.list_children(f"{_folder(job_id, job)}/attempts")
        return [name for name in names if attempt_number(name) is not None]

    def _latest(self, job_id: str, job: JobDocument) -> int:
        return max((attempt_number(name) or 0 for name in self._attempts(job_id, job)), default=0)

    def _require_latest(self, job_id: str, job: JobDocument, attempt: int) -> None:
        """Raise `AttemptLost` if a newer attempt has begun, or the job has ended."""
        if self._end_of(job_id, job) is not None:
            raise AttemptLost("the job has ended before")
        if self._latest(job_id, job) > attempt:
            raise AttemptLost(f"attempt {attempt} is not the latest")

    def _remove_attempt(self, job_id: str, job: JobDocument, name: str) -> None:
        """Remove the objects of an attempt, unless they are the result."""
        end = self._end_of(job_id, job)
        if end is None or end.attempt != name:
            self.bucket.delete_folder(_attempt(job_id, job, name))

    def _discard(self, folder: str) -> None:
        """Remove what belongs to no job, if the bucket can be used; or later, as leftovers."""
        with suppress(OSError):
            self.bucket.delete_folder(folder)

    def _forget(self, job_id: str) -> None:
        self._accepted_at.pop(job_id, None)
        self._cache.forget(f"jobs/{job_id}")


def _key(job_id: str) -> str:
    return f"jobs/{job_id}/{JOB_NAME}"


def _folder(job_id: str, job: JobDocument) -> str:
    return f"jobs/{job_id}/{job.life}"


def _attempt(job_id: str, job: JobDocument, name: str) -> str:
    return f"{_folder(job_id, job)}/attempts/{name}"


def _end_key(job_id: str, job: JobDocument) -> str:
    return f"{_folder(job_id, job)}/{END_NAME}"


def _result(job_id: str, end: EndDocument | None) -> ExplainResult | None:
    if end is None or end.result is None:
        return None
    try:
        return ExplainResult.model_validate_json(end.result, extra="ignore")
    except ValidationError as error:
        raise UnknownFormat(f"the result of job {job_id} cannot be read") from error
