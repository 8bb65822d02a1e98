"""Failures that only the HTTP side knows, beside those of `rollout_core.errors`."""

from rollout_core.errors import InvalidRequest, RolloutError, StoreFull


class Unauthorized(RolloutError):
    """The service wants an API key, and the request bears none that it knows."""

    code = "unauthorized"
    title = "An API key is needed"


class JobNotFound(RolloutError):
    """No job has this id, or it has been deleted."""

    code = "job_not_found"
    title = "No such job"


class ArtifactNotFound(RolloutError):
    """The job has succeeded, but has no file of this name."""

    code = "artifact_not_found"
    title = "No such artifact"


class JobNotFinished(RolloutError):
    """There is no artifact: the job is still waiting or running."""

    code = "job_not_finished"
    title = "The job has not finished"


class JobWithoutResult(RolloutError):
    """There is no artifact, and never will be: the job has failed or was canceled."""

    code = "job_without_result"
    title = "The job ended without a result"


class ArtifactExpired(RolloutError):
    """The job's files have been removed because of their age."""

    code = "artifact_expired"
    title = "The artifacts have expired"


class RangeNotSatisfiable(RolloutError):
    """The range asked for lies behind the end of the file."""

    code = "range_not_satisfiable"
    title = "The range lies outside the file"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"the file has {size_bytes} bytes")
        self.size_bytes = size_bytes


class NotMultipart(RolloutError):
    """The body is not a multipart form."""

    code = "media_type_unsupported"
    title = "The body must be multipart/form-data"


class MalformedUpload(RolloutError):
    """The multipart form cannot be parsed, or ends too early."""

    code = "upload_malformed"
    title = "The multipart form is malformed"


class InvalidForm(InvalidRequest):
    """A multipart form whose parts are not the ones expected."""

    code = "form_invalid"
    title = "The form has not the expected parts"


class UploadTooLarge(RolloutError):
    """More bytes than the service takes."""

    code = "upload_too_large"
    title = "The upload is too large"


class UploadTooSlow(RolloutError):
    """The upload has stalled, or crawls."""

    code = "upload_too_slow"
    title = "The upload is too slow"


class UploadEncoded(RolloutError):
    """The body is compressed, or coded otherwise."""

    code = "content_encoding_unsupported"
    title = "The body must not be encoded"


class RedisUnavailable(RolloutError):
    """Redis does not answer, or refuses to write."""

    code = "redis_unavailable"
    title = "The job queue cannot be reached"


class QueueFull(RolloutError):
    """As many jobs wait for the model as may wait."""

    code = "queue_full"
    title = "Too many jobs are waiting"

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class QuotaExceeded(QueueFull):
    """The key's owner has as many jobs under way as he may have."""

    code = "quota_exceeded"
    title = "Too many of your jobs have not ended"


class StorageQuotaExceeded(StoreFull):
    """The key's owner stores as much as he may."""

    code = "storage_quota_exceeded"
    title = "You store as much as you may"
