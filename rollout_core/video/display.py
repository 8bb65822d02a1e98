"""Turns a stored frame into the displayed picture. The model and all pictures use it.

    tone map  HDR to BT.709
    cut       to the clean aperture, as the container says
    square    stretch the rows, so that pixels are square
    orient    mirror and turn by quarters, as the display matrix says
    fit       into the size of the video's first frame, with black bars if the shape differs

`Display` is what a frame says about that; it returns the pixels as RGB, or as the YUV planes that
the videos of a result are made of.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame

from rollout_core.contract import Color, VideoWarning
from rollout_core.video.aperture import WHOLE, Aperture
from rollout_core.video.color import (
    BT709,
    FULL_RGB,
    HDR_TRANSFERS,
    RGB,
    Hdr,
    Tags,
    black_of,
    color_of,
    have_equal_yuv,
)
from rollout_core.video.convert import (
    Plane,
    Planes,
    barred,
    converted,
    cropped,
    cut_out,
    resized,
    undecodable,
    views,
    with_chroma,
)
from rollout_core.video.geometry import (
    Box,
    Orientation,
    Size,
    fit,
    orientation_of,
    plausible,
    square_size,
)
from rollout_core.video.tonemap import FORMAT as TONE_MAP_FORMAT
from rollout_core.video.tonemap import tone_mapped

BLANK = VideoFrame(2, 2, "gray")

MARGIN_PIXELS = 16
"""More than FFmpeg's filters reach, and a multiple of every subsampling."""

SUBSAMPLING = (1, 2, 2)
"""Frame pixels per pixel of the Y, U and V planes, horizontally and vertically."""


class _Stored(NamedTuple):
    """Everything about a frame's display except its pixels."""

    width: int
    height: int
    pixel_format: str
    tags: Tags
    orientation: Orientation
    pixel_aspect: Fraction
    aperture: Aperture
    max_pixels: int


