"""Chooses the moments of a video that a model sees. Pure arithmetic without file access."""

from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
from numpy.typing import NDArray

from rollout_core.contract import ExplainRequest
from rollout_core.errors import EmptySpan
from rollout_core.model.specs import SAMPLING_RATE_HZ, ModelSpec, Sampling

END_MARGIN_SECONDS = 0.001
"""Moments beyond a span are moved to this long before its end, which the span excludes."""

Window = tuple[float, float]
"""Start and end of the part of a span that one clip covers, in seconds; half open."""


@dataclass(frozen=True)
class Plan:
    """The moments to sample, and how they were chosen.

    Attributes:
        times_seconds: float64 `clip t`, counted from the first frame, sorted.
        sampling: the sampling used: the request's, or else the model's.
        start_seconds, end_seconds: the span, half open, limited to the video.
    """

    times_seconds: NDArray[np.float64]
    sampling: Sampling
    start_seconds: float
    end_seconds: float


def plan(duration_seconds: float, request: ExplainRequest, spec: ModelSpec) -> Plan:
    """Return the moments of a video that the model sees.

    The span is divided into windows, one per clip; `uniform` and `strided` choose the moments in
    each window.

    Raises:
        EmptySpan: the span begins at or after the end of the video.
    """
    start = request.start_seconds or 0.0
    end = min(duration_seconds, request.end_seconds or duration_seconds)
    if start >= end:
        raise EmptySpan(
            f"the span begins at {start:g} s, but the video lasts {duration_seconds:.3f} s"
        )
    sampling = request.sampling or spec.sampling
    if sampling == "uniform":
        windows = _equal_windows(start, end, spec, tile=request.clips == "tile")
        times = [uniform(*window, frames=spec.frames) for window in windows]
    else:
        windows = _strided_windows(start, end, spec, tile=request.clips == "tile")
        times = [strided(*window, frames=spec.frames, stride=spec.stride) for window in windows]
    return Plan(np.stack(times), sampling, start, end)


def uniform(start: float, end: float, *, frames: int) -> NDArray[np.float64]:
    """Return the centres of `frames` equal segments of a window in seconds, float64 `t`."""
    centres = np.arange(frames, dtype=np.float64) + 0.5
    return centres * ((end - start) / frames) + start


def strided(start: float, end: float, *, frames: int, stride: int) -> NDArray[np.float64]:
    """Return moments `stride` frames at 30 Hz apart, centred in the window, float64 `t`.

    A clip longer than the window begins with the window. Moments beyond the window are moved to
    just before its end, so the last frame repeats, as in the published loader.
    """
    step = stride / SAMPLING_RATE_HZ
    slack = (end - start) - (frames - 1) * step
    times = start + max(0.0, slack / 2) + np.arange(frames, dtype=np.float64) * step
    return times.clip(max=max(start, end - END_MARGIN_SECONDS))


def _equal_windows(start: float, end: float, spec: ModelSpec, *, tile: bool) -> list[Window]:
    """Divide a span into equal windows of about `spec.clip_seconds`, or a single one."""
    count = max(1, round((end - start) / spec.clip_seconds)) if tile else 1
    edges = np.linspace(start, end, count + 1).tolist()
    return list(pairwise(edges))


def _strided_windows(start: float, end: float, spec: ModelSpec, *, tile: bool) -> list[Window]:
    """Divide a span into windows of a clip's length, or return it as a single one.

    The last window may be shorter. A remainder of less than half a stride gets no window, because
    it would contain no moment of the regular grid.
    """
    if not tile:
        return [(start, end)]
    step = spec.stride / SAMPLING_RATE_HZ
    length = spec.frames * step
    count = max(1, ceil((end - start - step / 2) / length))
    edges = [start + index * length for index in range(count)]
    return [(edge, min(edge + length, end)) for edge in edges]
