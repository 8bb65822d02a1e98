"""Draws the contact sheet: sampled frames above, the same frames with their heat maps below."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rollout_core.colormap import alpha_table, rgb_table
from rollout_core.contract import Overlay
from rollout_core.video import Crop

MAX_COLUMNS = 16
WIDE_COLUMNS = 8
"""Up to so many columns get the larger pictures."""

LARGE_PIXELS, SMALL_PIXELS = 208, 160
"""Longer side of a picture, by the number of columns."""

MARGIN, GAP, CAPTION_HEIGHT, BAR_HEIGHT = 24, 10, 28, 4
FONT_SIZE = 15
PAPER, INK, FAINT = (255, 255, 255), (38, 42, 48), (226, 229, 233)


@dataclass(frozen=True)
class Column:
    """One sampled frame.

    Attributes:
        thumbnail: uint8 `H W c`, RGB, what the model saw of it.
        heat: float32 `h w`, from 0 to 1.
        share: of the relevance of all sampled frames, 0 to 1.
    """

    thumbnail: NDArray[np.uint8]
    pts_seconds: float
    heat: NDArray[np.float32]
    share: float


def choose_columns(count: int) -> list[int]:
    """Return which of `count` sampled frames are shown: all, or `MAX_COLUMNS` spread evenly."""
    if count <= MAX_COLUMNS:
        return list(range(count))
    return [int(index) for index in np.rint(np.linspace(0, count - 1, MAX_COLUMNS))]


def thumbnail_size(crop: Crop, columns: int) -> tuple[int, int]:
    """Return width and height of the pictures of a sheet with so many columns."""
    longer = LARGE_PIXELS if columns <= WIDE_COLUMNS else SMALL_PIXELS
    scale = longer / max(crop.width, crop.height)
    return max(1, round(scale * crop.width)), max(1, round(scale * crop.height))


def draw_sheet(columns: Sequence[Column], overlay: Overlay) -> Image.Image:
    """Draw the sheet; the bar under a column is as long as its share, against the largest."""
    height, width = columns[0].thumbnail.shape[:2]
    font = ImageFont.load_default(size=FONT_SIZE)
    widest = max(font.getlength(caption(column)) for column in columns)
    pitch = max(width, ceil(widest)) + GAP
    sheet = Image.new(
        "RGB",
        (2 * MARGIN + len(columns) * pitch - GAP, 2 * MARGIN + 2 * (height + GAP) + CAPTION_HEIGHT),
        PAPER,
    )
    pen = ImageDraw.Draw(sheet)
    largest = max(column.share for column in columns) or 1.0
    for place, column in enumerate(columns):
        left = MARGIN + place * pitch + (pitch - GAP - width) // 2
        picture = Image.fromarray(column.thumbnail)
        sheet.paste(picture, (left, MARGIN))
        sheet.paste(_heated(picture, column.heat, overlay), (left, MARGIN + height + GAP))
        top = MARGIN + 2 * (height + GAP)
        _draw_bar(pen, (left, top), width, column.share / largest)
        middle = left + width / 2, top + CAPTION_HEIGHT
        pen.text(middle, caption(column), fill=INK, font=font, anchor="md")
    return sheet


def caption(column: Column) -> str:
    """Return a column's time and share of the relevance."""
    return f"{column.pts_seconds:.2f} s · {100 * column.share:.0f} %"


def _draw_bar(pen: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, filled: float) -> None:
    left, top = corner
    for colour, length in ((FAINT, width), (INK, round(filled * width))):
        if length:
            pen.rectangle((left, top, left + length - 1, top + BAR_HEIGHT - 1), fill=colour)


def _heated(picture: Image.Image, heat: NDArray[np.float32], overlay: Overlay) -> Image.Image:
    """Return the picture with its heat map painted on."""
    small = Image.fromarray(np.asarray(np.rint(255 * heat), dtype=np.uint8))
    grown = small.resize(picture.size, Image.Resampling.BICUBIC)
    colours = Image.fromarray(rgb_table(overlay.colormap)[np.asarray(grown)])
    alpha = grown.point(alpha_table(overlay.opacity).tolist())
    return Image.composite(colours, picture, alpha)
