"""Colormaps by name, as tables: heat in 0 to 255, colour out."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
from cmap import Colormap
from numpy.typing import NDArray

from rollout_core.errors import InvalidRequest

Matrix = Literal["bt601", "bt709", "bt2020"]
Table = NDArray[np.uint8]

LUMA: Mapping[Matrix, tuple[float, float]] = MappingProxyType(
    {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
)
"""Shares of red and of blue in luma. Sources: ITU-R BT.601, BT.709, BT.2020."""


def check_colormap(name: str) -> None:
    """Refuse a colormap that does not exist.

    Raises:
        InvalidRequest: there is none of this name.
    """
    rgb_table(name)


def rgb_table(name: str) -> Table:
    """Return a colormap, uint8 `256 c`, RGB.

    Raises:
        InvalidRequest: there is none of this name.
    """
    try:
        colours = Colormap(name).lut(256)[:, :3]
    except ValueError as error:
        raise InvalidRequest(f"no colormap is known by the name {name!r}") from error
    return _rounded(255 * colours)


def yuv_table(rgb: Table, matrix: Matrix) -> Table:
    """Return colours `256 c` as Y, U and V of 8 bits and limited range, uint8 `256 c`."""
    kr, kb = LUMA[matrix]
    red, green, blue = np.moveaxis(rgb / 255.0, -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    u = (blue - luma) / (2 * (1 - kb))
    v = (red - luma) / (2 * (1 - kr))
    return _rounded(np.stack([16 + 219 * luma, 128 + 224 * u, 128 + 224 * v], axis=-1))


def alpha_table(opacity: float) -> Table:
    """Return how opaque each heat is drawn, uint8 `256`: from nothing up to `opacity`."""
    return _rounded(opacity * np.arange(256.0))


def _rounded(values: NDArray[np.float64]) -> Table:
    return np.asarray(np.rint(values), dtype=np.uint8)
