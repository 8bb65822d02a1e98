"""All deliberate failures of the project, one class per cause.

`code` and `title` are public and stable: clients get them in problem documents and in failed
jobs. The message is the detail for people, and may change.
"""

from typing import ClassVar


def describe_failure(title: str, detail: str) -> str:
    """Return title and detail of a failure as one line."""
    return f"{title}: {detail}" if detail else title


class RolloutError(Exception):
    """Base of every deliberate failure. `code` is public; the wording is not."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"


class InvalidRequest(RolloutError):
    """The request cannot be carried out as it is.

    Attributes:
        field: path of the field that is wrong, if it is one, as the caller wrote it.
        reason: what is wrong, without the field.
    """

    code = "invalid_request"
    title = "The request is not valid"

    def __init__(self, reason: str, *, field: str | None = None) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" if self.field else self.reason


class UnknownModel(InvalidRequest):
    """No worker serves this model; or the request names no model and several are known."""

    code = "unknown_model"
    title = "No such model"


class CheckpointError(RolloutError):
    """The checkpoint cannot be loaded as the model that was named."""

    code = "checkpoint_invalid"
    title = "The checkpoint cannot be loaded"


class DeviceError(RolloutError):
    """The model cannot run on the device that was named."""

    code = "device_unusable"
    title = "The device cannot be used"


class VideoError(RolloutError):
    """Base of all failures of an uploaded video."""

    code = "video_invalid"
    title = "The video cannot be used"


class UnsupportedContainer(VideoError):
    """The file is not in a supported container format."""

    code = "video_container_unsupported"
    title = "Not a video container that is supported"


class NoVideoStream(VideoError):
    """The container has no video stream."""

    code = "video_no_stream"
    title = "The file has no video stream"


class VideoUndecodable(VideoError):
    """The container was opened, but its frames cannot be decoded."""

    code = "video_undecodable"
    title = "The video cannot be decoded"


class VideoIncomplete(VideoError):
    """Too little of the span can be decoded: the upload was cut off, or packets are missing."""

    code = "video_incomplete"
    title = "A part of the video is missing"


class VideoEncrypted(VideoError):
    """The frames are encrypted."""

    code = "video_encrypted"
    title = "The video is encrypted"


class VideoTooLong(VideoError):
    """The video has more seconds or frames than the limit."""

    code = "video_too_long"
    title = "The video is too long"


class VideoTooLarge(VideoError):
    """The frames have more pixels than the limit."""

    code = "video_too_many_pixels"
    title = "The video has too many pixels"


class EmptySpan(VideoError):
    """The chosen span contains no frame of the video."""

    code = "video_span_empty"
    title = "The chosen span contains no frame"


class NoWorker(RolloutError):
    """A job waited until its time was over, and no worker served its model."""

    code = "no_worker"
    title = "No worker serves the model"


class WorkerCrashed(RolloutError):
    """A child process of the worker died in every attempt."""

    code = "worker_crashed"
    title = "The worker crashed while running the job"


class DeadlineExceeded(RolloutError):
    """The job exceeded its time limit."""

    code = "deadline_exceeded"
    title = "The job took too long"


class TooMuchWork(RolloutError):
    """By its plan, the job cannot end before its deadline, or takes more than is allowed."""

    code = "too_much_work"
    title = "The job is too much work"


class OutOfMemory(RolloutError):
    """A single clip does not fit in the memory of the device."""

    code = "out_of_memory"
    title = "The model ran out of memory"


class JobEnded(RolloutError):
    """The job has ended and cannot be changed."""

    code = "job_ended"
    title = "The job has ended"


class AttemptLost(RolloutError):
    """This attempt may no longer change the job: a newer one runs it, or it ended or is deleted."""

    code = "attempt_lost"
    title = "Another attempt runs the job"


class JobHeld(RolloutError):
    """A live attempt runs the job; the next attempt must wait until it ends."""

    code = "job_held"
    title = "The job is already running"


class UnknownFormat(RolloutError):
    """A newer version wrote this record. It is left to a process that knows the format."""

    code = "unknown_format"
    title = "Written by a newer version"


class OtherStore(RolloutError):
    """This data directory is not the one that the service uses."""

    code = "other_store"
    title = "Not the store of the service"


class StoreUnavailable(RolloutError):
    """The folder of the artifact store cannot be written."""

    code = "store_unavailable"
    title = "The artifact store cannot be written"


class StoreFull(StoreUnavailable):
    """The artifact store has no space left."""

    code = "store_full"
    title = "The artifact store is full"
