"""Where the pixels of a displayed picture are: turned by quarters, made square, fitted."""

from fractions import Fraction
from math import atan2, pi
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Pixels = TypeVar("Pixels", bound=np.generic)

Size = tuple[int, int]
"""Width and height in pixels."""

MAX_SIDE_PIXELS = 8192
"""A side-by-side overlay is twice as wide as its source, and libx264 allows 16,384 pixels."""

MAX_PIXEL_ASPECT = 16
"""A pixel that is said to be wider or higher than this is assumed to be square."""

DISPLAY_MATRIX_BYTES = 36


class Orientation(NamedTuple):
    """Which of the eight ways a picture is turned.

    Attributes:
        mirrored: left to right, before the turn.
        quarter_turns: counterclockwise, 0 to 3.
    """

    mirrored: bool = False
    quarter_turns: int = 0

    def apply(self, pixels: NDArray[Pixels]) -> NDArray[Pixels]:
        """Return a turned view of `H W ...`."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.quarter_turns)

    def turned(self, size: Size) -> Size:
        """Return a size after the turn. Turning back has the same effect."""
        width, height = size
        return (height, width) if self.quarter_turns % 2 else (width, height)

    def stored(self, part: "Box", displayed: Size) -> "Box":
        """Return where a part of a picture is before the turn.

        Args:
            displayed: size of the whole picture after the turn.
        """
        (left, top, width, height), (columns, rows) = part, displayed
        for _ in range(self.quarter_turns):
            left, top, width, height = rows - top - height, left, height, width
            columns, rows = rows, columns
        return Box(columns - left - width if self.mirrored else left, top, width, height)

    @property
    def reverses(self) -> tuple[bool, bool]:
        """Whether the stored columns, and the stored rows, are displayed in reverse order."""
        columns = self.mirrored ^ (self.quarter_turns in (1, 2))
        return columns, self.quarter_turns in (2, 3)


def orientation_of(matrix: bytes) -> Orientation:
    """Return the orientation nearest to a display matrix: nine int32, or empty for none.

    A stored point (p, q) is displayed at (a p + c q, b p + d q), where a, b, c and d are elements
    0, 1, 3 and 4, and y points down.
    """
    if len(matrix) != DISPLAY_MATRIX_BYTES:
        return Orientation()
    a, b, _, c, d = (float(value) for value in np.frombuffer(matrix, np.int32)[:5])
    mirrored = a * d < b * c
    if mirrored:
        a, b = -a, -b
    return Orientation(mirrored, round(atan2(c - b, a + d) / (pi / 2)) % 4)


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def size(self) -> Size:
        """Width and height."""
        return self.width, self.height

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and the columns of this part."""
        left, top, width, height = self
        return slice(top, top + height), slice(left, left + width)

    def widened(self, margin: int, picture: Size) -> "Box":
        """Return this part with at least a margin around it, where a picture of this size has one.

        It begins and ends at multiples of the margin, or at the edge of the picture.
        """
        (left, right), (top, bottom) = (
            (max(0, (begin // margin - 1) * margin), min(limit, (end // margin + 2) * margin))
            for begin, end, limit in (
                (self.left, self.left + self.width, picture[0]),
                (self.top, self.top + self.height, picture[1]),
            )
        )
        return Box(left, top, right - left, bottom - top)

    def scaled(self, whole: Size, size: Size) -> "Box":
        """Return this part of a picture of size `whole` after that is scaled to `size`.

        All numbers are even if those of `size` are.
        """
        if self == Box(0, 0, *whole):
            return Box(0, 0, *size)
        across, down = size[0] / whole[0], size[1] / whole[1]
        lengths = self.left * across, self.top * down, self.width * across, self.height * down
        left, top, width, height = (2 * round(length / 2) for length in lengths)
        left, top = min(left, size[0] - 2), min(top, size[1] - 2)
        width, height = min(width, size[0] - left), min(height, size[1] - top)
        return Box(left, top, max(2, width), max(2, height))


def fit(size: Size, whole: Size) -> Box:
    """Return where a picture fits into a frame of size `whole`: as large as possible, centred.

    Where the shapes differ by at most a pixel, it fills the frame.
    """
    scale = min(whole[0] / size[0], whole[1] / size[1])
    width, height = (max(1, round(scale * length)) for length in size)
    if abs(width - whole[0]) <= 1 and abs(height - whole[1]) <= 1:
        return Box(0, 0, *whole)
    return Box((whole[0] - width) // 2, (whole[1] - height) // 2, width, height)


def plausible(aspect: Fraction) -> Fraction:
    """Return the shape of a pixel, width by height; square if the given one is implausible."""
    return aspect if 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT else Fraction(1)


def square_size(size: Size, aspect: Fraction, max_pixels: int) -> Size:
    """Return a size in square pixels: with the same lines, or if too large the same columns."""
    width, height = size
    wide = max(1, round(width * aspect))
    if aspect > 1 and (wide > MAX_SIDE_PIXELS or wide * height > max_pixels):
        return width, max(1, round(height / aspect))
    return wide, height
