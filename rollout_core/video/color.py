"""Colour tags of a video: which are stated, which are assumed, and how YUV becomes RGB.

A video stores luma and chroma. Four tags say what they mean: the matrix and the range turn them
into RGB; the transfer and the primaries say which light an RGB value stands for. Names are
FFmpeg's.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from rollout_core.contract import Color, VideoWarning

Hdr = Literal["pq", "hlg"]
"""Perceptual quantiser or hybrid log-gamma. Source: ITU-R BT.2100."""

Matrix = Literal["bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc"]
"""A matrix that can be computed with. bt470bg and smpte170m are both that of ITU-R BT.601."""

LUMA: Mapping[Matrix, tuple[float, float]] = MappingProxyType(
    {
        "bt709": (0.2126, 0.0722),
        "fcc": (0.30, 0.11),
        "bt470bg": (0.299, 0.114),
        "smpte170m": (0.299, 0.114),
        "smpte240m": (0.212, 0.087),
        "bt2020nc": (0.2627, 0.0593),
    }
)
"""Weights of red and blue in luma. Source: ITU-T H.273, table 4."""

RGB: Final = "gbr"
"""Matrix of pictures that store RGB."""

UNSPECIFIED = 2

MATRICES: Mapping[int, str] = MappingProxyType(
    {
        0: RGB,
        1: "bt709",
        4: "fcc",
        5: "bt470bg",
        6: "smpte170m",
        7: "smpte240m",
        8: "ycgco",
        9: "bt2020nc",
        10: "bt2020c",
        11: "smpte2085",
        12: "chroma-derived-nc",
        13: "chroma-derived-c",
        14: "ictcp",
        15: "ipt-c2",
        16: "ycgco-re",
        17: "ycgco-ro",
    }
)
PRIMARIES: Mapping[int, str] = MappingProxyType(
    {
        1: "bt709",
        4: "bt470m",
        5: "bt470bg",
        6: "smpte170m",
        7: "smpte240m",
        8: "film",
        9: "bt2020",
        10: "smpte428",
        11: "smpte431",
        12: "smpte432",
        22: "ebu3213",
    }
)
TRANSFERS: Mapping[int, str] = MappingProxyType(
    {
        1: "bt709",
        4: "bt470m",
        5: "bt470bg",
        6: "smpte170m",
        7: "smpte240m",
        8: "linear",
        9: "log100",
        10: "log316",
        11: "iec61966-2-4",
        12: "bt1361e",
        13: "iec61966-2-1",
        14: "bt2020-10",
        15: "bt2020-12",
        16: "smpte2084",
        17: "smpte428",
        18: "arib-std-b67",
    }
)
"""Code in ITU-T H.273 and in FFmpeg → FFmpeg's name."""

HDR_TRANSFERS: Mapping[str, Hdr] = MappingProxyType({"smpte2084": "pq", "arib-std-b67": "hlg"})

BT709 = Color(matrix="bt709", primaries="bt709", transfer="bt709", range="limited")
"""Colour of everything that is converted: from HDR, and from RGB."""

FULL_RGB = Color(matrix=RGB, primaries="bt709", transfer="bt709", range="full")

SD_WIDTH, SD_HEIGHT = 1279, 576
"""Players assume BT.709 for untagged videos that are wider or higher, and BT.601 for others."""

LIKELY_MATRIX: Mapping[str, Matrix] = MappingProxyType(
    {
        "bt709": "bt709",
        "bt470m": "fcc",
        "bt470bg": "bt470bg",
        "smpte170m": "smpte170m",
        "smpte240m": "smpte240m",
        "bt2020": "bt2020nc",
    }
)
"""Primaries → the matrix that is used with them. Also what `chroma-derived-nc` means."""

WIDE_GAMUT_MATRICES = ("bt2020c", "ictcp", "ipt-c2", "smpte2085")
"""Unusable matrices that occur with BT.2020 primaries only."""


LIMITED_RANGE, FULL_RANGE = 1, 2
"""FFmpeg's codes of the range."""


