"""A store in a bucket: an object per file, none of which is ever seen in part.

    identity/id, session/secret         as in `rollout_core.jobs.folder_store`
    jobs/<id>/job.json                  the job exists while this object does; see `_Document`
    jobs/<id>/<life>/video              the job's own copy of its video
    jobs/<id>/<life>/attempts/<n>-<token>/begun    marker of an attempt that has begun
    jobs/<id>/<life>/attempts/<n>-<token>/<name>   a file of its result
    jobs/<id>/<life>/end.json           how the job ended, and whose files its result is
    jobs/<id>/<life>/expired, emptied   markers: removing its old files has begun, has ended

Nothing can be renamed here, but an object can be created once only: by a write that fails if it
exists (`If-None-Match: *`). job.json and end.json are written so. What an attempt has written is a
result only once end.json names it; until then it is removed by whoever finds it.

A client that repeats a call may give a new job the id of one that was deleted. So each has a `life`
of its own, a random name in its job.json, and what is left of the old one is not taken for the new.

Deleting a job removes job.json first. A late attempt writes end.json before it looks for job.json:
either it finds the job gone, and removes what it wrote, or the deletion finds what it wrote. What a
process that was killed has left belongs to no life that a job.json names, and is removed when it
has stayed so for a while.

Videos are received and explained on this machine, in the folder `root`, which no other needs.
"""

import errno
import json
import math
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Self

from pydantic import ValidationError

from rollout_core.contract import RESULT_NAME, ExplainResult
from rollout_core.errors import AttemptLost, StoreUnavailable, UnknownFormat
from rollout_core.jobs.bucket import Bucket, Object, digest
from rollout_core.jobs.disk import PRIVATE, is_plain, list_folder
from rollout_core.jobs.media_types import content_disposition, media_type_of
from rollout_core.jobs.object_files import FilesInBucket
from rollout_core.jobs.records import FORMAT_VERSION, Ended, Origin, Submission, Ticket
from rollout_core.jobs.spool import Spool
from rollout_core.jobs.store import UPLOAD_NAME, ArtifactStore, StoredFile
from rollout_core.jobs.survey import Survey
from rollout_core.jobs.watch import Watch

REMEMBER_SECONDS = 1.0
"""What never changes about a job is read again after this; so long may a process not know that
another one has deleted it."""

ATTEMPT = re.compile(r"([0-9]+)(-[0-9a-f]+)?")
"""Name of an attempt: its number, and the token of its claim if it has one."""

JOB_NAME = "job.json"
BEGUN_NAME = "begun"

MAX_REMEMBERED = 1000
"""Objects that are remembered; then all are read again."""


