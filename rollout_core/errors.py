"""Every deliberate failure of the project, one class a cause.

`code` and `title` are public and stable: they reach clients in problem documents and in failed
jobs. The message is the detail, for people, and may change.
"""

from typing import ClassVar


class RolloutError(Exception):
    """Base of every deliberate failure. `code` is public; the wording is not."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"


class InvalidRequest(RolloutError):
    """A request that cannot be carried out as it stands."""

    code = "invalid_request"
    title = "The request is not valid"


class UnknownModel(InvalidRequest):
    """No worker has announced a model of this name, or none was named and several are known."""

    code = "unknown_model"
    title = "No such model"


class CheckpointError(RolloutError):
    """A checkpoint that cannot be read as the model it claims to be."""

    code = "checkpoint_invalid"
    title = "The checkpoint cannot be loaded"


class VideoError(RolloutError):
    """Base of what can be wrong with an uploaded video."""

    code = "video_invalid"
    title = "The video cannot be used"


class UnsupportedContainer(VideoError):
    """Not one of the container formats we open."""

    code = "video_container_unsupported"
    title = "Not a video container that is supported"


class NoVideoStream(VideoError):
    """A container without a video stream."""

    code = "video_no_stream"
    title = "The file has no video stream"


class VideoUndecodable(VideoError):
    """The container opened, but its pictures could not be decoded."""

    code = "video_undecodable"
    title = "The video cannot be decoded"


class VideoTooLong(VideoError):
    """More seconds or frames than the service accepts."""

    code = "video_too_long"
    title = "The video is too long"


class VideoTooLarge(VideoError):
    """More pixels a frame than the service accepts."""

    code = "video_too_many_pixels"
    title = "The video has too many pixels"


class EmptySpan(VideoError):
    """The chosen span holds no frame of the video."""

    code = "video_span_empty"
    title = "The chosen span holds no frame"


class WorkerCrashed(RolloutError):
    """A child of the worker died at every attempt."""

    code = "worker_crashed"
    title = "The worker crashed while running the job"


class DeadlineExceeded(RolloutError):
    """The job ran longer than a job may."""

    code = "deadline_exceeded"
    title = "The job took too long"


class OutOfMemory(RolloutError):
    """One clip alone does not fit in the accelerator's memory."""

    code = "out_of_memory"
    title = "The model ran out of memory"


class JobEnded(RolloutError):
    """The job has ended; no step is left."""

    code = "job_ended"
    title = "The job has ended"


class AttemptLost(RolloutError):
    """The job is no longer this attempt's: a newer one has it, or it has ended or is gone."""

    code = "attempt_lost"
    title = "Another attempt has the job"


class JobHeld(RolloutError):
    """A live attempt has the job; the next one must wait for its end."""

    code = "job_held"
    title = "An attempt runs the job"


class StoreUnavailable(RolloutError):
    """The folder of the store cannot be written."""

    code = "store_unavailable"
    title = "The artifact store cannot be written"


class StoreFull(StoreUnavailable):
    """There is no room left for what would have to be stored."""

    code = "store_full"
    title = "The artifact store is full"
