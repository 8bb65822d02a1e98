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
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from rollout_core.contract import Overlay
from rollout_core.pictures.heat import HeatTrack, Matrix, alpha_table, rgb_table, yuv_table
from rollout_core.video.clips import Crop
from rollout_core.video.decoder import Decoder, Frame

ENCODER = "libx264"
ENCODER_OPTIONS = {"preset": "superfast", "crf": "22", "bf": "0"}
"""Without B-frames, packets come in display order, each with the duration of its own frame."""

ENCODER_THREADS = 4
MAX_TICKS_PER_SECOND = 1_000_000
UNSPECIFIED_COLORSPACE = 2

HD_HEIGHT = 720
"""Players assume BT.709 for untagged videos of at least this height, and BT.601 below it."""

COLORSPACES: dict[int, Matrix] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020"}
"""FFmpeg's `AVColorSpace` → the matrix."""

CONVERSIONS: dict[Matrix, Colorspace] = {
    "bt601": Colorspace.ITU601,
    "bt709": Colorspace.ITU709,
    "bt2020": Colorspace.BT2020,
}

BLACK = (16, 128, 128)
"""Y, U and V of black in limited range."""

SUBSAMPLING = (1, 2, 2)
"""Frame pixels per pixel of the Y, U and V planes, horizontally and vertically."""

Plane = NDArray[np.uint8]
Planes = list[Plane]
"""Y, U and V, each `H W`; U and V at half size."""


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
        """Encode the pending frame and flush the encoder. Must be called last."""
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
        """Return the drawn frame with its timestamp and, if the source states it, its duration."""
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


class Painter:
    """Blends heat maps into the crop of a frame, and dims the rest of the frame."""

    def __init__(self, overlay: Overlay, crop: Crop, matrix: Matrix) -> None:
        self._crop = crop
        self._colours = yuv_table(rgb_table(overlay.colormap), matrix)
        self._alpha = alpha_table(overlay.opacity).tolist()

    def paint(self, source: Planes, target: Planes, heat: NDArray[np.float32]) -> None:
        """Write `source` blended with `heat`, float32 `h w`, 0 to 1, into `target`."""
        small = Image.fromarray(np.asarray(np.rint(255 * heat), dtype=np.uint8))
        maps: dict[int, tuple[Image.Image, Image.Image]] = {}
        for channel, scale in enumerate(SUBSAMPLING):
            plane, drawn = source[channel], target[channel]
            np.add(plane >> 1, BLACK[channel] >> 1, out=drawn)
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


def matrix_of(picture: VideoFrame, height: int) -> Matrix:
    """Return the colour matrix of a frame: its tag, or what players assume for its `height`."""
    guess: Matrix = "bt709" if height >= HD_HEIGHT else "bt601"
    return COLORSPACES.get(picture.colorspace, guess)


def planes_of(frame: Frame, width: int, height: int, matrix: Matrix) -> Planes:
    """Return the planes of the displayed frame, `width` × `height` (both even), in limited range.

    A frame that is one pixel larger is cut; a frame of any other size is scaled.
    """
    picture = frame.picture
    spare = {now - then for now, then in zip(frame.displayed_size, (width, height), strict=True)}
    if not spare <= {0, 1}:
        turned = (height, width) if frame.quarter_turns % 2 else (width, height)
        picture = picture.reformat(*turned, threads=1)
    if picture.format.name != "yuv420p" or picture.color_range == ColorRange.JPEG:
        picture = picture.reformat(
            format="yuv420p",
            dst_colorspace=CONVERSIONS[matrix],
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
    return [
        np.rot90(plane, frame.quarter_turns)[: height // scale, : width // scale]
        for plane, scale in zip(views(picture), SUBSAMPLING, strict=True)
    ]


def views(picture: VideoFrame) -> Planes:
    """Return a picture's planes as arrays that share its memory."""
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, : plane.width]
        for plane in picture.planes
    ]


def _even(size: int) -> int:
    """Round down to an even number, at least 2: 4:2:0 halves rows and columns of chroma."""
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
