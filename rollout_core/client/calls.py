"""All that a client can ask, written once for both clients: as coroutines that use a `Driver`."""

import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from rollout_core.client.bodies import OnBytes, Video, form_body, json_body, open_video
from rollout_core.client.downloading import Downloading
from rollout_core.client.errors import RolloutApiError
from rollout_core.client.following import Following
from rollout_core.client.retries import Retries
from rollout_core.client.sender import (
    JOBS_PATH,
    MODELS_PATH,
    UPLOADS_PATH,
    Sender,
    is_missing_call,
    job_path,
    parse,
    path_of,
)
from rollout_core.client.transport import Call, Driver
from rollout_core.client.upload_memory import UploadMemory, cache_folder
from rollout_core.client.uploading import Uploading
from rollout_core.contract import ARCHIVE_NAME, RESULT_NAME, ExplainResult, JobOptions
from rollout_core.jobs.records import JobState
from rollout_core.jobs.schemas import Job, JobPage, ModelList, ServedModel, Upload

if TYPE_CHECKING:
    from rollout_core.archive import Archive

T = TypeVar("T")

Source = str | os.PathLike[str] | BinaryIO | Upload
"""A path, an http(s) URL that the service fetches, an open binary file, or an upload."""

PAGE_SIZE = 100


class Calls:
    """The calls of the API, and what is made of several of them."""

    def __init__(
        self, driver: Driver, retries: Retries | None = None, cache: Path | None = None
    ) -> None:
        self.sender = Sender(driver, retries or Retries())
        memory = UploadMemory(cache or cache_folder(), driver.server.url)
        self._uploading = Uploading(self.sender, memory)
        self._downloading = Downloading(self.sender)
        self._following = Following(self.sender)
        self.wait = self._following.wait
        self.events = self._following.events
        self.download = self._downloading.download

    async def submit(
        self,
        source: Source,
        options: JobOptions,
        *,
        filename: str | None = None,
        idempotency_key: str | None = None,
        on_bytes: OnBytes | None = None,
    ) -> Job:
        """Create a job. See `RolloutClient.submit`."""
        # Only what was set: an older service does not know all fields, and has its own defaults.
        request = options.model_dump(mode="json", exclude_unset=True)
        if isinstance(source, Upload):
            return await self._create({"upload": source.id} | request, idempotency_key)
        if is_url(source):
            return await self._create({"video_url": str(source)} | request, idempotency_key)
        with open_video(source, filename) as video:
            if self._uploading.is_large(video):
                try:
                    upload = await self._uploading.resumable(video, on_bytes)
                    return await self._create({"upload": upload.id} | request, idempotency_key)
                except RolloutApiError as failure:
                    if not is_missing_call(failure):
                        raise
            return await self._create_with(video, request, idempotency_key, on_bytes)

    async def upload(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        filename: str | None = None,
        on_bytes: OnBytes | None = None,
    ) -> Upload:
        """Send a video without a job. See `RolloutClient.upload`."""
        with open_video(source, filename) as video:
            return await self._uploading.upload(video, on_bytes)

    async def get_upload(self, upload: Upload | str) -> Upload:
        """Return an upload as it is now."""
        answer = await self.sender.send(Call("GET", _upload_path(upload)))
        return parse(Upload, answer.body)

    async def delete_upload(self, upload: Upload | str) -> None:
        """Remove an upload."""
        await self._delete(_upload_path(upload))

    async def get(self, job: Job | str) -> Job:
        """Return a job as it is now."""
        return parse(Job, (await self.sender.send(Call("GET", job_path(job)))).body)

    async def list(
        self, *, state: JobState | None, tag: str | None, model: str | None
    ) -> AsyncIterator[Job]:
        """Yield jobs, newest first, page after page."""
        filters = {"state": state, "tag": tag, "model": model}
        params: dict[str, str | int] = {k: v for k, v in filters.items() if v is not None}
        params["limit"] = PAGE_SIZE
        while True:
            answer = await self.sender.send(Call("GET", JOBS_PATH, params=params))
            page = parse(JobPage, answer.body)
            for job in page.jobs:
                yield job
            if page.next_cursor is None:
                return
            params["cursor"] = page.next_cursor

    async def cancel(self, job: Job | str) -> Job:
        """Cancel a job."""
        return parse(Job, (await self.sender.send(Call("POST", job_path(job, "cancel")))).body)

    async def delete(self, job: Job | str) -> None:
        """Remove a job and its files."""
        await self._delete(job_path(job))

    async def models(self) -> tuple[ServedModel, ...]:
        """Return the models that live workers serve."""
        return parse(ModelList, (await self.sender.send(Call("GET", MODELS_PATH))).body).models

    async def result(self, job: Job) -> ExplainResult:
        """Return the content of `result.json`."""
        return await self._read(
            job, RESULT_NAME, lambda path: parse(ExplainResult, path.read_bytes())
        )

    async def arrays(self, job: Job) -> "Archive":
        """Return the content of `rollout.npz`."""
        from rollout_core import archive  # numpy: not for those who only submit

        return await self._read(job, ARCHIVE_NAME, archive.load)

    async def _read(self, job: Job, name: str, read: Callable[[Path], T]) -> T:
        with tempfile.TemporaryDirectory(prefix="rollout-client-") as folder:
            (path,) = await self.download(job, Path(folder), (name,))
            return await self.sender.driver.in_thread(read, path)

    async def _create(self, request: dict[str, Any], key: str | None) -> Job:
        call = Call("POST", JOBS_PATH, body=json_body(request))
        return parse(Job, (await self.sender.create(call, key=key)).body)

    async def _create_with(
        self, video: Video, request: dict[str, Any], key: str | None, on_bytes: OnBytes | None
    ) -> Job:
        body = form_body(video, request, boundary=uuid.uuid4().hex, on_bytes=on_bytes)
        answer = await self.sender.create(Call("POST", JOBS_PATH, body=body), key=key)
        return parse(Job, answer.body)

    async def _delete(self, path: str) -> None:
        await self.sender.send(Call("DELETE", path))


def _upload_path(upload: Upload | str) -> str:
    return path_of(UPLOADS_PATH, upload if isinstance(upload, str) else upload.id)


def is_url(source: Any) -> bool:
    """Return whether a source is an address that the service fetches."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))
