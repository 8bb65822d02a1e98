"""Relevance as heat over time: one map between 0 and 1 for every moment of a video."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class HeatTrack:
    """The heat maps of the frames that were sampled, each frame once.

    Attributes:
        frame_index: int64 `n`, increasing.
        pts_seconds: float64 `n`, increasing.
        heat: float32 `n h w`, from 0 to 1.
        share: float64 `n`, of all relevance; sums to 1.
    """

    frame_index: NDArray[np.int64]
    pts_seconds: NDArray[np.float64]
    heat: NDArray[np.float32]
    share: NDArray[np.float64]

    def at(self, seconds: float) -> NDArray[np.float32]:
        """Return the heat map `h w` at a moment: linear in time between frames, constant beyond."""
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
) -> HeatTrack:
    """Scale relevance `clip t h w` to 0..1 by its minimum and maximum over the whole video.

    A frame that was sampled more than once has the mean of its maps, and the sum of its shares.
    Maps that are the same everywhere have no heat.
    """
    maps = relevance.reshape(-1, *relevance.shape[2:]).astype(np.float64)
    indices, first, inverse, counts = np.unique(
        frame_index, return_index=True, return_inverse=True, return_counts=True
    )
    sums = np.zeros((len(indices), *maps.shape[1:]))
    np.add.at(sums, inverse.ravel(), maps)
    means = sums / counts[:, None, None]
    low, high = means.min(), means.max()
    heat = (means - low) / (high - low) if high > low else np.zeros_like(means)
    shares = sums.sum(axis=(1, 2))
    total = shares.sum()
    return HeatTrack(
        frame_index=indices,
        pts_seconds=pts_seconds.ravel()[first],
        heat=heat.astype(np.float32),
        share=shares / total if total > 0 else np.full(len(shares), 1 / len(shares)),
    )


def frame_shares(relevance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each frame's share of its clip's relevance, `clip t`, from `clip t h w`.

    A clip without any relevance has shares of 0.
    """
    frames = relevance.sum(axis=(2, 3), dtype=np.float64)
    totals = frames.sum(axis=1, keepdims=True)
    return np.asarray(frames / np.where(totals > 0, totals, 1), np.float32)