class _Document(NamedTuple):
    """What never changes about a job; job.json.

    The parts are kept as JSON, because a process may read one and not know a field of another.
    """

    life: str
    ticket: Any
    submission: Any
    origin: Any

    @classmethod
    def new(cls, ticket: Ticket, submission: Submission, origin: Origin) -> Self:
        """Describe a new job."""
        parts = (json.loads(part.to_json()) for part in (ticket, submission, origin))
        return cls(uuid.uuid4().hex, *parts)

    @classmethod
    def read(cls, text: bytes) -> Self:
        """Read a job.json.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        document = _read_json(text, "job.json")
        try:
            return cls(*(document[name] for name in cls._fields))
        except KeyError as error:
            raise UnknownFormat(f"job.json has no {error}") from error

    def to_json(self) -> bytes:
        """Return the text of job.json."""
        return json.dumps({"version": 1, **self._asdict()}).encode()


class _End(NamedTuple):
    """How a job ended; end.json.

    Attributes:
        attempt: name of the attempt whose files are the result.
        result: text of its result.json.
        ended: an `Ended`, as JSON, if the job has no result.
    """

    attempt: str | None
    result: str | None
    ended: Any

    @classmethod
    def read(cls, text: bytes) -> Self:
        """Read an end.json.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        document = _read_json(text, "end.json")
        return cls(*(document.get(name) for name in cls._fields))

    def to_json(self) -> bytes:
        """Return the text of an end.json; no two are equal."""
        return json.dumps({"version": 1, "writer": uuid.uuid4().hex, **self._asdict()}).encode()


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
        self._clock = clock
        self._remember_seconds = remember_seconds
        self._remembered: dict[str, tuple[bytes, float]] = {}
        self._accepted_at: dict[str, float] = {}
        self._watch = Watch(clock)
        self._incoming, self._attempts_here = root / "incoming", root / "attempts"
        root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        for folder in (self._incoming, self._attempts_here):
            folder.mkdir(mode=PRIVATE, exist_ok=True)
        self._spool = Spool(self._incoming, clock)

    def identity(self) -> str:
        """See `ArtifactStore.identity`."""
        return self.made_once("identity", "id", lambda: uuid.uuid4().hex)

    def made_once(self, folder_name: str, name: str, make: Callable[[], str]) -> str:
        """See `ArtifactStore.made_once`."""
        key = f"{folder_name}/{name}"
        text = self.bucket.get(key)
        if text is None:
            self.bucket.create(key, make().encode())
            text = self.bucket.get(key)
            if text is None:
                raise OSError(errno.EREMOTEIO, "the object vanished after it was written", key)
        return text.decode()

    def check_writable(self) -> None:
        """See `ArtifactStore.check_writable`."""
        key = f"probes/{uuid.uuid4().hex}"
        try:
            self.bucket.put(key, b"\0")
            self.bucket.delete([key])
        except OSError as error:
            raise StoreUnavailable("the store cannot be written") from error

    def free_bytes(self) -> int:
        """See `ArtifactStore.free_bytes`; the bucket itself has no end."""
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
        """See `ArtifactStore.accept`; `upload` is a key of the bucket."""
        job = _Document.new(ticket, submission or Submission(), origin or Origin())
        folder = self._folder(ticket.id, job)
        try:
            self.bucket.copy(str(upload), f"{folder}/{UPLOAD_NAME}")
            end = self._copy_result(answer, folder) if answer is not None else None
            if not self._create(self._key(ticket.id), job.to_json()):
                raise FileExistsError(errno.EEXIST, "the job exists", ticket.id)
        except BaseException:
            self.bucket.delete_folder(folder)
            raise
        if end is not None:
            self._create(f"{folder}/end.json", end.to_json())

    def submission(self, job_id: str) -> Submission:
        """See `ArtifactStore.submission`."""
        job = self._find(job_id)
        return Submission() if job is None else Submission.from_json(_encode(job.submission))

    def origin(self, job_id: str) -> Origin:
        """See `ArtifactStore.origin`."""
        try:
            job = self._find(job_id)
        except (OSError, UnknownFormat):
            return Origin()
        return Origin.read(None if job is None else _encode(job.origin))

    def ticket(self, job_id: str) -> Ticket | None:
        """See `ArtifactStore.ticket`."""
        job = self._find(job_id)
        return None if job is None else Ticket.from_json(_encode(job.ticket))

    def begin_attempt(self, job_id: str, attempt: int, token: str | None = None) -> Path:
        """See `ArtifactStore.begin_attempt`."""
        self._remove_old_attempts_here()
        job = self._find(job_id, now=True)
        if job is None:
            raise AttemptLost("the job has been deleted")
        name = _attempt_name(attempt, token)
        self.bucket.put(f"{self._folder(job_id, job)}/attempts/{name}/{BEGUN_NAME}", b"")
        folder = self._here(job_id, name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=PRIVATE, parents=True)
        return folder

    def stage_upload(self, job_id: str, attempt_folder: Path) -> Path:
        """See `ArtifactStore.stage_upload`: it is a copy beside the attempt's folder."""
        job = self._require(job_id)
        folder = attempt_folder.with_name(f"{attempt_folder.name}.upload")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=PRIVATE)
        path = folder / UPLOAD_NAME
        self.bucket.download(f"{self._folder(job_id, job)}/{UPLOAD_NAME}", path)
        return path

    def latest_attempt(self, job_id: str) -> int:
        """See `ArtifactStore.latest_attempt`."""
        job = self._find(job_id)
        return max(map(_attempt_number, self._attempts(job_id, job)), default=0) if job else 0

    def end_attempt(self, job_id: str, attempt: int, token: str | None = None) -> None:
        """See `ArtifactStore.end_attempt`."""
        name = _attempt_name(attempt, token)
        self._remove_here(self._here(job_id, name))
        job = self._find(job_id)
        if job is not None:
            end = self._end_of(job_id, job)
            if end is None or end.attempt != name:
                self.bucket.delete_folder(f"{self._folder(job_id, job)}/attempts/{name}")

    def end_attempts(self, job_id: str) -> None:
        """See `ArtifactStore.end_attempts`; before the job ends, they are left for later.

        An attempt that still runs could otherwise publish files that are gone.
        """
        shutil.rmtree(self._attempts_here / job_id, ignore_errors=True)
        job = self._find(job_id)
        end = self._end_of(job_id, job) if job else None
        if job and end:
            folder = f"{self._folder(job_id, job)}/attempts"
            for name in self._attempts(job_id, job):
                if name != end.attempt:
                    self.bucket.delete_folder(f"{folder}/{name}")

    def publish(
        self, job_id: str, attempt: int, result: ExplainResult, token: str | None = None
    ) -> None:
        """See `ArtifactStore.publish`."""
        name = _attempt_name(attempt, token)
        here, job = self._here(job_id, name), self._find(job_id, now=True)
        if job is None or not here.is_dir():
            raise AttemptLost(f"attempt {attempt} no longer has the job")
        if max(map(_attempt_number, self._attempts(job_id, job)), default=0) > attempt:
            raise AttemptLost(f"attempt {attempt} is not the latest")
        folder = f"{self._folder(job_id, job)}/attempts/{name}"
        text = result.model_dump_json(indent=2)
        (here / RESULT_NAME).write_text(text)
        try:
            for path in filter(is_plain, sorted(here.iterdir())):
                self.bucket.put(f"{folder}/{path.name}", path, attributes=_headers(job_id, path))
            self._end(job_id, job, _End(name, text, None))
        except AttemptLost:
            self.bucket.delete_folder(folder)
            raise

    def end(self, job_id: str, ended: Ended) -> None:
        """See `ArtifactStore.end`."""
        job = self._find(job_id, now=True)
        if job is None:
            raise AttemptLost("the job was deleted")
        self._end(job_id, job, _End(None, None, json.loads(ended.to_json())))
        self.end_attempts(job_id)

    def exists(self, job_id: str) -> bool:
        """See `ArtifactStore.exists`."""
        return self._read(self._key(job_id)) is not None

    def has_ended(self, job_id: str) -> bool:
        """See `ArtifactStore.has_ended`."""
        job = self._find(job_id)
        return job is not None and self._read(f"{self._folder(job_id, job)}/end.json") is not None

    def ending(self, job_id: str) -> ExplainResult | Ended | None:
        """See `ArtifactStore.ending`."""
        job = self._find(job_id)
        end = self._end_of(job_id, job) if job else None
        if end is None or end.ended is None:
            return self._result(job_id, end)
        return Ended.from_json(_encode(end.ended))

    def result(self, job_id: str) -> ExplainResult | None:
        """See `ArtifactStore.result`."""
        job = self._find(job_id)
        return self._result(job_id, self._end_of(job_id, job) if job else None)

    def artifact(self, job_id: str, name: str) -> StoredObject | None:
        """See `ArtifactStore.artifact`."""
        job = self._find(job_id)
        end = self._end_of(job_id, job) if job else None
        if job is None or end is None or end.attempt is None or not _is_name(name):
            return None
        key = f"{self._folder(job_id, job)}/attempts/{end.attempt}/{name}"
        found = self.bucket.head(key)
        if found is None:
            return None
        return StoredObject(name, found.bytes, self.bucket, key, found.modified)

    def delete(self, job_id: str) -> bool:
        """See `ArtifactStore.delete`."""
        job = self._find(job_id, now=True)
        if job is None:
            return False
        self.bucket.delete([self._key(job_id)])
        self._forget(job_id)
        self.bucket.delete_folder(self._folder(job_id, job))
        shutil.rmtree(self._attempts_here / job_id, ignore_errors=True)
        return True

    def has_files(self, job_id: str) -> bool:
        """See `ArtifactStore.has_files`."""
        job = self._find(job_id)
        return job is not None and not self._has(job_id, job, "emptied")

    def remove_video(self, job_id: str) -> None:
        """See `ArtifactStore.remove_video`."""
        job = self._find(job_id)
        if job is not None:
            self.bucket.delete([f"{self._folder(job_id, job)}/{UPLOAD_NAME}"])

    def has_expired(self, job_id: str) -> bool:
        """See `ArtifactStore.has_expired`."""
        job = self._find(job_id)
        return job is not None and self._has(job_id, job, "expired")

    def expire(self, job_id: str) -> None:
        """See `ArtifactStore.expire`."""
        job = self._find(job_id, now=True)
        if job is None:
            return
        folder = self._folder(job_id, job)
        self.bucket.put(f"{folder}/expired", b"")
        self.bucket.delete_folder(f"{folder}/attempts")
        self.bucket.delete([f"{folder}/{UPLOAD_NAME}"])
        self.bucket.put(f"{folder}/emptied", b"")

    def names(self) -> Sequence[str]:
        """See `ArtifactStore.names`."""
        names, _ = self.bucket.list_children("jobs")
        for gone in self._accepted_at.keys() - names:
            self._accepted_at.pop(gone, None)
        return names

    def names_changed(self) -> int:
        """Return the present time: a bucket does not tell when it changes."""
        return time.time_ns()

    def changed(self, job_id: str) -> int | None:
        """See `ArtifactStore.changed`."""
        found = self.bucket.objects(f"jobs/{job_id}")
        return digest(found) if self._key(job_id) in {item.key for item in found} else None

    def survey(self, job_id: str) -> Survey | None:
        """See `ArtifactStore.survey`; nothing is shared, since jobs have copies."""
        found = self.bucket.objects(f"jobs/{job_id}")
        job = self._find(job_id, now=True)
        if job is None:
            return None
        end = self._end_of(job_id, job)
        return Survey(
            changed=digest(found),
            total_bytes=sum(item.bytes for item in found),
            shared=None,
            has_ended=end is not None,
            ended=_encode(end.ended) if end and end.ended is not None else None,
            ticket=_encode(job.ticket),
        )

    def accepted_at(self, job_id: str) -> float:
        """See `ArtifactStore.accepted_at`."""
        if job_id not in self._accepted_at:
            found = self.bucket.head(self._key(job_id))
            if found is None:
                return math.inf
            self._accepted_at[job_id] = found.modified.timestamp()
        return self._accepted_at[job_id]

    def remove_stale_uploads(self, age_seconds: float) -> None:
        """See `ArtifactStore.remove_stale_uploads`."""
        self._spool.remove_stale(age_seconds)
        self._watch.begin()
        for job_id, objects in groupby(self.bucket.iterate("jobs"), _id_of):
            for folder in self._leftovers(job_id, list(objects)):
                found = self.bucket.objects(folder)
                if found and self._watch.seconds(folder, str(digest(found))) >= age_seconds:
                    self.bucket.delete_folder(folder)

    def _copy_result(self, job_id: str, folder: str) -> _End:
        """Copy the files of a result below the folder of another job; return how that one ends."""
        job = self._require(job_id)
        end, result = self._end_of(job_id, job), self.result(job_id)
        if end is None or end.attempt is None or result is None:
            raise FileNotFoundError(errno.ENOENT, "the job has no result", job_id)
        source = f"{self._folder(job_id, job)}/attempts/{end.attempt}"
        for name in (RESULT_NAME, *(artifact.name for artifact in result.artifacts)):
            self.bucket.copy(f"{source}/{name}", f"{folder}/attempts/{end.attempt}/{name}")
        return end

    def _end(self, job_id: str, job: _Document, end: _End) -> None:
        """End a job unless it has ended already, or was deleted."""
        key = f"{self._folder(job_id, job)}/end.json"
        if not self._create(key, end.to_json()):
            raise AttemptLost("the job has ended before")
        if self.bucket.get(self._key(job_id)) != job.to_json():
            self.bucket.delete([key])
            raise AttemptLost("the job was deleted")

    def _create(self, key: str, text: bytes) -> bool:
        """Create an object once; return whether it is this one."""
        created = self.bucket.create(key, text) or self.bucket.get(key) == text
        self._remembered.pop(key, None)
        return created

    def _find(self, job_id: str, *, now: bool = False) -> _Document | None:
        """Return what never changes about a job, None if there is no such job.

        Args:
            now: read it from the bucket, even if it is remembered.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        key = self._key(job_id)
        text = self.bucket.get(key) if now else self._read(key)
        return None if text is None else _Document.read(text)

    def _require(self, job_id: str) -> _Document:
        job = self._find(job_id)
        if job is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such job", job_id)
        return job

    def _end_of(self, job_id: str, job: _Document) -> _End | None:
        """Return how a job ended, None if it has not."""
        text = self._read(f"{self._folder(job_id, job)}/end.json")
        return None if text is None else _End.read(text)

    def _result(self, job_id: str, end: _End | None) -> ExplainResult | None:
        if end is None or end.result is None:
            return None
        try:
            return ExplainResult.model_validate_json(end.result, extra="ignore")
        except ValidationError as error:
            raise UnknownFormat(f"the result of job {job_id} cannot be read") from error

    def _read(self, key: str) -> bytes | None:
        """Return an object that never changes, as it was within the last `remember_seconds`."""
        now = self._clock()
        known = self._remembered.get(key)
        if known and now - known[1] < self._remember_seconds:
            return known[0]
        text = self.bucket.get(key)
        if text is not None and self._remember_seconds:
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = text, now
        return text

    def _forget(self, job_id: str) -> None:
        self._accepted_at.pop(job_id, None)
        for key in [key for key in list(self._remembered) if key.startswith(f"jobs/{job_id}/")]:
            self._remembered.pop(key, None)

    def _has(self, job_id: str, job: _Document, name: str) -> bool:
        return self.bucket.head(f"{self._folder(job_id, job)}/{name}") is not None

    def _attempts(self, job_id: str, job: _Document) -> list[str]:
        """Return the names of all attempts that have begun."""
        names, _ = self.bucket.list_children(f"{self._folder(job_id, job)}/attempts")
        return [name for name in names if ATTEMPT.fullmatch(name)]

    def _leftovers(self, job_id: str, objects: list[Object]) -> list[str]:
        """Return the folders of lives that a job does not have any more, or not yet."""
        names = {found.key.split("/")[2] for found in objects}
        lives = names - {JOB_NAME}
        if JOB_NAME in names and len(lives) <= 1:
            return []
        try:
            job = self._find(job_id, now=True)
        except UnknownFormat:
            return []
        return [f"jobs/{job_id}/{life}" for life in lives if job is None or life != job.life]

    def _remove_old_attempts_here(self) -> None:
        """Remove what workers that were killed have left on this machine."""
        for folder in list_folder(self._attempts_here):
            if not self.is_open(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def _remove_here(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder.with_name(f"{folder.name}.upload"), ignore_errors=True)

    def _here(self, job_id: str, attempt_name: str) -> Path:
        """Return the folder of an attempt on this machine."""
        return self._attempts_here / job_id / attempt_name

    def _key(self, job_id: str) -> str:
        return f"jobs/{job_id}/{JOB_NAME}"

    def _folder(self, job_id: str, job: _Document) -> str:
        return f"jobs/{job_id}/{job.life}"


def _attempt_name(attempt: int, token: str | None) -> str:
    return str(attempt) if token is None else f"{attempt}-{token}"


def _attempt_number(name: str) -> int:
    return int(name.partition("-")[0])


def _id_of(found: Object) -> str:
    """Return the id of the job that an object below `jobs` belongs to."""
    return found.key.split("/")[1]


def _is_name(name: str) -> bool:
    """Return whether an artifact may have this name: it leads nowhere else."""
    return "/" not in name and name not in ("", ".", "..", BEGUN_NAME)


def _headers(job_id: str, path: Path) -> dict[str, str]:
    """Return the headers of HTTP with which a link to an artifact is answered."""
    media_type = media_type_of(path.name)
    return {
        "Content-Type": media_type,
        "Content-Disposition": content_disposition(f"{job_id[:8]}-{path.name}", media_type),
        "Cache-Control": "private, no-cache",
    }


def _encode(part: Any) -> bytes:
    return json.dumps(part).encode()


def _read_json(text: bytes, name: str) -> dict[str, Any]:
    """Read a JSON object of a version that is known.

    Raises:
        UnknownFormat: it is none.
    """
    try:
        document = json.loads(text)
        version = document["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UnknownFormat(f"{name} is damaged") from error
    if version > FORMAT_VERSION:
        raise UnknownFormat(f"{name}: version {version} is not known")
    return dict(document)
