"""Opens untrusted video files within limits.

Only the listed formats and codecs are accepted, and a file cannot refer to another file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from rollout_core.contract import MAX_VIDEO_PIXELS, MAX_VIDEO_SECONDS
from rollout_core.errors import UnsupportedContainer
from rollout_core.video.aperture import Aperture, read_aperture
from rollout_core.video.convert import DecodingError
from rollout_core.video.streams import CODECS, choose_stream

FORMATS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts")

MAX_STREAMS = 200
"""Opening a file with 1,000 streams takes seconds; fonts in a Matroska file count as streams."""

CODED_SIZE_FACTOR = 2
"""FFmpeg's own limit includes the padding of frames to whole blocks, so it is set higher."""

av.logging.set_level(None)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest video that is accepted.

    Attributes:
        max_seconds: length of the video.
        max_pixels: width × height of a frame.
        max_frames: number of frames.
    """

    max_seconds: float = MAX_VIDEO_SECONDS
    max_pixels: int = MAX_VIDEO_PIXELS
    max_frames: int = 40_000


@dataclass(frozen=True)
class OpenFile:
    """An open file, at its beginning, and the stream that is decoded."""

    container: InputContainer
    stream: VideoStream
    aperture: Aperture

    @classmethod
    def open(cls, path: Path, limits: Limits, wanted: int | None) -> Self:
        """Open a video.

        Args:
            wanted: index of the video stream. Default: see `choose_stream`.
        Raises:
            UnsupportedContainer: the file is not of a supported container format, or is damaged.
            NoVideoStream: the file has no video stream, or not this one.
            VideoUndecodable: the codec is not supported.
            FileNotFoundError, PermissionError: the file cannot be read.
        """
        container = _open_container(path, limits)
        try:
            stream = choose_stream(container, wanted)
            stream.codec_context.options = _codec_options(limits)
            place = container.streams.video.index(stream)
            return cls(container, stream, read_aperture(path, track_id=stream.id, place=place))
        except BaseException:
            container.close()
            raise

    def close(self) -> None:
        """Close the file, once all threads of the decoder have stopped.

        PyAV frees a decoder while it holds the interpreter's lock, and FFmpeg then waits for the
        threads. One that writes to Python's log would wait for that lock, for ever.
        """
        self.stream.codec_context.flush_buffers()
        self.container.close()


def _open_container(path: Path, limits: Limits) -> InputContainer:
    options = {
        "format_whitelist": ",".join(FORMATS),
        "protocol_whitelist": "file",
        "max_streams": str(MAX_STREAMS),
        **_codec_options(limits),  # for the decoders that FFmpeg runs to detect parameters
    }
    try:
        return av.open(f"file:{path}", options=options, metadata_errors="replace")
    except (FileNotFoundError, PermissionError):
        raise
    except DecodingError as error:
        known = ", ".join(FORMATS)
        raise UnsupportedContainer(
            f"the file is damaged or not of a known container ({known})"
        ) from error


def _codec_options(limits: Limits) -> dict[str, str]:
    return {
        "codec_whitelist": ",".join(CODECS),
        "max_pixels": str(CODED_SIZE_FACTOR * limits.max_pixels),
    }
