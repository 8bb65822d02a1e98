"""Which moments of a video a model sees. Pure arithmetic: no file is touched."""

from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
from numpy.typing import NDArray

from rollout_core.contract import ExplainRequest
from rollout_core.errors import EmptySpan
from rollout_core.model.specs import SAMPLING_RATE_HZ, ModelSpec, Sampling

END_MARGIN_SECONDS = 0.001
"""How far before its end a moment beyond a span is put, for a span does not hold its end."""

Window = tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """The moments to sample, and how they were chosen.

    Attributes:
        times_seconds: float64 `clip t`, counted from the first frame; never decreasing.
        sampling: the one really used.
        start_seconds, end_seconds: the span, half open.
    """

    times_seconds: NDArray[np.float64]
    sampling: Sampling
    start_seconds: float
    end_seconds: float


def plan(duration_seconds: float, request: ExplainRequest, spec: ModelSpec) -> Plan:
    """Choose the moments of a video that the model sees.

    The span is cut into windows, one a clip; see `uniform` and `strided` for the moments in each.

    Raises:
        EmptySpan: the span begins where the video has ended.
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
    """Return the centres of `frames` equal segments of the window, float64 `t`."""
    centres = np.arange(frames, dtype=np.float64) + 0.5
    return centres * ((end - start) / frames) + start


def strided(start: float, end: float, *, frames: int, stride: int) -> NDArray[np.float64]:
    """Return moments `stride` frames of 30 Hz apart, the whole clip centred, float64 `t`.

    A clip longer than the window begins where the window does, and what would lie beyond is
    put just before its end: there the last frame repeats, as in the published loader.
    """
    step = stride / SAMPLING_RATE_HZ
    slack = (end - start) - (frames - 1) * step
    times = start + max(0.0, slack / 2) + np.arange(frames, dtype=np.float64) * step
    return times.clip(max=max(start, end - END_MARGIN_SECONDS))


def _equal_windows(start: float, end: float, spec: ModelSpec, *, tile: bool) -> list[Window]:
    """Cut a span into equal windows of about `spec.clip_seconds`."""
    count = max(1, round((end - start) / spec.clip_seconds)) if tile else 1
    edges = np.linspace(start, end, count + 1).tolist()
    return list(pairwise(edges))


def _strided_windows(start: float, end: float, spec: ModelSpec, *, tile: bool) -> list[Window]:
    """Cut a span into windows as long as a clip.

    The last may be shorter; a rest of less than half a stride, on which no moment of the
    regular grid would fall, gets none.
    """
    if not tile:
        return [(start, end)]
    step = spec.stride / SAMPLING_RATE_HZ
    length = spec.frames * step
    count = max(1, ceil((end - start - step / 2) / length))
    edges = [start + index * length for index in range(count)]
    return [(edge, min(edge + length, end)) for edge in edges]
