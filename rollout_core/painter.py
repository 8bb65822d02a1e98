"""Paints heat maps on frames, in the planes of YUV 4:2:0 at 8 bits.

So frames come from most decoders, and so the encoder takes them: nothing is ever converted to
RGB and back, and blending is arithmetic on bytes.
"""

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray
from PIL import Image

from rollout_core.colormap import Matrix, alpha_table, rgb_table, yuv_table
from rollout_core.contract import Overlay
from rollout_core.decoder import Frame
from rollout_core.video import Crop

HD_HEIGHT = 720
"""From this height on, players take untagged colours for BT.709, below for BT.601."""

COLORSPACES: dict[int, Matrix] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020"}
"""FFmpeg's `AVColorSpace` → the matrix that it names."""

CONVERSIONS: dict[Matrix, Colorspace] = {
    "bt601": Colorspace.ITU601,
    "bt709": Colorspace.ITU709,
    "bt2020": Colorspace.BT2020,
}
BLACK = (16, 128, 128)
"""Of Y, U and V in limited range."""

SUBSAMPLING = (1, 2, 2)
"""Pixels of the frame for one of the plane, each way."""

Plane = NDArray[np.uint8]
Planes = list[Plane]
"""Y, U and V, each `H W`; U and V at half size."""


class Painter:
    """Paints heat maps inside a crop, and dims what is outside."""

    def __init__(self, overlay: Overlay, crop: Crop, matrix: Matrix) -> None:
        self._crop = crop
        self._colours = yuv_table(rgb_table(overlay.colormap), matrix)
        self._alpha = alpha_table(overlay.opacity).tolist()

    def paint(self, source: Planes, target: Planes, heat: NDArray[np.float32]) -> None:
        """Draw `source` with `heat`, `h w` from 0 to 1, into `target`."""
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
        """Scale the heat map to the plane's part of the crop, which may lack the crop's edges."""
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
        colour = heat.point(self._colours[:, channel].tolist())
        below = Image.fromarray(np.ascontiguousarray(part))
        return np.asarray(Image.composite(colour, below, alpha))


def matrix_of(picture: VideoFrame, height: int) -> Matrix:
    """Return the matrix by which a frame's colours are stored, guessed as players do."""
    guess: Matrix = "bt709" if height >= HD_HEIGHT else "bt601"
    return COLORSPACES.get(picture.colorspace, guess)


def planes_of(frame: Frame, width: int, height: int, matrix: Matrix) -> Planes:
    """Return a frame as displayed, cut to an even `width` × `height`, in limited range.

    A frame one pixel larger loses that pixel; one of any other size is scaled.
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


def _inside(crop: Crop, scale: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns of a plane that lie wholly inside the crop."""
    height, width = shape
    rows = slice(-(-crop.y // scale), min((crop.y + crop.height) // scale, height))
    columns = slice(-(-crop.x // scale), min((crop.x + crop.width) // scale, width))
    return rows, columns
