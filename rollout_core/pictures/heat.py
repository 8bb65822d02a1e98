"""Heat maps: relevance scaled to 0..1 and interpolated in time, and the colours to draw it with."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from cmap import Colormap
from numpy.typing import NDArray

from rollout_core.contract import Color, HeatScale
from rollout_core.errors import InvalidRequest
from rollout_core.video.color import LUMA, matrix_of

HOT_PERCENT = 99
"""Percentage of the patches of a video that are below the hottest colour.

So a few patches that stand out do not leave all others pale.
"""

HOT_MULTIPLE = 8
"""Relevance that gets the hottest colour on the absolute scale, as a multiple of an even spread."""

Floats = NDArray[np.float64]
Table = NDArray[np.uint8]


@dataclass(frozen=True)
class HeatTrack:
    """The heat maps of the sampled frames, one per distinct frame.

    Attributes:
        frame_index: int64 `n`, increasing.
        pts_seconds: float64 `n`, increasing.
        heat: float32 `n h w`, 0 to 1.
        share: float64 `n`, each frame's share of all relevance; sums to 1.
    """

    frame_index: NDArray[np.int64]
    pts_seconds: NDArray[np.float64]
    heat: NDArray[np.float32]
    share: NDArray[np.float64]

    def at(self, seconds: float) -> NDArray[np.float32]:
        """Return the heat map, `h w`: linear in time between frames, constant outside."""
        after = int(np.searchsorted(self.pts_seconds, seconds))
        if after == 0:
            return np.asarray(self.heat[0])
        if after == len(self.heat):
            return np.asarray(self.heat[-1])
        begin, end = self.pts_seconds[after - 1 : after + 1]
        weight = np.float32((seconds - begin) / (end - begin))
        return np.asarray((1 - weight) * self.heat[after - 1] + weight * self.heat[after])


def heat_track(
    relevance: NDArray[np.float32],
    *,
    pts_seconds: NDArray[np.float64],
    frame_index: NDArray[np.int64],
    scale: HeatScale = "video",
) -> HeatTrack:
    """Scale the positive part of relevance to 0..1.

    A frame that was sampled more than once gets the mean of its maps and the sum of its shares.
    If all relevance is equal, all heat is 0, except on the absolute scale.

    Args:
        relevance: `clip t h w`.
        pts_seconds, frame_index: `clip t`, of the sampled frames.
        scale: see `Overlay.scale`.
    """
    maps = relevance.reshape(-1, *relevance.shape[2:]).clip(min=0).astype(np.float64)
    indices, first, inverse, counts = np.unique(
        frame_index, return_index=True, return_inverse=True, return_counts=True
    )
    sums = np.zeros((len(indices), *maps.shape[1:]))
    np.add.at(sums, inverse.ravel(), maps)
    means = sums / counts[:, None, None]
    heat = scale_maps(means, scale)
    shares = sums.sum(axis=(1, 2))
    total = shares.sum()
    return HeatTrack(
        frame_index=indices,
        pts_seconds=pts_seconds.ravel()[first],
        heat=heat.astype(np.float32),
        share=shares / total if total > 0 else np.full(len(shares), 1 / len(shares)),
    )


def scale_maps(maps: Floats, scale: HeatScale) -> Floats:
    """Scale the maps of a video, `n h w`, none of them negative, to 0..1; see `Overlay.scale`."""
    low: Floats | float
    high: Floats | float
    if scale == "frame":
        low, high = (reduce(maps, axis=(1, 2), keepdims=True) for reduce in (np.min, np.max))
    elif scale == "absolute":
        low, high = 0.0, HOT_MULTIPLE * maps.mean()
    else:
        low = maps.min()
        high = np.percentile(maps, HOT_PERCENT)
        high = high if high > low else maps.max()
    span = np.asarray(high - low)
    return ((maps - low) / np.where(span > 0, span, np.inf)).clip(0, 1)


def check_colormap(name: str) -> None:
    """Check that a colormap of this name exists.

    Raises:
        InvalidRequest: no colormap has this name.
    """
    rgb_table(name)


@lru_cache(maxsize=8)
def rgb_table(name: str) -> Table:
    """Return a colormap, uint8 `256 c`, RGB.

    Raises:
        InvalidRequest: no colormap has this name.
    """
    try:
        colours = Colormap(name).lut(256)[:, :3]
    except ValueError as error:
        raise InvalidRequest(f"no colormap is named {name!r}") from error
    return _rounded(255 * colours)


def yuv_table(rgb: Table, color: Color) -> Table:
    """Convert RGB colours, uint8 `256 c`, to Y, U and V of 8 bits, uint8 `256 c`."""
    kr, kb = LUMA[matrix_of(color)]
    red, green, blue = np.moveaxis(rgb / 255.0, -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    u = (blue - luma) / (2 * (1 - kb))
    v = (red - luma) / (2 * (1 - kr))
    full = color.range == "full"
    black, white, chroma = (0, 255, 255) if full else (16, 219, 224)
    return _rounded(np.stack([black + white * luma, 128 + chroma * u, 128 + chroma * v], axis=-1))


def alpha_table(opacity: float) -> Table:
    """Return the alpha for each heat value, uint8 `256`: linear from 0 to 255 × `opacity`."""
    return _rounded(opacity * np.arange(256.0))


def saturation(opacity: float) -> float:
    """Return how much of its colour a picture keeps below a heat map, so that the map's stand out.

    Brightness stays. Without opacity the picture is unchanged.
    """
    return 1 - opacity


def _rounded(values: NDArray[np.float64]) -> Table:
    """Round to uint8."""
    return np.asarray(np.rint(values).clip(0, 255), dtype=np.uint8)
