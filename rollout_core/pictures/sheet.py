"""Draws the contact sheet: the sampled frames, and below them the same frames with heat maps.

    title                    the prediction and its probability
    detail                   model, method, and what the pictures leave out
    ▒▒▒▒▒▒▒▒                 what the colours mean
    frame   frame   frame
    map     map     map      one row for each map
     ▁       ▇       ▃       how much of the relevance each frame has
    0.60 s  1.84 s  3.12 s
    21 % of relevance ...
    ▓▒░                      from which frame each frame's output comes, one square for each pair

More than `BAND_COLUMNS` frames stand in two bands, so that the sheet stays legible on a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rollout_core.contract import Caption, HeatScale, Overlay
from rollout_core.pictures.heat import (
    HOT_MULTIPLE,
    LEVELS,
    alpha_table,
    colour_table,
    contours,
    rgb_table,
    saturation,
)
from rollout_core.video.clips import Crop

MAX_FRAMES = 16
BAND_COLUMNS = 8

THUMBNAIL_PIXELS = 208
"""Longer side of a picture."""

MARGIN, GAP, LINE = 24, 10, 20
TITLE_SIZE, FONT_SIZE = 24, 15
TITLE_LINE = 34
SHARE_HEIGHT = 32
"""Of the bar of a frame that has all relevance that any frame has."""

SHARE_WIDTH = 0.3
"""Of a bar, relative to the picture."""

KEY_WIDTH, KEY_HEIGHT = 160, 12
KEY_TEXTS: dict[HeatScale, str] = {
    "video": "least to most relevance in this video",
    "frame": "least to most relevance in each frame",
    "absolute": f"none to {HOT_MULTIPLE} times an even spread of relevance",
}
SIGNED_TEXT = "blue speaks against the class, red for it; {}"
SIGNED_SCALES: dict[HeatScale, str] = {
    "video": "scaled to this video",
    "frame": "scaled to each frame",
    "absolute": f"up to {HOT_MULTIPLE} times the mean",
}
CONTOUR_COLOUR, CONTOUR_THICKNESS = (255, 255, 255), 1.2
HEADER_HEIGHT = MARGIN + TITLE_LINE + LINE + GAP // 2 + KEY_HEIGHT + 2 * GAP
MIN_WIDTH = 520
"""Of a sheet, for its header."""

WHEN_PIXELS, WHEN_CELL = 208, 26
"""Longest side of the picture of all pairs of frames, and of one pair in it."""

WHEN_TITLE = "When"
WHEN_TEXTS = (
    "How much the last layer's patches of each frame (row)",
    "owe to each frame of the input (column).",
    "The first frame is at the top left. A bright diagonal:",
    "each frame looked mostly at itself.",
)

PAPER, INK, MUTED, FAINT = (255, 255, 255), (38, 42, 48), (95, 103, 112), (208, 213, 219)
BEHIND_KEY = 128

COMPRESS_LEVEL = 1
"""Of zlib: a third to a half of the time of level 6, and 6 to 45 % more bytes."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class HeatMap:
    """One method's map of one sampled frame.

    Attributes:
        heat: float32 `h w`, 0 to 1.
        share: the frame's share of the relevance of all sampled frames, 0 to 1.
    """

    heat: NDArray[np.float32]
    share: float

    @property
    def words(self) -> str:
        """The share, as text."""
        return f"{100 * self.share:.0f} % of relevance"


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

    @property
    def time(self) -> str:
        """When the frame is shown, as text."""
        return f"{self.pts_seconds:.2f} s"


def choose_frames(count: int) -> list[int]:
    """Return the indices of the frames to show: all `count`, or `MAX_FRAMES` evenly spaced."""
    if count <= MAX_FRAMES:
        return list(range(count))
    return [int(index) for index in np.rint(np.linspace(0, count - 1, MAX_FRAMES))]


def thumbnail_size(crop: Crop) -> tuple[int, int]:
    """Return width and height, in pixels, of the pictures of a sheet."""
    scale = THUMBNAIL_PIXELS / max(crop.width, crop.height)
    return max(1, round(scale * crop.width)), max(1, round(scale * crop.height))


