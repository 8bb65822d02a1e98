"""Errors that only the service has, each with its HTTP status.

The statuses of errors of `rollout_core.errors` are in `service.problems.CORE_STATUS`.
"""

from http import HTTPStatus

from rollout_core.errors import InvalidRequest, RolloutError, StoreFull


class Unauthorized(RolloutError):
    """The request has no API key, or one that is not known."""

    code = "unauthorized"
    title = "An API key is needed"
    status = HTTPStatus.UNAUTHORIZED


class SessionEnded(Unauthorized):
    """The cookie of a session has expired, its key was removed, or it is not the service's."""

    code = "session_ended"
    title = "The session has ended"

    def __init__(self, detail: str, *, removal: str) -> None:
        """Take the value of a `Set-Cookie` that removes the cookie."""
        super().__init__(detail)
        self.removal = removal


class SessionOriginRefused(RolloutError):
    """A session counts for the service's own page only, and this call may be of another one."""

    code = "session_origin_refused"
    title = "A session counts for the service's own page only"
    status = HTTPStatus.FORBIDDEN


class HostNotAllowed(RolloutError):
    """The request is for a host name that is not the service's."""

    code = "host_not_allowed"
    title = "The service has another host name"
    status = HTTPStatus.MISDIRECTED_REQUEST


class CrossSite(RolloutError):
    """A web page of another site made a browser send the request."""

    code = "cross_site"
    title = "Pages of other sites are refused"
    status = HTTPStatus.FORBIDDEN


class JobNotFound(RolloutError):
    """No job has this id, it was deleted, or it has another owner."""

    code = "job_not_found"
    title = "No such job"
    status = HTTPStatus.NOT_FOUND


class ArtifactNotFound(RolloutError):
    """The job has succeeded, but has no file of this name."""

    code = "artifact_not_found"
    title = "No such artifact"
    status = HTTPStatus.NOT_FOUND


class JobNotFinished(RolloutError):
    """The job has no artifacts yet: it is waiting or running."""

    code = "job_not_finished"
    title = "The job has not finished"
    status = HTTPStatus.CONFLICT


class JobWithoutResult(RolloutError):
    """The job has no artifacts: it failed or was canceled."""

    code = "job_without_result"
    title = "The job ended without a result"
    status = HTTPStatus.CONFLICT


class ArtifactExpired(RolloutError):
    """The job's files were removed because of their age."""

    code = "artifact_expired"
    title = "The artifacts have expired"
    status = HTTPStatus.GONE


class RangeNotSatisfiable(RolloutError):
    """The requested range starts after the end of the file."""

    code = "range_not_satisfiable"
    title = "The range is outside the file"
    status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"the file has {size_bytes} bytes")
        self.size_bytes = size_bytes


class NotMultipart(RolloutError):
    """The body is neither a multipart form nor JSON."""

    code = "media_type_unsupported"
    title = "The body must be a form or JSON"
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class MalformedUpload(RolloutError):
    """The multipart form cannot be parsed, or ends too early."""

    code = "upload_malformed"
    title = "The multipart form is malformed"
    status = HTTPStatus.BAD_REQUEST


class InvalidForm(InvalidRequest):
    """A multipart form with unexpected, repeated or missing parts."""

    code = "form_invalid"
    title = "The form does not have the expected parts"
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class EmptyUpload(InvalidRequest):
    """The video has no bytes."""

    code = "upload_empty"
    title = "The upload is empty"
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class NotVideo(RolloutError):
    """The body of an upload is declared as something that is not a video."""

    code = "media_type_not_video"
    title = "The body must be the video"
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class UploadNotFound(RolloutError):
    """No upload has this id, it was deleted, or it has another owner."""

    code = "upload_not_found"
    title = "No such upload"
    status = HTTPStatus.NOT_FOUND


class UploadExpired(RolloutError):
    """The bytes of the upload were removed because of their age."""

    code = "upload_expired"
    title = "The upload has expired"
    status = HTTPStatus.GONE


class UploadIncomplete(RolloutError):
    """Not all bytes of the upload have arrived."""

    code = "upload_incomplete"
    title = "The upload is not complete"
    status = HTTPStatus.CONFLICT


class UploadInUse(RolloutError):
    """A job made from the upload has not ended."""

    code = "upload_in_use"
    title = "The upload is in use"
    status = HTTPStatus.CONFLICT


