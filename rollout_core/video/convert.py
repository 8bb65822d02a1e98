"""Converts the pixels of decoded frames: format, colour and size."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from types import MappingProxyType
from typing import TypeVar

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray
from PIL import Image

from rollout_core.contract import Color
from rollout_core.errors import VideoUndecodable
from rollout_core.video.color import Matrix, matrix_of
from rollout_core.video.geometry import Box, Size

Pixel = TypeVar("Pixel", np.uint8, np.uint16)

DecodingError = (av.FFmpegError, IndexError)

Plane = NDArray[np.uint8]
Planes = list[Plane]
"""Y, U and V, each `H W`; U and V at half size."""

TIME_BASE = Fraction(1, 1000)
"""Of single frames in a filter, where time does not matter."""

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Without these flags, converted colours are wrong by up to 3 of 255."""

CONVERSIONS: Mapping[Matrix, Colorspace] = MappingProxyType(
    {
        "bt709": Colorspace.ITU709,
        "fcc": Colorspace.FCC,
        "bt470bg": Colorspace.ITU601,
        "smpte170m": Colorspace.ITU601,
        "smpte240m": Colorspace.SMPTE240M,
        "bt2020nc": Colorspace.BT2020,
    }
)


@contextmanager
def undecodable() -> Iterator[None]:
    """Raise FFmpeg's errors as `VideoUndecodable`."""
    try:
        yield
    except DecodingError as error:
        raise VideoUndecodable("a frame of the video could not be converted") from error


def converted(
    picture: VideoFrame, form: str, source: Color, target: Color, size: Size | None = None
) -> VideoFrame:
    """Return a frame in another format, colour and size.

    Only matrix and range are converted; primaries and transfer are not.
    """
    width, height = size or (picture.width, picture.height)
    return picture.reformat(
        width=width,
        height=height,
        format=form,
        src_colorspace=CONVERSIONS[matrix_of(source)],
        dst_colorspace=CONVERSIONS[matrix_of(target)],
        src_color_range=range_of(source),
        dst_color_range=range_of(target),
        interpolation=EXACT,
        threads=1,
    )


def range_of(color: Color) -> ColorRange:
    """Return a colour's range as PyAV's value."""
    return ColorRange.JPEG if color.range == "full" else ColorRange.MPEG


def cropped(picture: VideoFrame, box: Box) -> VideoFrame:
    """Return a part of a frame of any format, with the same properties; no pixel is copied.

    Args:
        box: begins at even numbers.
    """
    if box.size == (picture.width, picture.height):
        return picture
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=TIME_BASE
    )
    crop = graph.add("crop", f"{box.width}:{box.height}:{box.left}:{box.top}")
    sink = graph.add("buffersink")
    source.link_to(crop)
    crop.link_to(sink)
    graph.configure()
    source.push(picture)
    part = sink.pull()
    assert isinstance(part, VideoFrame)
    return part


def cut_out(picture: VideoFrame, box: Box) -> VideoFrame:
    """Return a part, which may begin anywhere, of a frame of the format yuv444p."""
    pixels = picture.to_ndarray().astype(np.uint8, copy=False)
    rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
    return VideoFrame.from_ndarray(
        np.ascontiguousarray(pixels[:, rows, columns]), format=picture.format.name
    )


def with_chroma(picture: VideoFrame) -> VideoFrame:
    """Return a grey frame as YUV. FFmpeg's scaler treats every grey frame as of full range."""
    depth = picture.format.components[0].bits
    form = f"yuv420p{depth}le" if depth > 8 else "yuv420p"
    result = VideoFrame(picture.width, picture.height, form)
    if depth > 8:
        _copy_grey(picture, result, np.uint16, 1 << (depth - 1))
    else:
        _copy_grey(picture, result, np.uint8, 128)
    return result


def views(picture: VideoFrame) -> Planes:
    """Return the planes of a picture of 8 bits as arrays that share its memory."""
    return [_rows(plane, np.uint8) for plane in picture.planes]


def resized(pixels: Plane, size: Size) -> Plane:
    """Return a picture, `H W c`, scaled; itself if it has the size."""
    if pixels.shape[:2] == size[::-1]:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def barred(pixels: Plane, box: Box, size: Size, black: int) -> Plane:
    """Return a picture, `H W ...`, at its place in a black one; itself if it fills that."""
    if box == Box(0, 0, *size):
        return pixels
    result = np.full((*size[::-1], *pixels.shape[2:]), black, np.uint8)
    result[box.top : box.top + box.height, box.left : box.left + box.width] = pixels
    return result


def _copy_grey(source: VideoFrame, target: VideoFrame, kind: type[Pixel], neutral: int) -> None:
    luma, *chroma = (_rows(plane, kind) for plane in target.planes)
    luma[:] = _rows(source.planes[0], kind)
    for plane in chroma:
        plane[:] = neutral


def _rows(plane: VideoPlane, kind: type[Pixel]) -> NDArray[Pixel]:
    """Return a plane's pixels, `H W`, without the padding of its rows."""
    rows: NDArray[Pixel] = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
    return rows[:, : plane.width]
