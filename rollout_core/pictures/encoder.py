"""Encodes the videos of a result: H.264 in MP4, with the frame times of the source."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from pathlib import Path

import av
from av.codec.context import Flags, ThreadType
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from rollout_core.contract import Color
from rollout_core.video.color import codes_of
from rollout_core.video.convert import Planes, range_of, views
from rollout_core.video.decoder import Decoder, Frame
from rollout_core.video.geometry import Size

ENCODER = "libx264"
SPEED = {"preset": "superfast", "mbtree": "1", "rc-lookahead": "10"}
"""As good and as large as the preset veryfast, in two thirds of its time.

The encoder looks ahead by a few frames for what later ones repeat, which superfast alone does not.
"""

WITHOUT_B_FRAMES = {"bf": "0"}
"""Packets come in display order, each with the duration of its own frame."""

CONTAINER_OPTIONS = {"movflags": "+faststart", "use_editlist": "0"}
"""The index precedes the frames, and the first frame is shown at time 0."""

ENCODER_THREADS = 4
MAX_TICKS_PER_SECOND = 1_000_000

MakePlanes = Callable[[Frame, Size, Color], Planes]
"""Returns the displayed picture of a frame in a size and a colour; see `Display.planes`."""

Draw = Callable[[Frame, Planes], None]
"""Draws a frame into the planes of the picture that is encoded. It must set every pixel."""


@dataclass(frozen=True)
class VideoFormat:
    """What the encoded video is like.

    Attributes:
        size: width and height, both even.
        color: of the planes that are drawn.
        rate_factor: of x264, for a constant quality. Less is better, and larger.
        key_frame_seconds: longest time between two key frames, unless one frame lasts longer.
    """

    size: Size
    color: Color
    rate_factor: int
    key_frame_seconds: float = inf


@contextmanager
def write_video(
    path: Path, decoder: Decoder, form: VideoFormat, draw: Draw
) -> Iterator[Callable[[Frame], None]]:
    """Write an MP4 file. Call the yielded function for every frame of the source."""
    with av.open(path, "w", format="mp4", options=CONTAINER_OPTIONS) as container:
        writer = VideoWriter(container, decoder, form, draw)
        yield writer.write
        writer.finish()


class VideoWriter:
    """Draws and encodes frames. A frame is encoded when the next one determines its duration."""

    def __init__(
        self, container: OutputContainer, decoder: Decoder, form: VideoFormat, draw: Draw
    ) -> None:
        """Set up the encoder for the frames of `decoder`."""
        self._container = container
        self._draw = draw
        self._time_base = max(decoder.time_base, Fraction(1, MAX_TICKS_PER_SECOND))
        self._scale = decoder.time_base / self._time_base
        self._period_ticks = decoder.period_ticks
        self._stream = self._add_stream(decoder, form)
        self._picture = VideoFrame(*form.size, "yuv420p")
        self._picture.time_base = self._time_base
        self._begin_ticks = -1
        self._duration_ticks = 0
        self._most_key_ticks = form.key_frame_seconds / self._time_base
        self._key_ticks = -inf

    def write(self, frame: Frame) -> None:
        """Draw the next frame."""
        begin_ticks = max(round(frame.ticks * self._scale), self._begin_ticks + 1)
        self._encode_pending(begin_ticks)
        self._draw(frame, views(self._picture))
        self._begin_ticks, self._duration_ticks = begin_ticks, frame.duration_ticks

    def finish(self) -> None:
        """Encode the pending frame and flush the encoder. Must be called last."""
        ticks = round((self._duration_ticks or self._period_ticks) * self._scale)
        self._encode_pending(self._begin_ticks + max(ticks, 1))
        self._container.mux(self._stream.encode(None))

    def _add_stream(self, decoder: Decoder, form: VideoFormat) -> VideoStream:
        width, height = form.size
        stream = self._container.add_stream(
            ENCODER,
            rate=decoder.rate_hz,
            options={**SPEED, **WITHOUT_B_FRAMES, "crf": str(form.rate_factor)},
            width=width,
            height=height,
            pix_fmt="yuv420p",
            time_base=self._time_base,
        )
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.flags |= Flags.frame_duration
        context.thread_type, context.thread_count = ThreadType.FRAME, ENCODER_THREADS
        context.sample_aspect_ratio = Fraction(1)
        context.colorspace, context.color_primaries, context.color_trc = codes_of(form.color)
        context.color_range = range_of(form.color)
        return stream

    def _encode_pending(self, end_ticks: int) -> None:
        """Encode the picture, unless it is not drawn yet. The encoder copies it."""
        if self._begin_ticks < 0:
            return
        picture = self._picture
        picture.pts, picture.duration = self._begin_ticks, end_ticks - self._begin_ticks
        picture.pict_type = PictureType.NONE
        if end_ticks - self._key_ticks > self._most_key_ticks:
            picture.pict_type = PictureType.I
            self._key_ticks = self._begin_ticks
        self._container.mux(self._stream.encode(picture))


def planes_of(frame: Frame, size: Size, color: Color) -> Planes:
    """Return the displayed picture of a frame; see `Display.planes`."""
    return frame.display.planes(frame.picture, size, color)


def even_size(displayed: Size, max_height: int) -> Size:
    """Return width and height of a video, both even: as displayed, or scaled to `max_height`.

    4:2:0 halves rows and columns of chroma, so an odd last row or column is cut.
    """
    width, height = displayed
    if height > max_height:
        width, height = round(width * max_height / height), max_height
    return _even(width), _even(height)


def _even(size: int) -> int:
    """Round down to an even number, at least 2."""
    return max(2, size - size % 2)