class Tags(NamedTuple):
    """The colour tags of a decoded frame, as FFmpeg's codes, and what its pixel format says."""

    matrix: int
    primaries: int
    transfer: int
    range: int
    is_rgb: bool
    is_full_range: bool


def color_of(tags: Tags, width: int, height: int) -> tuple[Color, tuple[VideoWarning, ...]]:
    """Return the colour of frames stored at this size, and a warning if a matrix is unusable.

    What is not tagged, or tagged with an unknown or unusable code, is assumed: as players do, from
    the other tags and, where these are silent too, from the size.
    """
    transfer, primaries = TRANSFERS.get(tags.transfer), PRIMARIES.get(tags.primaries)
    wide = transfer in HDR_TRANSFERS or MATRICES.get(tags.matrix) in WIDE_GAMUT_MATRICES
    likely = LIKELY_MATRIX.get(primaries or "", "bt2020nc" if wide else _by_size(width, height))
    matrix = RGB if tags.is_rgb else _usable(tags.matrix)
    stated = {
        "matrix": matrix,
        "primaries": primaries,
        "transfer": transfer,
        "range": _range(tags),
    }
    used = matrix or likely
    guesses = {
        "matrix": likely,
        "primaries": "bt2020" if used == "bt2020nc" else _primaries(used, height),
        "transfer": "bt709",
        "range": "limited",
    }
    assumed = tuple(field for field, value in stated.items() if value is None)
    color = Color.model_validate(
        {field: value or guesses[field] for field, value in stated.items()} | {"assumed": assumed}
    )
    if matrix is None and tags.matrix != UNSPECIFIED:
        return color, (_warning(tags.matrix, likely),)
    return color, ()


def matrix_of(color: Color) -> Matrix:
    """Return the matrix to compute with; for RGB, that of BT.709, in which it would be stored."""
    return next((matrix for matrix in LUMA if matrix == color.matrix), "bt709")


def have_equal_yuv(one: Color, other: Color) -> bool:
    """Return whether the same Y, U and V have the same RGB in both."""
    return LUMA[matrix_of(one)] == LUMA[matrix_of(other)] and one.range == other.range


def black_of(color: Color) -> tuple[int, int, int]:
    """Return Y, U and V of black in 8 bits."""
    return (0 if color.range == "full" else 16), 128, 128


def codes_of(color: Color) -> tuple[int, int, int]:
    """Return FFmpeg's codes of a colour's matrix, primaries and transfer."""
    named = (MATRICES, color.matrix), (PRIMARIES, color.primaries), (TRANSFERS, color.transfer)
    matrix, primaries, transfer = (
        next((code for code, known in table.items() if known == name), UNSPECIFIED)
        for table, name in named
    )
    return matrix, primaries, transfer


def _usable(code: int) -> Matrix | None:
    return next((matrix for matrix in LUMA if matrix == MATRICES.get(code)), None)


def _range(tags: Tags) -> str | None:
    if tags.is_rgb or tags.is_full_range or tags.range == FULL_RANGE:
        return "full"
    return "limited" if tags.range == LIMITED_RANGE else None


def _by_size(width: int, height: int) -> Matrix:
    if width > SD_WIDTH or height > SD_HEIGHT:
        return "bt709"
    return "bt470bg" if height == SD_HEIGHT else "smpte170m"


def _primaries(matrix: str, height: int) -> str:
    """Return the primaries of SDR pictures with this matrix."""
    if matrix in ("smpte170m", "bt470bg"):
        return "bt470bg" if height == SD_HEIGHT else "smpte170m"
    return "smpte240m" if matrix == "smpte240m" else "bt709"


def _warning(code: int, likely: Matrix) -> VideoWarning:
    name = MATRICES.get(code)
    stated = f"{name} ({code})" if name else f"with the unknown code {code}"
    return VideoWarning(
        code="color_assumed",
        detail=f"the colour matrix {stated} cannot be converted; {likely} was assumed",
    )
