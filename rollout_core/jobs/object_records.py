"""What a store in a bucket keeps about a job as JSON; see `rollout_core.jobs.object_store`."""

import json
import uuid
from typing import Any, NamedTuple, Self

from rollout_core.errors import UnknownFormat
from rollout_core.jobs.records import FORMAT_VERSION, Ended, Origin, Submission, Ticket

JOB_NAME = "job.json"
END_NAME = "end.json"


class JobDocument(NamedTuple):
    """What never changes about a job; job.json.

    The parts are kept as JSON, because a process may read one and not know a field of another.

    Attributes:
        life: a random name; its files are below a folder of this name.
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
        document = _read(text, JOB_NAME)
        try:
            job = cls(*(document[name] for name in cls._fields))
        except KeyError as error:
            raise UnknownFormat(f"{JOB_NAME} has no {error}") from error
        if not _is_life(job.life):
            raise UnknownFormat(f"{JOB_NAME}: life is not a name")
        return job

    def to_json(self) -> bytes:
        """Return the text of job.json."""
        return json.dumps({"version": 1, **self._asdict()}).encode()


class EndDocument(NamedTuple):
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
    def of_result(cls, attempt: str, result: str) -> Self:
        """Describe the end of a job with a result."""
        return cls(attempt, result, None)

    @classmethod
    def of(cls, ended: Ended) -> Self:
        """Describe the end of a job without a result."""
        return cls(None, None, json.loads(ended.to_json()))

    @classmethod
    def read(cls, text: bytes) -> Self:
        """Read an end.json.

        Raises:
            UnknownFormat: this version cannot read it.
        """
        document = _read(text, END_NAME)
        end = cls(*(document.get(name) for name in cls._fields))
        if end.ended is None and not (isinstance(end.attempt, str) and isinstance(end.result, str)):
            raise UnknownFormat(f"{END_NAME} tells no end")
        return end

    def to_json(self) -> bytes:
        """Return the text of an end.json; no two are equal."""
        return json.dumps({"version": 1, "writer": uuid.uuid4().hex, **self._asdict()}).encode()


def life_of(text: bytes) -> str | None:
    """Return the life in a job.json, of any version; None if it has none."""
    try:
        document = json.loads(text)
    except ValueError:
        return None
    life = document.get("life") if isinstance(document, dict) else None
    return life if _is_life(life) else None


def encode(part: Any) -> bytes:
    """Return a part of a document as the text of its own."""
    return json.dumps(part).encode()


def _is_life(life: object) -> bool:
    return isinstance(life, str) and life.isalnum() and life.isascii()


def _read(text: bytes, name: str) -> dict[str, Any]:
    """Read a JSON object of a version that is known.

    Raises:
        UnknownFormat: it is not one.
    """
    try:
        document = json.loads(text)
        version = document["version"]
        is_known = version <= FORMAT_VERSION
    except (ValueError, KeyError, TypeError) as error:
        raise UnknownFormat(f"{name} is damaged") from error
    if not is_known:
        raise UnknownFormat(f"{name}: version {version} is not known")
    return dict(document)
