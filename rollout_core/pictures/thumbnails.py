"""Draws `thumbnails.jpg`: the sampled frames in one picture, as tiles of equal size."""

from math import ceil
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from rollout_core.contract import ThumbnailSheet
from rollout_core.video.color import FULL_RGB
from rollout_core.video.convert import Plane, converted, undecodable, views
from rollout_core.video.decoder import Frame
from rollout_core.video.geometry import Size

JPEG_QUALITY = 85


class Thumbnails:
    """Draws the tiles while the frames of the video arrive."""

    def __init__(self, sheet: ThumbnailSheet) -> None:
        self._sheet = sheet
        self._places = {index: place for place, index in enumerate(sheet.frame_index)}
        rows = ceil(len(sheet.frame_index) / sheet.columns)
        size = sheet.columns * sheet.tile_width, rows * sheet.tile_height
        self._picture = Image.new("RGB", size)

    def add(self, frame: Frame) -> None:
        """Draw a tile if the frame has one.

        Raises:
            VideoUndecodable: the pixels cannot be converted.
        """
        place = self._places.get(frame.index)
        if place is None:
            return
        tile = self._sheet.tile_width, self._sheet.tile_height
        size = size_in_tile(frame.displayed_size, tile)
        row, column = divmod(place, self._sheet.columns)
        left, top = column * tile[0], row * tile[1] + (tile[1] - size[1]) // 2
        self._picture.paste(Image.fromarray(_small_rgb(frame, size)), (left, top))

    def save(self, path: Path) -> None:
        """Write the picture as a JPEG file."""
        self._picture.save(path, "JPEG", quality=JPEG_QUALITY)


def size_in_tile(displayed: Size, tile: Size) -> Size:
    """Return width and height of a frame in a tile: all of it, or less lines in a very wide frame.

    A tile has the shape of the frame, unless that is wider than a tile may be.
    """
    width, height = tile
    lines = width * displayed[1] / displayed[0]
    if width >= height * displayed[0] / displayed[1] - 1:  # the width of a tile is rounded
        return tile
    return width, max(2, 2 * round(lines / 2))


def _small_rgb(frame: Frame, size: Size) -> Plane:
    """Return the displayed frame, uint8 `H W c`, RGB, in a size of even lengths.

    It is scaled before its colours are converted, because that is faster.
    """
    color = frame.display.painted_color
    planes = frame.display.planes(frame.picture, size, color)
    picture = VideoFrame(*size, "yuv420p")
    for plane, target in zip(planes, views(picture), strict=True):
        np.copyto(target, plane)
    with undecodable():
        pixels = converted(picture, "rgb24", color, FULL_RGB).to_ndarray()
    return np.asarray(pixels, np.uint8)
