"""Draws the contact sheet: the sampled frames, and below them the same frames with heat maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rollout_core.contract import Overlay
from rollout_core.pictures.heat import alpha_table, rgb_table
from rollout_core.video.clips import Crop

MAX_COLUMNS = 16
WIDE_COLUMNS = 8
"""A sheet of at most this many columns uses the larger pictures."""

LARGE_PIXELS, SMALL_PIXELS = 208, 160
"""Longer side of a picture, with few and with many columns."""

MARGIN, GAP, CAPTION_HEIGHT, BAR_HEIGHT = 24, 10, 28, 4
FONT_SIZE = 15
PAPER, INK, FAINT = (255, 255, 255), (38, 42, 48), (226, 229, 233)


@dataclass(frozen=True)
class HeatMap:
    """One method's map of one sampled frame.

    Attributes:
        heat: float32 `h w`, 0 to 1.
        share: the frame's share of the relevance of all sampled frames, 0 to 1.
    """

    heat: NDArray[np.float32]
    share: float


@dataclass(frozen=True)
class Column:
    """One sampled frame.

    Attributes:
        thumbnail: uint8 `H W c`, RGB, the part of the frame that the model saw.
        maps: one per row of the sheet.
    """

    thumbnail: NDArray[np.uint8]
    pts_seconds: float
    maps: Sequence[HeatMap]

    def caption(self, row: int) -> str:
        """Return the time and the frame's share of the relevance in that row, as text."""
        return f"{self.pts_seconds:.2f} s · {100 * self.maps[row].share:.0f} %"


def choose_columns(count: int) -> list[int]:
    """Return the indices of the frames to show: all `count`, or `MAX_COLUMNS` evenly spaced."""
    if count <= MAX_COLUMNS:
        return list(range(count))
    return [int(index) for index in np.rint(np.linspace(0, count - 1, MAX_COLUMNS))]


def thumbnail_size(crop: Crop, columns: int) -> tuple[int, int]:
    """Return width and height, in pixels, of the pictures of a sheet with `columns` columns."""
    longer = LARGE_PIXELS if columns <= WIDE_COLUMNS else SMALL_PIXELS
    scale = longer / max(crop.width, crop.height)
    return max(1, round(scale * crop.width)), max(1, round(scale * crop.height))


def draw_sheet(
    columns: Sequence[Column], overlay: Overlay, *, names: Sequence[str] = ("",)
) -> Image.Image:
    """Draw the frames, and below them a row of heat maps for each of `names`.

    The length of the bar under a heat map is its share relative to the largest in its row.
    """
    layout = _Layout.of(columns, names)
    sheet = Image.new("RGB", layout.size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, column in enumerate(columns):
        sheet.paste(Image.fromarray(column.thumbnail), (layout.left(place), MARGIN))
    for row, name in enumerate(names):
        middle = MARGIN, layout.top(row) + layout.height / 2
        pen.text(middle, name, fill=INK, font=layout.font, anchor="lm")
        largest = max(column.maps[row].share for column in columns) or 1.0
        for place, column in enumerate(columns):
            left, top = layout.left(place), layout.top(row)
            sheet.paste(_heated(column, row, overlay), (left, top))
            filled = column.maps[row].share / largest
            _draw_bar(pen, (left, top + layout.height + GAP), layout.width, filled)
            below = left + layout.width / 2, top + layout.height + GAP + CAPTION_HEIGHT
            pen.text(below, column.caption(row), fill=INK, font=layout.font, anchor="md")
    return sheet


@dataclass(frozen=True)
class _Layout:
    """Positions on the sheet, in pixels.

    Attributes:
        width, height: size of a picture.
        pitch: distance between columns.
        indent: space before the first column for the names of the rows.
        columns, rows: numbers of columns and of rows of heat maps.
    """

    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    width: int
    height: int
    pitch: int
    indent: int
    columns: int
    rows: int

    @classmethod
    def of(cls, columns: Sequence[Column], names: Sequence[str]) -> "_Layout":
        """Return the layout for columns of equal size and the given names of rows."""
        font = ImageFont.load_default(size=FONT_SIZE)
        height, width = columns[0].thumbnail.shape[:2]
        captions = [column.caption(row) for column in columns for row in range(len(names))]
        indent = max(ceil(font.getlength(name)) for name in names)
        return cls(
            font=font,
            width=width,
            height=height,
            pitch=max(width, *(ceil(font.getlength(text)) for text in captions)) + GAP,
            indent=indent + GAP if indent else 0,
            columns=len(columns),
            rows=len(names),
        )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        return (
            2 * MARGIN + self.indent + self.columns * self.pitch - GAP,
            2 * MARGIN + self.height + self.rows * self._row_pitch,
        )

    def left(self, place: int) -> int:
        """Return the left edge of the pictures of a column."""
        return MARGIN + self.indent + place * self.pitch + (self.pitch - GAP - self.width) // 2

    def top(self, row: int) -> int:
        """Return the top edge of the heat maps of a row."""
        return MARGIN + self.height + GAP + row * self._row_pitch

    @property
    def _row_pitch(self) -> int:
        return self.height + 2 * GAP + CAPTION_HEIGHT


def _draw_bar(pen: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, filled: float) -> None:
    """Draw a bar of which the share `filled` is dark."""
    left, top = corner
    for colour, length in ((FAINT, width), (INK, round(filled * width))):
        if length:
            pen.rectangle((left, top, left + length - 1, top + BAR_HEIGHT - 1), fill=colour)


def _heated(column: Column, row: int, overlay: Overlay) -> Image.Image:
    """Return the column's picture blended with its heat map of a row."""
    picture = Image.fromarray(column.thumbnail)
    small = Image.fromarray(np.asarray(np.rint(255 * column.maps[row].heat), dtype=np.uint8))
    grown = small.resize(picture.size, Image.Resampling.BICUBIC)
    colours = Image.fromarray(rgb_table(overlay.colormap)[np.asarray(grown)])
    alpha = grown.point(alpha_table(overlay.opacity).tolist())
    return Image.composite(colours, picture, alpha)
