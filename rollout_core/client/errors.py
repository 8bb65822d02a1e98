"""The failures of a client: what the service answered, or why there was no answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from rollout_core.errors import RolloutError, describe_failure
from rollout_core.jobs.schemas import Job


class ClientError(RolloutError):
    """Base of all failures of a client."""


@dataclass(frozen=True)
class FieldFault:
    """Why the service refused one field of a request."""

    field: str
    message: str


class RolloutApiError(ClientError):
    """The service answered with an error.

    Attributes:
        code: stable name of the error, as in docs/api.md; `http_502` and the like if the answer
            came from a proxy.
        title: the error in a few words.
        detail: what exactly is wrong; may be empty.
        status: of the HTTP answer.
        fields: the fields of the request that are invalid, if that is the problem.
        retry_after_seconds: when the service suggests the next try, if it does.
        request_id: by which the operator of the service finds the call in its log.
    """

    def __init__(
        self,
        code: str,
        title: str,
        detail: str,
        *,
        status: int,
        fields: tuple[FieldFault, ...] = (),
        retry_after_seconds: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(describe_failure(title, detail))
        self.code = code  # type: ignore[misc]  # each error of the service has a code of its own
        self.title = title  # type: ignore[misc]
        self.detail = detail
        self.status = status
        self.fields = fields
        self.retry_after_seconds = retry_after_seconds
        self.request_id = request_id

    @classmethod
    def from_answer(cls, status: int, headers: Mapping[str, str], body: bytes) -> "RolloutApiError":
        """Return the error that an answer describes; bodies that are no problem count as empty."""
        problem = _problem_in(body)
        faults = problem.get("errors")
        return cls(
            str(problem.get("code") or f"http_{status}"),
            str(problem.get("title") or _phrase(status)),
            str(problem.get("detail") or ""),
            status=status,
            fields=tuple(_faults_in(faults if isinstance(faults, list) else [])),
            retry_after_seconds=_seconds(headers.get("retry-after")),
            request_id=headers.get("x-request-id"),
        )


class RolloutConnectionError(ClientError, ConnectionError):
    """The service could not be reached, or the connection broke.

    Attributes:
        unsent: whether it is certain that the service did not receive the request.
    """

    def __init__(self, message: str, *, unsent: bool = False) -> None:
        super().__init__(message)
        self.unsent = unsent


class NoResult(ClientError):
    """The job has no result: it has not ended, failed, was canceled, or its files expired."""

    def __init__(self, job: Job) -> None:
        reason = f"it is {job.state}"
        if job.error is not None:
            reason = describe_failure(job.error.title, job.error.detail)
        elif job.state == "succeeded":
            reason = "its files have expired"
        super().__init__(f"job {job.id} has no result: {reason}")
        self.job = job


class DamagedTransfer(ClientError):
    """A file did not arrive as it was sent."""


class WaitTimeout(ClientError, TimeoutError):
    """The job did not end in the time given."""


def _problem_in(body: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _faults_in(faults: list[Any]) -> list[FieldFault]:
    found = [fault for fault in faults if isinstance(fault, dict)]
    return [FieldFault(str(f.get("field", "")), str(f.get("message", ""))) for f in found]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"HTTP status {status}"


def _seconds(header: str | None) -> float | None:
    """Return the seconds of a Retry-After. The service sends no dates, so these count as none."""
    return float(header) if header is not None and header.isdecimal() else None
