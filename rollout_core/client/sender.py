"""Calls with retries, and the values in their answers."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from rollout_core.client.errors import ClientError, RolloutApiError
from rollout_core.client.retries import Retries, may_retry
from rollout_core.client.transport import Answer, Call, Driver, Stream
from rollout_core.jobs.schemas import Job

JOBS_PATH = "/v1/jobs"
UPLOADS_PATH = "/v1/uploads"
MODELS_PATH = "/v1/models"

M = TypeVar("M", bound=BaseModel)


class Sender:
    """Makes calls, and makes them again where that is safe."""

    def __init__(self, driver: Driver, retries: Retries) -> None:
        self.driver = driver
        self._retries = retries

    async def send(self, call: Call, *, repeatable: bool | None = None) -> Answer:
        """Return the answer to a call.

        Args:
            repeatable: whether it can be made again; default: whether it is a GET or a HEAD.

        Raises:
            RolloutApiError: the service answered with an error.
            RolloutConnectionError: there was no answer.
        """
        repeatable = call.method in ("GET", "HEAD") if repeatable is None else repeatable
        failures = 0
        while True:
            try:
                return self._checked(await self.driver.send(call))
            except ClientError as failure:
                failures += 1
                await self.pause(failures, failure, repeatable=repeatable)

    async def create(self, call: Call, *, key: str | None = None) -> Answer:
        """Make a call with an Idempotency-Key, so that it can be made again."""
        headers = {**call.headers, "Idempotency-Key": key or str(uuid.uuid4())}
        return await self.send(replace(call, headers=headers), repeatable=True)

    async def pause(self, failures: int, failure: ClientError, *, repeatable: bool = True) -> None:
        """Wait before the next try after so many failures in a row.

        Raises:
            ClientError: `failure`, if there is no sense in another try.
        """
        seconds = None
        if may_retry(failure, repeatable=repeatable):
            seconds = self._retries.pause(failures, failure)
        if seconds is None:
            raise failure
        await self.driver.sleep(seconds)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[Stream]:
        """Open an answer that is read while it arrives; without retries.

        Raises:
            RolloutApiError, RolloutConnectionError: as `send` does.
        """
        async with self.driver.stream(call) as stream:
            await self._check(stream)
            yield stream

    @asynccontextmanager
    async def stream_file(self, call: Call) -> AsyncIterator[Stream]:
        """Open the answer with a file, as `stream` does; follow a link to where the file is.

        The link leads to this file and no other version of it, so `If-Range` is left out: the
        store behind the link may name versions in another way.
        """
        async with self.stream(call) as stream:
            link = stream.headers.get("location") if stream.status >= 300 else None
            if link is None:
                yield stream
                return
        headers = {name: value for name, value in call.headers.items() if name != "If-Range"}
        async with self.driver.stream_link(link, headers) as stream:
            await self._check(stream)
            yield stream

    async def _check(self, stream: Stream) -> None:
        if stream.status >= 400:
            body = b"".join([chunk async for chunk in stream.chunks()])
            self._checked(Answer(stream.status, stream.headers, body))

    @staticmethod
    def _checked(answer: Answer) -> Answer:
        if answer.status >= 300:
            raise RolloutApiError.from_answer(answer.status, answer.headers, answer.body)
        return answer


def parse(model: type[M], body: bytes | str) -> M:
    """Return the value in an answer. Fields that this release does not know are dropped.

    Raises:
        ClientError: it is not such a value; most likely the URL is not that of a service.
    """
    try:
        return model.model_validate_json(body, extra="ignore")
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "the whole body"
        raise ClientError(
            f"the answer is not a {model.__name__} ({place}: {error.errors()[0]['msg']}); "
            "is the URL that of the service, and its version known to this client?"
        ) from error


def job_path(job: Job | str, *rest: str) -> str:
    """Return the path of a job, or of something below it."""
    return path_of(JOBS_PATH, job if isinstance(job, str) else job.id, *rest)


def path_of(base: str, *names: str) -> str:
    """Return a path; names that are no path segments of their own are quoted."""
    return "/".join((base, *(quote(name, safe="") for name in names)))


def is_missing_call(failure: Any) -> bool:
    """Return whether an error says that this service does not have the call at all."""
    if isinstance(failure, RolloutApiError):
        unknown = failure.status == 404 and failure.code in ("not_found", "http_404")
        return unknown or failure.status in (405, 406, 501)
    return False
