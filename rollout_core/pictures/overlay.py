"""Writes the overlay video: the source's frames and timestamps, with heat maps blended in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from rollout_core.contract import Color, Overlay
from rollout_core.pictures.heat import HeatTrack, alpha_table, rgb_table, yuv_table
from rollout_core.video.clips import Crop
from rollout_core.video.color import black_of, codes_of
from rollout_core.video.convert import Plane, Planes, range_of, views
from rollout_core.video.decoder import Decoder, Frame
from rollout_core.video.display import SUBSAMPLING
from rollout_core.video.geometry import Size

ENCODER = "libx264"
ENCODER_OPTIONS = {"preset": "superfast", "crf": "22", "bf": "0"}
"""Without B-frames, packets come in display order, each with the duration of its own frame."""

ENCODER_THREADS = 4
MAX_TICKS_PER_SECOND = 1_000_000


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
    """Write an MP4 whose index precedes its frames. Call the yielded function for every frame.

    Args:
        decoder, first: the source and its first frame.
        crop: where the heat maps are drawn; the rest is dimmed.
    """
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        writer = OverlayWriter(container, decoder, first, overlay=overlay, crop=crop, track=track)
        yield writer.write
        writer.finish()


class OverlayWriter:
    """Draws and encodes frames. A frame is encoded when the next one determines its duration."""

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
        """Set up the encoder for the size and colours of `first`, the source's first frame."""
        self._track = track
        self._doubled = overlay.layout == "side_by_side"
        self._size = overlay_size(first.displayed_size, overlay.max_height)
        self._color = first.display.painted_color
        self._painter = Painter(
            overlay, scaled_crop(crop, first.displayed_size, self._size), self._color
        )
        self._container = container
        self._time_base = max(decoder.time_base, Fraction(1, MAX_TICKS_PER_SECOND))
        self._scale = decoder.time_base / self._time_base
        self._period_ticks = decoder.period_ticks
        self._stream = self._add_stream(decoder)
        self._pending: VideoFrame | None = None
        self._begin_ticks = -1

    def write(self, frame: Frame) -> None:
        """Draw the next frame."""
        self._begin_ticks = max(round(frame.ticks * self._scale), self._begin_ticks + 1)
        self._encode_pending(self._begin_ticks)
        self._pending = self._draw(frame)

    def finish(self) -> None:
        """Encode the pending frame and flush the encoder. Must be called last."""
        if self._pending is not None:
            ticks = round((self._pending.duration or self._period_ticks) * self._scale)
            self._encode_pending(self._begin_ticks + max(ticks, 1))
        self._container.mux(self._stream.encode(None))

    def _add_stream(self, decoder: Decoder) -> VideoStream:
        width, height = self._size
        stream = self._container.add_stream(
            ENCODER,
            rate=decoder.rate_hz,
            options=dict(ENCODER_OPTIONS),
            width=width * (2 if self._doubled else 1),
            height=height,
            pix_fmt="yuv420p",
            time_base=self._time_base,
        )
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.flags |= Flags.frame_duration
        context.thread_count = ENCODER_THREADS
        context.sample_aspect_ratio = Fraction(1)
        context.colorspace, context.color_primaries, context.color_trc = codes_of(self._color)
        context.color_range = range_of(self._color)
        return stream

    def _draw(self, frame: Frame) -> VideoFrame:
        """Return the drawn frame with its timestamp and, if the source states it, its duration."""
        source = frame.display.planes(frame.picture, self._size, self._color)
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


class Painter:
    """Blends heat maps into the crop of a frame, and dims the rest of the frame."""

    def __init__(self, overlay: Overlay, crop: Crop, color: Color) -> None:
        self._crop = crop
        self._black = black_of(color)
        self._colours = yuv_table(rgb_table(overlay.colormap), color)
        self._alpha = alpha_table(overlay.opacity).tolist()

    def paint(self, source: Planes, target: Planes, heat: NDArray[np.float32]) -> None:
        """Write `source` blended with `heat`, float32 `h w`, 0 to 1, into `target`."""
        small = Image.fromarray(np.asarray(np.rint(255 * heat), dtype=np.uint8))
        maps: dict[int, tuple[Image.Image, Image.Image]] = {}
        for channel, scale in enumerate(SUBSAMPLING):
            plane, drawn = source[channel], target[channel]
            np.add(plane >> 1, self._black[channel] >> 1, out=drawn)
            inside = _inside(self._crop, scale, plane.shape)
            part = plane[inside]
            if part.size:
                if scale not in maps:
                    grown = self._grown(small, scale, inside)
                    maps[scale] = grown, grown.point(self._alpha)
                drawn[inside] = self._blend(part, *maps[scale], channel)

    def _grown(self, heat: Image.Image, scale: int, inside: tuple[slice, slice]) -> Image.Image:
        """Scale the heat map to `inside`, which may be smaller than the crop at its edges."""
        crop, (rows, columns) = self._crop, inside
        left, right = (
            (edge * scale - crop.x) * heat.width / crop.width
            for edge in (columns.start, columns.stop)
        )
        top, bottom = (
            (edge * scale - crop.y) * heat.height / crop.height for edge in (rows.start, rows.stop)
        )
        size = columns.stop - columns.start, rows.stop - rows.start
        return heat.resize(size, Image.Resampling.BICUBIC, box=(left, top, right, bottom))

    def _blend(self, part: Plane, heat: Image.Image, alpha: Image.Image, channel: int) -> Plane:
        """Return a part of a plane blended with the colours of the heat."""
        colour = heat.point(self._colours[:, channel].tolist())
        below = Image.fromarray(np.ascontiguousarray(part))
        return np.asarray(Image.composite(colour, below, alpha))


def overlay_size(displayed: Size, max_height: int) -> Size:
    """Return width and height of the overlay, both even: as displayed, or scaled to `max_height`.

    4:2:0 halves rows and columns of chroma, so an odd last row or column is cut.
    """
    width, height = displayed
    if height > max_height:
        width, height = round(width * max_height / height), max_height
    return _even(width), _even(height)


def scaled_crop(crop: Crop, displayed: Size, size: Size) -> Crop:
    """Return the crop in pixels of an overlay; as it is if the overlay is not scaled."""
    if all(before - after in (0, 1) for before, after in zip(displayed, size, strict=True)):
        return crop
    across, down = (after / before for before, after in zip(displayed, size, strict=True))
    left, right = (round(across * edge) for edge in (crop.x, crop.x + crop.width))
    top, bottom = (round(down * edge) for edge in (crop.y, crop.y + crop.height))
    return Crop(left, top, max(1, right - left), max(1, bottom - top))


def _even(size: int) -> int:
    """Round down to an even number, at least 2."""
    return max(2, size - size % 2)


def _right_halves(planes: Planes) -> Planes:
    """Return the right half of each plane."""
    return [plane[:, plane.shape[1] // 2 :] for plane in planes]


def _inside(crop: Crop, scale: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns of a plane that lie wholly inside the crop."""
    height, width = shape
    rows = slice(-(-crop.y // scale), min((crop.y + crop.height) // scale, height))
    columns = slice(-(-crop.x // scale), min((crop.x + crop.width) // scale, width))
    return rows, columns
