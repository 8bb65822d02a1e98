"""Heat maps: relevance scaled to 0..1 and interpolated in time, and the colours to draw it with.

Heat of 1 is drawn as opaque as asked for, and heat of 0 not at all. If signs are drawn, 1 speaks
for the class, 0 against it, and 0.5, which is not drawn, is nothing.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from cmap import Colormap
from numpy.typing import NDArray

from rollout_core.contract import Color, HeatScale, Overlay
from rollout_core.errors import InvalidRequest
from rollout_core.video.color import LUMA, matrix_of

HOT_PERCENT = 99
"""Percentage of the patches of a video that are below the hottest colour.

So a few patches that stand out do not leave all others pale.
"""

HOT_MULTIPLE = 8
"""Relevance that gets the hottest colour on the absolute scale, as a multiple of an even spread."""

DIVERGING = "matplotlib:coolwarm"
"""The colormap of heat with signs, for people who are colour-blind, too: blue, grey, red."""

CONTOUR_SHARES = (0.5, 0.8)
"""Where contours are drawn, as shares of the hottest colour's relevance."""

DEFAULT_OVERLAY = Overlay()

LEVELS = 255
"""Heat is drawn in this many steps."""

FLAT = 0.02
"""Slope, in levels per pixel, up to which heat has no contour."""

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
    overlay: Overlay = DEFAULT_OVERLAY,
) -> HeatTrack:
    """Scale relevance to 0..1: its positive part alone, unless signs are drawn.

    A frame that was sampled more than once gets the mean of its maps and the sum of its shares.
    If all relevance is equal, all heat is 0, except on the absolute scale.

    Args:
        relevance: `clip t h w`.
        pts_seconds, frame_index: `clip t`, of the sampled frames.
        overlay: how heat is drawn.
    """
    maps = relevance.reshape(-1, *relevance.shape[2:]).astype(np.float64)
    indices, first, inverse, counts = np.unique(
        frame_index, return_index=True, return_inverse=True, return_counts=True
    )
    positive, sums = (np.zeros((len(indices), *maps.shape[1:])) for _ in range(2))
    np.add.at(positive, inverse.ravel(), maps.clip(min=0))
    np.add.at(sums, inverse.ravel(), maps)
    drawn = sums if overlay.signed else positive
    heat = scale_maps(drawn / counts[:, None, None], overlay)
    shares = positive.sum(axis=(1, 2))
    total = shares.sum()
    return HeatTrack(
        frame_index=indices,
        pts_seconds=pts_seconds.ravel()[first],
        heat=heat.astype(np.float32),
        share=shares / total if total > 0 else np.full(len(shares), 1 / len(shares)),
    )


def scale_maps(maps: Floats, overlay: Overlay) -> Floats:
    """Scale the maps of a video, `n h w`, to 0..1; see `Overlay.scale`.

    None of them is negative, unless signs are drawn.
    """
    if overlay.signed:
        high = _hottest(np.abs(maps), overlay.scale)
        return np.asarray((maps / np.where(high > 0, high, np.inf)).clip(-1, 1) / 2 + 0.5)
    high = _hottest(maps, overlay.scale)
    axes = (1, 2) if overlay.scale == "frame" else (0, 1, 2)
    low = 0.0 if overlay.scale == "absolute" else maps.min(axis=axes, keepdims=True)
    span = high - low
    return np.asarray(((maps - low) / np.where(span > 0, span, np.inf)).clip(0, 1))


def _hottest(maps: Floats, scale: HeatScale) -> Floats:
    """Return the values that get the hottest colour, one for all maps or `n 1 1`."""
    if scale == "frame":
        return np.asarray(maps.max(axis=(1, 2), keepdims=True))
    if scale == "absolute":
        return np.asarray(HOT_MULTIPLE * maps.mean())
    high = np.percentile(maps, HOT_PERCENT)
    return np.asarray(high if high > maps.min() else maps.max())


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
    """Convert RGB colours, uint8 `... c`, to Y, U and V of 8 bits, uint8 `... c`."""
    kr, kb = LUMA[matrix_of(color)]
    red, green, blue = np.moveaxis(rgb / 255.0, -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    u = (blue - luma) / (2 * (1 - kb))
    v = (red - luma) / (2 * (1 - kr))
    full = color.range == "full"
    black, white, chroma = (0, 255, 255) if full else (16, 219, 224)
    return _rounded(np.stack([black + white * luma, 128 + chroma * u, 128 + chroma * v], axis=-1))


def colour_table(overlay: Overlay) -> Table:
    """Return the colour of each level of heat, uint8 `256 c`, RGB.

    Raises:
        InvalidRequest: the colormap is unknown.
    """
    return rgb_table(DIVERGING if overlay.signed else overlay.colormap)


def alpha_table(overlay: Overlay) -> Floats:
    """Return the opacity of each level of heat, `256`, 0 to 1.

    It rises linearly to that of the overlay, on both sides of the middle if signs are drawn.
    """
    heat = np.arange(LEVELS + 1) / LEVELS
    return overlay.opacity * (np.abs(2 * heat - 1) if overlay.signed else heat)


def contours(
    levels: NDArray[np.float32], overlay: Overlay, thickness: float
) -> NDArray[np.float32]:
    """Return the opacity of contours at each pixel, 0 to 1, for levels of heat, `H W`, 0 to 255.

    Args:
        thickness: of a line, in pixels.
    """
    if min(levels.shape) < 2:
        return np.zeros_like(levels)
    heights = np.array(CONTOUR_SHARES)
    if overlay.signed:
        heights = np.concatenate((0.5 - heights / 2, 0.5 + heights / 2))
    slope = np.hypot(*np.gradient(levels)).clip(min=FLAT)  # levels per pixel
    nearest = np.min([np.abs(levels - LEVELS * height) for height in heights], axis=0)
    lines = (thickness / 2 + 0.5 - nearest / slope).clip(0, 1)
    return np.asarray(np.where(slope > FLAT, lines, 0), np.float32)


def saturation(opacity: float) -> float:
    """Return how much of its colour a picture keeps below a heat map, so that the map's stand out.

    Brightness stays. Without opacity the picture is unchanged.
    """
    return 1 - opacity


def _rounded(values: NDArray[np.float64]) -> Table:
    """Round to uint8."""
    return np.asarray(np.rint(values).clip(0, 255), dtype=np.uint8)
