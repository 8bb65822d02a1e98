"""The codes with which a job with a hostile file may end."""

from rollout_core.errors import (
    DeadlineExceeded,
    NoVideoStream,
    TooMuchWork,
    UnsupportedContainer,
    VideoEncrypted,
    VideoIncomplete,
    VideoTooLarge,
    VideoTooLong,
    VideoUndecodable,
)

OK = "succeeded"
CONTAINER = UnsupportedContainer.code
NO_STREAM = NoVideoStream.code
BROKEN = VideoUndecodable.code
LONG = VideoTooLong.code
LARGE = VideoTooLarge.code
INCOMPLETE = VideoIncomplete.code
ENCRYPTED = VideoEncrypted.code
WORK = TooMuchWork.code
DEADLINE = DeadlineExceeded.code

VIDEO_CODES = {CONTAINER, NO_STREAM, BROKEN, INCOMPLETE, ENCRYPTED, LONG, LARGE}

Entry = tuple[str, bytes, str]
"""A name, the file's content, and the code with which its job must end."""