@dataclass(frozen=True)
class Display:
    """How the frames of a video are displayed.

    Attributes:
        size: width and height of the displayed picture, in square pixels.
        natural_size: the same before it is fitted into the size of the video's first frame.
        rotation: degrees counterclockwise from the stored to the displayed frame.
        mirrored: left to right, before the rotation.
        pixel_aspect_ratio: width by height of a stored pixel.
        color: of the stored frames.
        hdr: the kind of HDR, which is tone-mapped to BT.709; None for ordinary video.
        pixel_format: FFmpeg's name.
        stored_size: width and height of the stored frame.
        aperture: what is cut from the stored frame.
        warnings: what had to be assumed or converted.
    """

    size: Size
    natural_size: Size
    orientation: Orientation
    pixel_aspect_ratio: float
    color: Color
    hdr: Hdr | None
    pixel_format: str
    stored_size: Size
    aperture: Aperture
    warnings: tuple[VideoWarning, ...]

    @property
    def rotation(self) -> int:
        """Degrees counterclockwise from the stored to the displayed frame."""
        return 90 * self.orientation.quarter_turns

    @property
    def mirrored(self) -> bool:
        """Whether the stored frame is mirrored left to right, before the rotation."""
        return self.orientation.mirrored

    @property
    def painted_color(self) -> Color:
        """Colour of the planes: that of the source, or BT.709 for what is not SDR in YUV."""
        return BT709 if self.hdr or self.color.matrix == RGB else self.color

    def fitted(self, size: Size) -> "Display":
        """Return how the same frames are displayed in pictures of another size."""
        return self if self.size == size else replace(self, size=size)

    def rgb(self, picture: VideoFrame, part: Box | None = None) -> Plane:
        """Return the displayed picture of a stored frame, or a part of it, uint8 `H W c`, RGB.

        Raises:
            VideoUndecodable: the pixels cannot be converted.
        """
        left, top, right, bottom, _ = self.aperture
        if part is not None and self._is_square:
            box = self.orientation.stored(part, self.size)
            shifted = box._replace(left=box.left + left, top=box.top + top)
            return self.orientation.apply(self._stored_rgb(picture, shifted))
        width, height = self.stored_size[0] - left - right, self.stored_size[1] - top - bottom
        shown = self._stored_rgb(picture, Box(left, top, width, height))
        turned = np.asarray(self.orientation.apply(shown), np.uint8)
        box = fit(self.natural_size, self.size)
        whole = barred(resized(turned, box.size), box, self.size, 0)
        return whole if part is None else whole[part.slices]

    def planes(self, picture: VideoFrame, size: Size, color: Color) -> Planes:
        """Return the displayed picture of a stored frame as planes of 8-bit 4:2:0.

        Args:
            size: width and height, both even. If they are one less than displayed, the last pixel
                is cut; if they differ otherwise, the picture is scaled.
            color: of the planes.
        Raises:
            VideoUndecodable: the pixels cannot be converted.
        """
        box = fit(self.natural_size, self.size).scaled(self.size, size)
        with undecodable():
            planes = self._stored_planes(picture, self.orientation.turned(box.size), color)
        black = black_of(color)
        return [
            barred(
                self._turned(plane),
                Box(*(length // scale for length in box)),
                (size[0] // scale, size[1] // scale),
                value,
            )
            for plane, scale, value in zip(planes, SUBSAMPLING, black, strict=True)
        ]

    def _stored_rgb(self, picture: VideoFrame, box: Box) -> Plane:
        """Return a part of a stored frame, before it is turned, as RGB.

        It is converted with a margin, so that its pixels are as in the whole frame. FFmpeg scales
        the chroma of an odd number of pixels by a factor that depends on that number.
        """
        around = Box(0, 0, *self.stored_size)
        if not any(length % 2 for length in self.stored_size):
            around = box.widened(MARGIN_PIXELS, self.stored_size)
        with undecodable():
            picture, color = self._ordinary(cropped(picture, around))
            pixels = converted(picture, "rgb24", color, FULL_RGB).to_ndarray()
        inside = box._replace(left=box.left - around.left, top=box.top - around.top)
        return np.asarray(pixels[inside.slices], np.uint8)

    def _turned(self, plane: Plane) -> Plane:
        """Return a plane as it is displayed, with the pixels of a row side by side in memory."""
        turned = self.orientation.apply(plane)
        return turned if turned.strides[1] == 1 else np.ascontiguousarray(turned)

    def _stored_planes(self, picture: VideoFrame, size: Size, color: Color) -> Planes:
        """Return the planes in the given size, both lengths even, before they are turned."""
        left, top, right, bottom, _ = self.aperture
        width, height = self.stored_size[0] - left - right, self.stored_size[1] - top - bottom
        spare = width - size[0], height - size[1]
        if not self._is_square or not set(spare) <= {0, 1}:
            if self.aperture == WHOLE:
                return views(self._yuv(picture, color, size=size))
            return self._cut_planes(picture, Box(left, top, width, height), size, color)
        columns_reversed, rows_reversed = self.orientation.reverses
        left += spare[0] * columns_reversed
        top += spare[1] * rows_reversed
        if left % 2 or top % 2:
            return self._cut_planes(picture, Box(left, top, *size), size, color)
        return [
            plane[top // scale :, left // scale :][: size[1] // scale, : size[0] // scale]
            for plane, scale in zip(views(self._yuv(picture, color)), SUBSAMPLING, strict=True)
        ]

    def _cut_planes(self, picture: VideoFrame, box: Box, size: Size, color: Color) -> Planes:
        """Return the planes of a part of the stored frame, which may begin anywhere, scaled."""
        full = self._yuv(picture, color, form="yuv444p")
        return views(converted(cut_out(full, box), "yuv420p", color, color, size))

    def _yuv(
        self, picture: VideoFrame, color: Color, *, form: str = "yuv420p", size: Size | None = None
    ) -> VideoFrame:
        """Return a stored frame in an 8-bit YUV format and colour; itself if it is so already."""
        is_planar = form == "yuv420p" and picture.format.name in ("yuv420p", "yuvj420p")
        if is_planar and size is None and not self.hdr and have_equal_yuv(color, self.color):
            return picture
        picture, stored_color = self._ordinary(picture, size)
        return converted(picture, form, stored_color, color, size)

    def _ordinary(self, picture: VideoFrame, size: Size | None = None) -> tuple[VideoFrame, Color]:
        """Return a frame and its colour after tone mapping, and with chroma planes.

        A frame that is tone-mapped is scaled to `size` before, because that is faster.
        """
        if self.hdr:
            light = converted(picture, TONE_MAP_FORMAT, self.color, FULL_RGB, size)
            return tone_mapped(light, self.hdr), FULL_RGB
        if picture.format.name.startswith("gray"):
            return with_chroma(picture), self.color
        return picture, self.color

    @property
    def _is_square(self) -> bool:
        """Whether the stored pixels are shown as they are."""
        return self.pixel_aspect_ratio == 1 and self.size == self.natural_size


def display_of(
    picture: VideoFrame, *, pixel_aspect: Fraction, aperture: Aperture, max_pixels: int
) -> Display:
    """Return how a decoded frame is displayed.

    Args:
        pixel_aspect: width by height of a stored pixel; square if it is implausible.
        aperture: what the container wants cut; nothing is cut if it does not fit the frame.
        max_pixels: square pixels that the displayed picture may have if it has more than stored.
    """
    return _display_of(
        _Stored(
            width=picture.width,
            height=picture.height,
            pixel_format=picture.format.name,
            tags=_tags_of(picture),
            orientation=_orientation(picture),
            pixel_aspect=pixel_aspect,
            aperture=aperture,
            max_pixels=max_pixels,
        )
    )


@lru_cache(maxsize=16)
def _display_of(stored: _Stored) -> Display:
    width, height = stored.width, stored.height
    aperture = stored.aperture.within(width, height)
    aspect = plausible(aperture.pixel_aspect or stored.pixel_aspect)
    kept = width - aperture.left - aperture.right, height - aperture.top - aperture.bottom
    size = stored.orientation.turned(square_size(kept, aspect, stored.max_pixels))
    color, warnings = color_of(stored.tags, width, height)
    hdr = HDR_TRANSFERS.get(color.transfer)
    return Display(
        size=size,
        natural_size=size,
        orientation=stored.orientation,
        pixel_aspect_ratio=float(aspect),
        color=color,
        hdr=hdr,
        pixel_format=stored.pixel_format,
        stored_size=(width, height),
        aperture=aperture,
        warnings=warnings + _hdr_warnings(hdr),
    )


def _orientation(picture: VideoFrame) -> Orientation:
    """Return a frame's orientation: by its display matrix, or by its rotation.

    PyAV cannot list the side data of a frame that has a kind of them which it does not know. Its
    list and the frame refer to each other, which keeps the frame in memory: so the list is emptied.
    """
    try:
        data = cast(SideDataContainer, picture.side_data)
    except ValueError:
        return Orientation(False, round(picture.rotation / 90) % 4)
    try:
        return orientation_of(bytes(data[Type.DISPLAYMATRIX]))
    except KeyError:
        return Orientation()
    finally:
        _forget(data)


def _forget(data: SideDataContainer) -> None:
    """Make a list of side data that of a blank frame."""
    again = cast(Callable[[SideDataContainer, VideoFrame], None], SideDataContainer.__init__)
    again(data, BLANK)


def _tags_of(picture: VideoFrame) -> Tags:
    """Return the colour tags of a decoded frame."""
    return Tags(
        matrix=int(picture.colorspace),
        primaries=int(picture.color_primaries),
        transfer=int(picture.color_trc),
        range=int(picture.color_range),
        is_rgb=picture.format.is_rgb,
        is_full_range=picture.format.name.startswith("yuvj"),
    )


def _hdr_warnings(hdr: Hdr | None) -> tuple[VideoWarning, ...]:
    if hdr is None:
        return ()
    name = {"pq": "PQ", "hlg": "HLG"}[hdr]
    detail = f"the video is HDR ({name}); it was tone-mapped to BT.709"
    return (VideoWarning(code="hdr_tone_mapped", detail=detail),)
