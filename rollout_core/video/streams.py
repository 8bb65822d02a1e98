"""Chooses the video stream of a container, as players do."""

from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from rollout_core.errors import NoVideoStream, VideoUndecodable

CODECS = ("h264", "hevc", "vp8", "vp9", "libdav1d", "av1", "mpeg4")
"""Names of FFmpeg's decoders."""

_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails


def choose_stream(container: InputContainer, wanted: int | None = None) -> VideoStream:
    """Return the stream to explain.

    It is the one with the index `wanted`; else the largest of those that the file marks as
    default; else the largest. Cover pictures do not count.

    Raises:
        NoVideoStream: the file has no video stream, or not the one that is wanted.
        VideoUndecodable: no video stream, or the wanted one, has a supported codec.
    """
    streams = video_streams(container)
    if not streams:
        raise NoVideoStream("the file has no video stream")
    if wanted is not None:
        streams = [stream for stream in streams if stream.index == wanted]
        if not streams:
            known = describe_streams(container)
            raise NoVideoStream(f"stream {wanted} is not a video stream; the file has {known}")
    usable = [stream for stream in streams if _codec(stream) in CODECS]
    if not usable:
        raise VideoUndecodable(f"the video codec {_codec(streams[0])} is not supported")
    return max(
        usable, key=lambda stream: (bool(stream.disposition & Disposition.default), _area(stream))
    )


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Return the video streams of a container, without cover pictures."""
    return [stream for stream in container.streams.video if not stream.disposition & _PICTURES]


def describe_streams(container: InputContainer) -> str:
    """Return index, codec and size of each video stream, for people."""
    return ", ".join(
        f"{stream.index} ({_codec(stream)}, {_size(stream)})" for stream in video_streams(container)
    )


def _codec(stream: VideoStream) -> str:
    return stream.codec_context.name if stream.codec_context else "unknown"


def _size(stream: VideoStream) -> str:
    context = stream.codec_context
    return f"{context.width}×{context.height}" if context else "unknown size"


def _area(stream: VideoStream) -> int:
    context = stream.codec_context
    return context.width * context.height if context else 0
