"""Paints heat maps on frames: plane by plane, in integers."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rollout_core.contract import Color, Overlay
from rollout_core.pictures.heat import (
    alpha_table,
    colour_table,
    contours,
    saturation,
    yuv_table,
)
from rollout_core.video.clips import Crop
from rollout_core.video.color import black_of
from rollout_core.video.convert import Plane, Planes
from rollout_core.video.display import SUBSAMPLING

HEAT_TOLERANCE = 1 / 48
"""A heat map is also painted on the next frames, while theirs differ by at most this from it.

So no pixel jumps further than without this: by 8 of 255 where relevance changes fastest. If heat is
held for a fifth of a second, it jumps by 32, five times a second, which is visible.
"""

BAND_LINES = 64
"""Planes are painted in bands, so that what is computed for one stays in the processor's cache."""

PRODUCT_LINES = 4
"""For a product of matrices of more lines, OpenBLAS starts threads, which wait busily."""

LINES_PER_CONTOUR = 360
"""A contour is as thick as a pixel of a picture of this height."""

NO_CHROMA = 128
"""Value of a plane of chroma in a grey picture."""

Part = tuple[slice, slice]
"""Rows and columns of a plane."""


class Painter:
    """Blends heat maps into the crop of the frames of a video, and dims the rest of them.

    Below a heat map a frame loses some of its colour.
    """

    def __init__(self, overlay: Overlay, crop: Crop, color: Color) -> None:
        self._crop = crop
        self._black = black_of(color)
        self._overlay = overlay
        self._contour = yuv_table(np.full((1, 3), 255, np.uint8), color)[0].tolist()  # white
        weight = np.rint(256 * alpha_table(overlay)).astype(np.uint16)
        colours = yuv_table(colour_table(overlay), color)
        left = 256 - weight
        of_chroma = np.rint(saturation(overlay.opacity) * left).astype(np.uint16)
        greyed = NO_CHROMA * (left - of_chroma)
        self._kept = [left, of_chroma, of_chroma]
        self._added = [
            weight * colours[:, channel] + more + 128
            for channel, more in enumerate((0, greyed, greyed))
        ]
        self._heat: NDArray[np.float32] | None = None
        self._bands: list[_Band] = []

    def paint(self, source: Planes, target: Planes, heat: NDArray[np.float32]) -> None:
        """Write `source` blended with `heat`, float32 `h w`, 0 to 1, into `target`.

        All frames must have the same size.
        """
        insides = [
            _inside(self._crop, scale, plane.shape)
            for scale, plane in zip(SUBSAMPLING, source, strict=True)
        ]
        if self._heat is None or np.abs(heat - self._heat).max() > HEAT_TOLERANCE:
            self._heat, self._bands = heat, [*self._bands_of(heat, insides)]
        for plane, drawn, inside, black in zip(source, target, insides, self._black, strict=True):
            _dim(plane, drawn, inside, black)
        for band in self._bands:
            band.blend(source[band.channel][band.part], target[band.channel][band.part])

    def _bands_of(self, heat: NDArray[np.float32], insides: list[Part]) -> Iterator["_Band"]:
        """Yield how the inside of each plane is blended."""
        for scale, channels in ((1, (0,)), (2, (1, 2))):
            for part, levels in _grown(heat, self._crop, scale, insides[channels[0]]):
                whole = levels.astype(np.intp)
                lines = self._lines(levels - np.float32(0.5), scale)
                kept = _without(self._kept[channels[0]].take(whole, mode="clip"), lines)
                for channel in channels:
                    added = _without(self._added[channel].take(whole, mode="clip"), lines)
                    if lines is not None:
                        added += (lines * (256 * self._contour[channel])).astype(np.uint16)
                    yield _Band(channel, part, kept, added)

    def _lines(self, levels: NDArray[np.float32], scale: int) -> NDArray[np.float32] | None:
        """Return the opacity of contours in a plane, `H W`; None if they are not drawn."""
        if not self._overlay.contours:
            return None
        thickness = max(1.0, self._crop.height / LINES_PER_CONTOUR) / scale
        return contours(levels, self._overlay, thickness)


class _Band(NamedTuple):
    """How a part of a plane is blended with colours: `(pixel * kept + added) / 256`.

    Attributes:
        kept: uint16 `H W`, 0 to 256.
        added: uint16 `H W`, so that the sum rounds and does not overflow.
    """

    channel: int
    part: Part
    kept: NDArray[np.uint16]
    added: NDArray[np.uint16]

    def blend(self, pixels: Plane, target: Plane) -> None:
        """Write the blended pixels, uint8 `H W`, into `target`."""
        mixed = pixels * self.kept
        mixed += self.added
        mixed >>= 8
        target[:] = mixed


def _without(values: NDArray[np.uint16], lines: NDArray[np.float32] | None) -> NDArray[np.uint16]:
    """Return what is left of values, `H W`, under lines of some opacity, `H W`."""
    return values if lines is None else (values * (1 - lines)).astype(np.uint16)


def _dim(plane: Plane, target: Plane, inside: Part, black: int) -> None:
    """Write the pixels outside the crop, halfway to black, into `target`."""
    rows, columns = inside
    for outside in (
        np.s_[: rows.start],
        np.s_[rows.stop :],
        np.s_[rows, : columns.start],
        np.s_[rows, columns.stop :],
    ):
        np.add(plane[outside] >> 1, black >> 1, out=target[outside])


def _grown(
    heat: NDArray[np.float32], crop: Crop, scale: int, inside: Part
) -> Iterator[tuple[Part, NDArray[np.float32]]]:
    """Scale a heat map to the inside of a plane, which may be less than the crop.

    Yield bands of it: rows and columns of the plane, and levels from 0 to 255, plus a half, so that
    they round when they are cut.
    """
    rows, columns = inside
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if not height or not width:
        return
    down, across = (
        _bicubic(
            count,
            size,
            (part.start * scale - origin) / length,
            (part.stop * scale - origin) / length,
        )
        for count, size, part, origin, length in zip(
            heat.shape,
            (height, width),
            inside,
            (crop.y, crop.x),
            (crop.height, crop.width),
            strict=True,
        )
    )
    wide = 255 * (heat @ across.T).clip(0, 1) + np.float32(0.5)  # bicubic curves overshoot
    shape = -(-height // BAND_LINES), BAND_LINES // PRODUCT_LINES, PRODUCT_LINES, len(heat)
    for top, lines in zip(range(0, height, BAND_LINES), np.resize(down, shape), strict=True):
        grown = (lines @ wide).reshape(BAND_LINES, width)[: height - top]
        band = slice(rows.start + top, rows.start + top + len(grown))
        yield (band, columns), grown


@lru_cache(maxsize=8)
def _bicubic(count: int, size: int, begin: float, end: float) -> NDArray[np.float32]:
    """Return the matrix, `size count`, that scales a part of `count` values to `size`.

    Args:
        begin, end: of the part, as shares of the whole.
    """
    unit = Image.fromarray(np.eye(count, dtype=np.float32))
    part = 0, begin * count, count, end * count
    return np.asarray(unit.resize((count, size), Image.Resampling.BICUBIC, part))


def _inside(crop: Crop, scale: int, shape: tuple[int, ...]) -> Part:
    """Return the rows and columns of a plane that lie wholly inside the crop."""
    height, width = shape
    rows = slice(-(-crop.y // scale), min((crop.y + crop.height) // scale, height))
    columns = slice(-(-crop.x // scale), min((crop.x + crop.width) // scale, width))
    return rows, columns
