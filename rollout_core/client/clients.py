"""`RolloutClient` and `AsyncRolloutClient`: the same calls, blocking and not."""

import os
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import httpx2
from pydantic import ValidationError

from rollout_core.client.bodies import OnBytes
from rollout_core.client.calls import Calls, Source
from rollout_core.client.errors import RolloutConnectionError
from rollout_core.client.following import JobEvent
from rollout_core.client.retries import Retries
from rollout_core.client.transport import (
    AsyncDriver,
    BlockingDriver,
    Server,
    iterate_at_once,
    run_at_once,
)
from rollout_core.contract import ExplainResult, JobOptions
from rollout_core.error_texts import in_plain_words
from rollout_core.jobs.records import JobState
from rollout_core.jobs.schemas import Job, ServedModel, Upload
from rollout_core.variables import ENV_PREFIX

if TYPE_CHECKING:
    from rollout_core.archive import Archive

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = f"{ENV_PREFIX}URL"
KEY_VARIABLE = f"{ENV_PREFIX}API_KEY"


class RolloutClient:
    """A client that blocks. Threads may share it. Use it in a `with` block, or call `close`.

    Every method may raise `RolloutApiError` (the service refused) and `RolloutConnectionError`
    (it could not be reached); both are `ClientError`. Creating calls and reading calls are made
    again after errors that pass.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float = 60.0,
        retries: Retries | None = None,
        cache: Path | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """Make a client; it connects at the first call.

        Args:
            url: of the service; default: ROLLOUT_URL, else http://127.0.0.1:8000.
            api_key: default: ROLLOUT_API_KEY.
            timeout_seconds: longest silence of the service, not the time of a whole call.
            cache: folder that remembers interrupted uploads; default: below the user's cache.
            transport: how HTTP is spoken, for tests.

        Raises:
            RolloutConnectionError: the URL is not valid.
        """
        self._driver = BlockingDriver(_server(url, api_key, timeout_seconds), transport)
        self._calls = Calls(self._driver, retries, cache)

    @property
    def url(self) -> str:
        """URL of the service."""
        return self._driver.server.url

    def submit(
        self,
        source: Source,
        options: JobOptions | None = None,
        *,
        filename: str | None = None,
        idempotency_key: str | None = None,
        on_bytes: OnBytes | None = None,
        **request: Any,
    ) -> Job:
        """Create a job; return it as it is then.

        Args:
            source: a path, an open binary file, an http(s) URL that the service fetches, or an
                `Upload`. A large file is uploaded so that a later call can resume it.
            options: the request; or give its fields, such as `method="attention"`, as `request`.
            filename: what the service is told of the file's name.
            idempotency_key: calls with the same key make one job; default: a new key, used for
                all tries of this call.
            on_bytes: called with the bytes sent and the bytes in all, from any thread.

        Raises:
            pydantic.ValidationError: a field of the request is wrong. It is a ValueError.
            OSError: the file cannot be read.
            TypeError: the source is of another kind, such as bytes.
        """
        return run_at_once(
            self._calls.submit(
                source,
                _options(options, request),
                filename=filename,
                idempotency_key=idempotency_key,
                on_bytes=on_bytes,
            )
        )

    def explain(self, source: Source, options: JobOptions | None = None, **request: Any) -> Job:
        """Create a job, wait for its end, and return it. A job that failed is returned too."""
        return self.wait(self.submit(source, options, **request))

    def wait(self, job: Job | str, *, timeout_seconds: float | None = None) -> Job:
        """Return a job once it has ended.

        Raises:
            WaitTimeout: it has not ended after `timeout_seconds`. The job goes on.
        """
        return run_at_once(self._calls.wait(job, timeout_seconds=timeout_seconds))

    def events(self, job: Job | str) -> Iterator[JobEvent]:
        """Yield what happens to a job, from its present state to its end."""
        return iterate_at_once(self._calls.events(job))

    def get(self, job: Job | str) -> Job:
        """Return a job as it is now."""
        return run_at_once(self._calls.get(job))

    def list(
        self, *, state: JobState | None = None, tag: str | None = None, model: str | None = None
    ) -> Iterator[Job]:
        """Yield jobs, newest first. Pages are fetched when they are needed."""
        return iterate_at_once(self._calls.list(state=state, tag=tag, model=model))

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job that has not ended; return it as it is then."""
        return run_at_once(self._calls.cancel(job))

    def delete(self, job: Job | str) -> None:
        """Remove a job and its files; stop it if it has not ended."""
        run_at_once(self._calls.delete(job))

    def upload(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        filename: str | None = None,
        on_bytes: OnBytes | None = None,
    ) -> Upload:
        """Send a video without a job, for `submit`. Resumes what an earlier call could not end."""
        return run_at_once(self._calls.upload(source, filename=filename, on_bytes=on_bytes))

    def get_upload(self, upload: Upload | str) -> Upload:
        """Return an upload as it is now; with it, `submit` sends no bytes."""
        return run_at_once(self._calls.get_upload(upload))

    def delete_upload(self, upload: Upload | str) -> None:
        """Remove an upload that no open job uses."""
        run_at_once(self._calls.delete_upload(upload))

    def download(
        self,
        job: Job,
        folder: str | os.PathLike[str],
        names: Collection[str] | None = None,
        on_bytes: OnBytes | None = None,
    ) -> tuple[Path, ...]:
        """Write the files of a result into a folder, all or those with `names`; return the paths.

        Size and SHA-256 are checked. What is there already is not fetched again.

        Raises:
            NoResult: the job has no files.
            ValueError: it has no file of such a name.
            DamagedTransfer: a file has another digest than the job says.
        """
        return run_at_once(self._calls.download(job, Path(folder), names, on_bytes))

    def models(self) -> tuple[ServedModel, ...]:
        """Return the models that live workers serve now."""
        return run_at_once(self._calls.models())

    def result(self, job: Job) -> ExplainResult:
        """Return the content of `result.json`. Raises NoResult as `download` does."""
        return run_at_once(self._calls.result(job))

    def arrays(self, job: Job) -> "Archive":
        """Return the arrays of `rollout.npz`. Raises NoResult as `download` does."""
        return run_at_once(self._calls.arrays(job))

    def close(self) -> None:
        """Close the connections."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncRolloutClient:
    """The same client for asyncio and trio. Methods, arguments and errors: see `RolloutClient`."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float = 60.0,
        retries: Retries | None = None,
        cache: Path | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Make a client. See `RolloutClient`."""
        self._driver = AsyncDriver(_server(url, api_key, timeout_seconds), transport)
        self._calls = Calls(self._driver, retries, cache)

    @property
    def url(self) -> str:
        """URL of the service."""
        return self._driver.server.url

    async def submit(
        self,
        source: Source,
        options: JobOptions | None = None,
        *,
        filename: str | None = None,
        idempotency_key: str | None = None,
        on_bytes: OnBytes | None = None,
        **request: Any,
    ) -> Job:
        """Create a job; return it as it is then."""
        return await self._calls.submit(
            source,
            _options(options, request),
            filename=filename,
            idempotency_key=idempotency_key,
            on_bytes=on_bytes,
        )

    async def explain(
        self, source: Source, options: JobOptions | None = None, **request: Any
    ) -> Job:
        """Create a job, wait for its end, and return it."""
        return await self.wait(await self.submit(source, options, **request))

    async def wait(self, job: Job | str, *, timeout_seconds: float | None = None) -> Job:
        """Return a job once it has ended."""
        return await self._calls.wait(job, timeout_seconds=timeout_seconds)

    def events(self, job: Job | str) -> AsyncIterator[JobEvent]:
        """Yield what happens to a job, from its present state to its end."""
        return self._calls.events(job)

    async def get(self, job: Job | str) -> Job:
        """Return a job as it is now."""
        return await self._calls.get(job)

    def list(
        self, *, state: JobState | None = None, tag: str | None = None, model: str | None = None
    ) -> AsyncIterator[Job]:
        """Yield jobs, newest first."""
        return self._calls.list(state=state, tag=tag, model=model)

    async def cancel(self, job: Job | str) -> Job:
        """Cancel a job that has not ended; return it as it is then."""
        return await self._calls.cancel(job)

    async def delete(self, job: Job | str) -> None:
        """Remove a job and its files; stop it if it has not ended."""
        await self._calls.delete(job)

    async def upload(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        filename: str | None = None,
        on_bytes: OnBytes | None = None,
    ) -> Upload:
        """Send a video without a job, for `submit`."""
        return await self._calls.upload(source, filename=filename, on_bytes=on_bytes)

    async def get_upload(self, upload: Upload | str) -> Upload:
        """Return an upload as it is now."""
        return await self._calls.get_upload(upload)

    async def delete_upload(self, upload: Upload | str) -> None:
        """Remove an upload that no open job uses."""
        await self._calls.delete_upload(upload)

    async def download(
        self,
        job: Job,
        folder: str | os.PathLike[str],
        names: Collection[str] | None = None,
        on_bytes: OnBytes | None = None,
    ) -> tuple[Path, ...]:
        """Write the files of a result into a folder; return the paths."""
        return await self._calls.download(job, Path(folder), names, on_bytes)

    async def models(self) -> tuple[ServedModel, ...]:
        """Return the models that live workers serve now."""
        return await self._calls.models()

    async def result(self, job: Job) -> ExplainResult:
        """Return the content of `result.json`."""
        return await self._calls.result(job)

    async def arrays(self, job: Job) -> "Archive":
        """Return the arrays of `rollout.npz`."""
        return await self._calls.arrays(job)

    async def close(self) -> None:
        """Close the connections."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _server(url: str | None, api_key: str | None, timeout_seconds: float) -> Server:
    """Return the server that the arguments name, or else the environment."""
    url = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        text = f"{url!r} is not a URL of a service, such as {DEFAULT_URL}"
        raise RolloutConnectionError(text, unsent=True)
    return Server(url.rstrip("/"), api_key or os.environ.get(KEY_VARIABLE) or None, timeout_seconds)


def _options(options: JobOptions | None, request: dict[str, Any]) -> JobOptions:
    if options is not None and request:
        raise TypeError("give either options or fields of the request")
    try:
        return options or JobOptions(**request)
    except ValidationError as error:
        raise in_plain_words(error, JobOptions) from None
