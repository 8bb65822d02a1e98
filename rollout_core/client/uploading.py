"""Uploads a video: a small one as one request, a large one by tus, which can be resumed."""

from base64 import b64encode

from rollout_core.client.bodies import Body, OnBytes, Video, raw_body
from rollout_core.client.errors import (
    ClientError,
    DamagedTransfer,
    RolloutApiError,
    RolloutConnectionError,
)
from rollout_core.client.sender import UPLOADS_PATH, Sender, is_missing_call, parse, path_of
from rollout_core.client.transport import Call
from rollout_core.client.upload_memory import UploadMemory
from rollout_core.jobs.schemas import Upload

SMALL_BYTES = 8 << 20
"""Up to this size a video is sent as one request: less to send again than to ask about."""

PIECE_BYTES = 64 << 20
"""Most bytes of one PATCH. Proxies limit the size of a body."""

TUS = {"Tus-Resumable": "1.0.0"}
REFUSED = (400, 413, 415, 422)
"""Statuses of a piece that will not be accepted another time either: the file is no video, say."""

GONE = (403, 404, 410)
"""Statuses of an upload that cannot be resumed: expired, deleted, or another owner's."""


class Uploading:
    """Sends videos, and resumes what was interrupted."""

    def __init__(self, sender: Sender, memory: UploadMemory) -> None:
        self._sender = sender
        self._memory = memory

    @staticmethod
    def is_large(video: Video) -> bool:
        """Return whether a video is worth an upload that can be resumed."""
        return video.size > SMALL_BYTES

    async def upload(self, video: Video, on_bytes: OnBytes | None = None) -> Upload:
        """Send a video; return its upload, with all bytes arrived.

        Raises:
            RolloutApiError, RolloutConnectionError: the service refused it, or went away for good.
                A later call for the same file resumes it.
            ClientError: the file changed while it was sent.
        """
        if not self.is_large(video):
            return await self._whole(video, on_bytes)
        try:
            return await self.resumable(video, on_bytes)
        except RolloutApiError as failure:
            if not is_missing_call(failure):
                raise
            return await self._whole(video, on_bytes)

    async def resumable(self, video: Video, on_bytes: OnBytes | None = None) -> Upload:
        """Send a video by tus, from where an earlier try stopped.

        Raises:
            RolloutApiError: as `upload` does, or the service does not speak tus.
        """
        upload_id, offset = await self._begun(video)
        if on_bytes is not None:
            on_bytes(offset, video.size)
        failures = 0
        while offset < video.size:
            try:
                offset = await self._piece(video, upload_id, offset, on_bytes)
                failures = 0
            except ClientError as failure:
                failures += 1
                arrived = await self._after(failure, failures, video, upload_id)
                failures = 0 if arrived > offset else failures
                offset = arrived
        return await self._finished(video, upload_id)

    async def _whole(self, video: Video, on_bytes: OnBytes | None) -> Upload:
        call = Call(
            "POST", UPLOADS_PATH, params={"filename": video.name}, body=raw_body(video, on_bytes)
        )
        # A second copy takes no room: the service stores equal bytes once.
        answer = await self._sender.send(call, repeatable=True)
        return parse(Upload, answer.body)

    async def _begun(self, video: Video) -> tuple[str, int]:
        """Return the id and the offset of the upload of this file, a new one if need be."""
        upload_id = self._memory.recall(video)
        if upload_id is not None:
            try:
                return upload_id, await self._offset(upload_id)
            except RolloutApiError as failure:
                if failure.status not in GONE:
                    raise
                self._memory.forget(video)
        name = b64encode(video.name.encode("utf-8", "replace")).decode()
        headers = {**TUS, "Upload-Length": str(video.size), "Upload-Metadata": f"filename {name}"}
        answer = await self._sender.send(
            Call("POST", UPLOADS_PATH, headers=headers), repeatable=True
        )
        # The id alone: a key must not be sent to wherever a Location points.
        upload_id = answer.headers.get("location", "").rstrip("/").rpartition("/")[2]
        if not upload_id:
            raise ClientError("the service does not say where the upload is")
        self._memory.remember(video, upload_id)
        return upload_id, 0

    async def _offset(self, upload_id: str) -> int:
        answer = await self._sender.send(_upload_call("HEAD", upload_id))
        return _offset_in(answer.headers.get("upload-offset"))

    async def _piece(
        self, video: Video, upload_id: str, offset: int, on_bytes: OnBytes | None
    ) -> int:
        """Send the next bytes; return the new offset."""
        length = min(PIECE_BYTES, video.size - offset)
        body = Body("application/offset+octet-stream", b"", video, offset, length, b"", on_bytes)
        call = _upload_call("PATCH", upload_id, body, **{"Upload-Offset": str(offset)})
        answer = await self._sender.send(call, repeatable=False)
        return _offset_in(answer.headers.get("upload-offset"))

    async def _after(
        self, failure: ClientError, failures: int, video: Video, upload_id: str
    ) -> int:
        """Wait after a PATCH that failed; return how far the upload is.

        Raises:
            ClientError: `failure`, if the upload cannot go on.
        """
        status = failure.status if isinstance(failure, RolloutApiError) else None
        if status in REFUSED:
            self._memory.forget(video)
        if status in (
            408,
            409,
            423,
        ):  # too slow, or another writer was there first: ask for the offset
            lost = RolloutConnectionError(str(failure))
            lost.__cause__ = failure
            await self._sender.pause(failures, lost)
        else:
            await self._sender.pause(failures, failure)
        try:
            return await self._offset(upload_id)
        except RolloutApiError as error:
            if error.status in GONE:
                self._memory.forget(video)
            raise

    async def _finished(self, video: Video, upload_id: str) -> Upload:
        """Return the upload, whose digest must be that of the file."""
        answer = await self._sender.send(Call("GET", path_of(UPLOADS_PATH, upload_id)))
        upload = parse(Upload, answer.body)
        if upload.sha256 not in (None, await self._sender.driver.in_thread(video.sha256)):
            self._memory.forget(video)
            raise DamagedTransfer(f"{video.name} changed while it was uploaded; upload it again")
        return upload


def _upload_call(method: str, upload_id: str, body: Body | None = None, **headers: str) -> Call:
    return Call(method, path_of(UPLOADS_PATH, upload_id), headers={**TUS, **headers}, body=body)


def _offset_in(header: str | None) -> int:
    if header is None or not header.isdecimal():
        raise ClientError(f"the service states no offset of the upload, but {header!r}")
    return int(header)