def draw_sheet(
    columns: Sequence[Column],
    overlay: Overlay,
    caption: Caption,
    *,
    sampled: int | None = None,
    names: Sequence[str] = ("",),
    when: NDArray[np.float32] | None = None,
) -> Image.Image:
    """Draw the frames, and below them a row of heat maps for each of `names`.

    Args:
        sampled: number of sampled frames, of which `columns` may be a part. Default: all of them.
        when: `t t`, the relevance of each frame (column) for the output of each frame (row).
    """
    layout = _Layout.of(columns, names)
    width, height = layout.size
    below = 0 if when is None else _when_height(len(when))
    sheet = Image.new("RGB", (width, height + below), PAPER)
    pen = ImageDraw.Draw(sheet)
    _draw_header(sheet, pen, overlay, _complete(caption, len(columns), sampled))
    largest = [
        max(column.maps[row].share for column in columns) or 1.0 for row in range(len(names))
    ]
    for place, column in enumerate(columns):
        left, top = layout.left(place), layout.band_top(place)
        sheet.paste(Image.fromarray(column.thumbnail), (left, top))
        _centred(pen, layout, place, layout.time_top(place), column.time, INK)
        for row, found in enumerate(column.maps):
            top = layout.map_top(place, row)
            sheet.paste(heated(column.thumbnail, found.heat, overlay), (left, top))
            _draw_share(pen, layout, place, row, found.share / largest[row])
            _centred(pen, layout, place, layout.words_top(place, row), found.words, MUTED)
    for place in range(0, len(columns), layout.across):
        for row, name in enumerate(names):
            middle = MARGIN, layout.map_top(place, row) + layout.height / 2
            pen.text(middle, name, fill=INK, font=layout.font, anchor="lm")
    if when is not None:
        _draw_when(sheet, pen, layout.font, height, when, overlay)
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Save as PNG, in half the time of Pillow's usual level."""
    sheet.save(path, "PNG", compress_level=COMPRESS_LEVEL)


def heated(
    thumbnail: NDArray[np.uint8], heat: NDArray[np.float32], overlay: Overlay
) -> Image.Image:
    """Return a picture, uint8 `H W c`, with less colour, blended with its heat map, `h w`."""
    picture = Image.fromarray(thumbnail)
    grey = picture.convert("L").convert("RGB")
    picture = Image.blend(grey, picture, saturation(overlay.opacity))
    small = Image.fromarray(np.asarray(np.rint(LEVELS * heat), dtype=np.uint8))
    grown = small.resize(picture.size, Image.Resampling.BICUBIC)
    colours = Image.fromarray(colour_table(overlay)[np.asarray(grown)])
    alpha = grown.point(np.rint(255 * alpha_table(overlay)).tolist())
    drawn = Image.composite(colours, picture, alpha)
    if overlay.contours:
        smooth = Image.fromarray(LEVELS * heat).resize(picture.size, Image.Resampling.BICUBIC)
        lines = contours(np.asarray(smooth), overlay, CONTOUR_THICKNESS)
        drawn.paste(CONTOUR_COLOUR, mask=Image.fromarray(np.uint8(255 * lines)))
    return drawn


def colour_key(width: int, height: int, overlay: Overlay) -> Image.Image:
    """Return the colours of heat over grey, from the least at the left to the most."""
    behind = np.full((height, width, 3), BEHIND_KEY, np.uint8)
    return heated(behind, np.linspace(0, 1, width, dtype=np.float32)[np.newaxis], overlay)


def shortened(text: str, font: Font, width: int) -> str:
    """Return a text that is at most `width` pixels wide: the whole, or its beginning and "…"."""
    if font.getlength(text) <= width:
        return text
    fitting = (text[:end].rstrip() + "…" for end in range(len(text) - 1, 0, -1))
    return next((one for one in fitting if font.getlength(one) <= width), "")


@dataclass(frozen=True)
class _Layout:
    """Positions on the sheet, in pixels. Its frames and their maps stand in bands of equal length.

    Attributes:
        width, height: size of a picture.
        pitch: distance between columns.
        indent: space before the first column for the names of the rows.
        columns: number of columns in all bands.
        across: number of columns in a band.
        rows: number of rows of heat maps in a band.
    """

    font: Font
    width: int
    height: int
    pitch: int
    indent: int
    columns: int
    across: int
    rows: int

    @classmethod
    def of(cls, columns: Sequence[Column], names: Sequence[str]) -> "_Layout":
        """Return the layout for columns of equal size and the given names of rows."""
        font = ImageFont.load_default(size=FONT_SIZE)
        height, width = columns[0].thumbnail.shape[:2]
        words = [found.words for column in columns for found in column.maps]
        indent = max(ceil(font.getlength(name)) for name in names)
        return cls(
            font=font,
            width=width,
            height=height,
            pitch=max(width, *(ceil(font.getlength(text)) for text in words)) + GAP,
            indent=indent + GAP if indent else 0,
            columns=len(columns),
            across=ceil(len(columns) / ceil(len(columns) / BAND_COLUMNS)),
            rows=len(names),
        )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        width = 2 * MARGIN + self.indent + self.across * self.pitch - GAP
        return max(width, MIN_WIDTH), self.band_top(self.columns - 1) + self._band_height + MARGIN

    def left(self, place: int) -> int:
        """Return the left edge of the pictures of a column."""
        beside = place % self.across * self.pitch + (self.pitch - GAP - self.width) // 2
        return MARGIN + self.indent + beside

    def band_top(self, place: int) -> int:
        """Return the top edge of the frame of a column."""
        return HEADER_HEIGHT + place // self.across * (self._band_height + 2 * GAP)

    def time_top(self, place: int) -> int:
        """Return the top edge of the time below a frame."""
        return self.band_top(place) + self.height + GAP // 2

    def map_top(self, place: int, row: int) -> int:
        """Return the top edge of a heat map."""
        return self.time_top(place) + LINE + GAP + row * (self._row_height + GAP)

    def share_bottom(self, place: int, row: int) -> int:
        """Return the lower edge of the bar below a heat map."""
        return self.map_top(place, row) + self.height + GAP // 2 + SHARE_HEIGHT

    def words_top(self, place: int, row: int) -> int:
        """Return the top edge of the words below a bar."""
        return self.share_bottom(place, row) + GAP // 2

    @property
    def _row_height(self) -> int:
        return self.height + GAP // 2 + SHARE_HEIGHT + GAP // 2 + LINE

    @property
    def _band_height(self) -> int:
        frames = self.height + GAP // 2 + LINE
        return frames + self.rows * (GAP + self._row_height)