class IdempotencyKeyReused(InvalidRequest):
    """A job with this Idempotency-Key was made from another body."""

    code = "idempotency_key_reused"
    title = "The Idempotency-Key belongs to another request"
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class IdempotencyInProgress(RolloutError):
    """Another call with this Idempotency-Key is under way."""

    code = "idempotency_in_progress"
    title = "A request with this Idempotency-Key is under way"
    status = HTTPStatus.CONFLICT
    retry_after_seconds = 1


class VideoUrlRefused(InvalidRequest):
    """The service does not fetch the video from this address."""

    code = "video_url_refused"
    title = "The address of the video is refused"
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class UploadTooLarge(RolloutError):
    """The body has more bytes than the service accepts."""

    code = "upload_too_large"
    title = "The upload is too large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UploadTooSlow(RolloutError):
    """The upload stopped, or arrives too slowly."""

    code = "upload_too_slow"
    title = "The upload is too slow"
    status = HTTPStatus.REQUEST_TIMEOUT


class UploadEncoded(RolloutError):
    """The body is compressed or has another Content-Encoding."""

    code = "content_encoding_unsupported"
    title = "The body must not be encoded"
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class InvalidTusHeader(RolloutError):
    """A header of the tus protocol is missing or malformed."""

    code = "tus_header_invalid"
    title = "A header of the resumable upload is not valid"
    status = HTTPStatus.BAD_REQUEST


class TusVersionUnsupported(RolloutError):
    """The client speaks another version of the tus protocol."""

    code = "tus_version_unsupported"
    title = "The version of the tus protocol is not supported"
    status = HTTPStatus.PRECONDITION_FAILED


class TusBodyUnsupported(RolloutError):
    """The body of a resumable upload has another type than the tus protocol asks for."""

    code = "tus_media_type_unsupported"
    title = "The body must be application/offset+octet-stream"
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class OffsetMismatch(RolloutError):
    """The client continues an upload at a place where its bytes do not end."""

    code = "upload_offset_mismatch"
    title = "The upload continues at another offset"
    status = HTTPStatus.CONFLICT


class UploadLocked(RolloutError):
    """Another call writes to the upload, or has taken it over."""

    code = "upload_locked"
    title = "Another call writes to the upload"
    status = HTTPStatus.LOCKED


class ChecksumMismatch(RolloutError):
    """The bytes that arrived do not have the checksum that the client has sent."""

    code = "checksum_mismatch"
    title = "The checksum does not fit the bytes"
    status = 460  # of the tus protocol


class VideoUrlFailed(RolloutError):
    """The video could not be fetched from its URL."""

    code = "video_url_failed"
    title = "The video could not be fetched"
    status = HTTPStatus.BAD_GATEWAY


class RedisUnavailable(RolloutError):
    """Redis does not answer, or refuses to write."""

    code = "redis_unavailable"
    title = "The job queue cannot be reached"
    status = HTTPStatus.SERVICE_UNAVAILABLE


class ServiceBusy(RolloutError):
    """All threads for calls of this kind are busy."""

    code = "service_busy"
    title = "The service is busy"
    status = HTTPStatus.SERVICE_UNAVAILABLE


class ModelUnavailable(RolloutError):
    """No worker has announced the model yet, or not again after Redis has lost its data."""

    code = "model_unavailable"
    title = "The model cannot be used at the moment"
    status = HTTPStatus.SERVICE_UNAVAILABLE


class CheckpointsDiffer(RolloutError):
    """Live workers serve different checkpoints under one name of a model."""

    code = "checkpoints_differ"
    title = "Workers disagree about the model"
    status = HTTPStatus.SERVICE_UNAVAILABLE


class NotCounted(RolloutError):
    """The service has just started, or Redis has, and the store has not been counted since."""

    code = "store_not_counted"
    title = "The store has not been counted yet"
    status = HTTPStatus.SERVICE_UNAVAILABLE


class QueueFull(RolloutError):
    """The model's queue has reached its limit."""

    code = "queue_full"
    title = "Too many jobs are waiting"
    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class QuotaExceeded(QueueFull):
    """The owner of the key has reached the limit of open jobs."""

    code = "quota_exceeded"
    title = "Too many of your jobs have not ended"
    status = HTTPStatus.TOO_MANY_REQUESTS


class StorageQuotaExceeded(StoreFull):
    """The owner of the key has reached the limit of stored bytes."""

    code = "storage_quota_exceeded"
    title = "Storage quota exceeded"
    status = HTTPStatus.INSUFFICIENT_STORAGE


class WebhookRefused(RolloutError):
    """The service does not call this webhook: its URL is not allowed, or nothing can sign."""

    code = "webhook_refused"
    title = "The webhook is refused"
    status = HTTPStatus.UNPROCESSABLE_ENTITY
