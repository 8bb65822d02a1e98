"""Writes the overlay video: the source's frames and times, with the heat maps painted on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from rollout_core.contract import Overlay
from rollout_core.decoder import Decoder, Frame
from rollout_core.heat import HeatTrack
from rollout_core.painter import COLORSPACES, Painter, Planes, matrix_of, planes_of, views
from rollout_core.video import Crop

ENCODER = "libx264"
ENCODER_OPTIONS = {"preset": "superfast", "crf": "22", "bf": "0"}
"""Without B-frames packets leave in the order of display, each with its own frame's duration."""

ENCODER_THREADS = 4
MAX_TICKS_PER_SECOND = 1_000_000
UNSPECIFIED_COLORSPACE = 2


class OverlayWriter:
    """Draws and encodes a video's frames; one is kept back until the next tells its duration."""

    def __init__(
        self,
        container: OutputContainer,
        decoder: Decoder,
        first: Frame,
        *,
        overlay: Overlay,
        crop: Crop,
        track: HeatTrack,
    ) -> None:
        """Prepare a video that looks like `first`, the source's first frame."""
        self._track = track
        self._doubled = overlay.layout == "side_by_side"
        self._width, self._height = (_even(size) for size in first.displayed_size)
        self._matrix = matrix_of(first.picture, self._height)
        self._painter = Painter(overlay, crop, self._matrix)
        self._container = container
        self._time_base = max(decoder.time_base, Fraction(1, MAX_TICKS_PER_SECOND))
        self._scale = decoder.time_base / self._time_base
        self._period_ticks = decoder.period_ticks
        self._stream = self._add_stream(first, decoder)
        self._pending: VideoFrame | None = None
        self._begin_ticks = -1

    def write(self, frame: Frame) -> None:
        """Draw the next frame."""
        self._begin_ticks = max(round(frame.ticks * self._scale), self._begin_ticks + 1)
        self._encode_pending(self._begin_ticks)
        self._pending = self._draw(frame)

    def finish(self) -> None:
        """Encode what is kept back; without it the video has no end."""
        if self._pending is not None:
            ticks = round((self._pending.duration or self._period_ticks) * self._scale)
            self._encode_pending(self._begin_ticks + max(ticks, 1))
        self._container.mux(self._stream.encode(None))

    def _add_stream(self, first: Frame, decoder: Decoder) -> VideoStream:
        stream = self._container.add_stream(
            ENCODER,
            rate=decoder.rate_hz,
            options=dict(ENCODER_OPTIONS),
            width=self._width * (2 if self._doubled else 1),
            height=self._height,
            pix_fmt="yuv420p",
            time_base=self._time_base,
        )
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.flags |= Flags.frame_duration
        context.thread_count = ENCODER_THREADS
        aspect = decoder.sample_aspect_ratio
        context.sample_aspect_ratio = 1 / aspect if first.quarter_turns % 2 else aspect
        tagged = first.picture.colorspace in COLORSPACES
        context.colorspace = first.picture.colorspace if tagged else UNSPECIFIED_COLORSPACE
        context.color_primaries = first.picture.color_primaries
        context.color_trc = first.picture.color_trc
        context.color_range = ColorRange.MPEG
        return stream

    def _draw(self, frame: Frame) -> VideoFrame:
        """Return the frame painted, with its time and, if the source tells it, its duration."""
        source = planes_of(frame, self._width, self._height, self._matrix)
        picture = VideoFrame(self._stream.width, self._stream.height, "yuv420p")
        target = views(picture)
        if self._doubled:
            for left, plane in zip(target, source, strict=True):
                left[:, : plane.shape[1]] = plane
            target = _right_halves(target)
        self._painter.paint(source, target, self._track.at(frame.pts_seconds))
        picture.pts = self._begin_ticks
        picture.duration = frame.duration_ticks
        picture.time_base = self._time_base
        return picture

    def _encode_pending(self, until_ticks: int) -> None:
        if self._pending is None or self._pending.pts is None:
            return
        self._pending.duration = until_ticks - self._pending.pts
        self._container.mux(self._stream.encode(self._pending))
        self._pending = None


@contextmanager
def write_overlay(
    path: Path,
    decoder: Decoder,
    first: Frame,
    *,
    overlay: Overlay,
    crop: Crop,
    track: HeatTrack,
) -> Iterator[Callable[[Frame], None]]:
    """Make an MP4 whose index stands before its pictures; call what is yielded for every frame."""
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        writer = OverlayWriter(container, decoder, first, overlay=overlay, crop=crop, track=track)
        yield writer.write
        writer.finish()


def _even(size: int) -> int:
    """Return the size without its odd pixel: 4:2:0 has half as many rows and columns of colour."""
    return max(2, size - size % 2)


def _right_halves(planes: Planes) -> Planes:
    return [plane[:, plane.shape[1] // 2 :] for plane in planes]