def _draw_header(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, overlay: Overlay, caption: Caption
) -> None:
    """Draw title, detail, and what the colours mean."""
    width = sheet.width - 2 * MARGIN
    top = MARGIN
    for text, size, line, colour in (
        (caption.title, TITLE_SIZE, TITLE_LINE, INK),
        (caption.detail, FONT_SIZE, LINE, MUTED),
    ):
        font = ImageFont.load_default(size=size)
        pen.text((MARGIN, top), shortened(text, font, width), fill=colour, font=font, anchor="la")
        top += line
    top += GAP // 2
    font = ImageFont.load_default(size=FONT_SIZE)
    sheet.paste(colour_key(KEY_WIDTH, KEY_HEIGHT, overlay), (MARGIN, top))
    beside = MARGIN + KEY_WIDTH + GAP, top + KEY_HEIGHT / 2
    text = KEY_TEXTS[overlay.scale]
    if overlay.signed:
        text = SIGNED_TEXT.format(SIGNED_SCALES[overlay.scale])
    pen.text(beside, text, fill=MUTED, font=font, anchor="lm")


def _when_side(frames: int) -> int:
    """Return the side of the picture of all pairs of frames, in pixels."""
    return max(1, min(WHEN_CELL, WHEN_PIXELS // frames)) * frames


def _when_height(frames: int) -> int:
    """Return how much higher a sheet is with that picture, its title and its margins."""
    return 2 * GAP + LINE + _when_side(frames) + MARGIN


def _draw_when(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    font: Font,
    top: int,
    when: NDArray[np.float32],
    overlay: Overlay,
) -> None:
    """Draw the relevance of all pairs of frames, `t t`, and say what it is."""
    side = _when_side(len(when))
    pen.line((MARGIN, top, sheet.width - MARGIN, top), fill=FAINT)
    top += 2 * GAP
    pen.text((MARGIN, top), WHEN_TITLE, fill=INK, font=font, anchor="la")
    top += LINE
    levels = np.rint(LEVELS * when / (when.max() or 1)).clip(0, LEVELS).astype(int)
    cells = Image.fromarray(rgb_table(overlay.colormap)[levels])
    sheet.paste(cells.resize((side, side), Image.Resampling.NEAREST), (MARGIN, top))
    left = MARGIN + side + 2 * GAP
    for line, text in enumerate(WHEN_TEXTS):
        fitting = shortened(text, font, sheet.width - MARGIN - left)
        pen.text((left, top + line * LINE), fitting, fill=MUTED, font=font, anchor="la")


def _complete(caption: Caption, shown: int, sampled: int | None) -> Caption:
    """Return the caption, with how many frames are shown if these are not all."""
    if sampled is None or shown == sampled:
        return caption
    parts = filter(None, (caption.detail, f"{shown} of {sampled} frames"))
    return Caption(title=caption.title, detail=" · ".join(parts))


def _draw_share(
    pen: ImageDraw.ImageDraw, layout: _Layout, place: int, row: int, filled: float
) -> None:
    """Draw a bar of which the share `filled` of its greatest height is there, on a line."""
    left, bottom = layout.left(place), layout.share_bottom(place, row)
    pen.line((left, bottom, left + layout.width - 1, bottom), fill=FAINT)
    width, height = max(1, round(SHARE_WIDTH * layout.width)), round(filled * SHARE_HEIGHT)
    if height:
        left += (layout.width - width) // 2
        pen.rectangle((left, bottom - height, left + width - 1, bottom - 1), fill=INK)


def _centred(
    pen: ImageDraw.ImageDraw,
    layout: _Layout,
    place: int,
    top: int,
    text: str,
    colour: tuple[int, int, int],
) -> None:
    """Write a text below the middle of a column's pictures."""
    middle = layout.left(place) + layout.width / 2
    pen.text((middle, top), text, fill=colour, font=layout.font, anchor="ma")
