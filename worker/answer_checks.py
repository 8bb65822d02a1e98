"""What a child's answer must look like before it is believed.

What is accepted here ends in a result's files, which must be readable: shapes as the request and
the model have them, and nothing but numbers.
"""

from math import prod

import numpy as np

from rollout_core.contract import ExplainRequest
from rollout_core.model.specs import ModelSpec
from rollout_core.resolve import ResolvedRun
from rollout_core.video import sampling
from worker.messages import Opened
from worker.wire import Arrays

Described = tuple[str, tuple[int, ...]]
"""Type and shape of an array."""


def is_plan(
    arrays: Arrays, opened: Opened, request: ExplainRequest, spec: ModelSpec, *, max_seconds: float
) -> bool:
    """Whether this can be the plan of the request: media can be led astray by what it reads.

    How long the video is, nobody else knows; how many clips it may have, follows from that. They
    decide what a job costs, and how much the supervisor keeps of it.
    """
    start, end = request.start_seconds or 0.0, opened.end_seconds
    if not start == opened.start_seconds < end <= max_seconds:
        return False
    most = len(sampling.plan(end, request, spec).times_seconds)
    times: Described = "float64", (opened.clips, spec.frames)
    return opened.clips <= most and _are(arrays, times_seconds=times)


def is_clip(arrays: Arrays, spec: ModelSpec) -> bool:
    """Whether these are a clip's arrays."""
    return _are(
        arrays,
        frames=("uint8", (spec.frames, spec.height, spec.width, 3)),
        pts_seconds=("float64", (spec.frames,)),
        frame_index=("int64", (spec.frames,)),
    )


def is_explanation(arrays: Arrays, run: ResolvedRun, clips: int) -> bool:
    """Whether these are the arrays of an `Explained` of so many clips."""
    request, spec, grid = run.request, run.spec, run.spec.grid
    tokens = 1 + prod(grid)
    expected: dict[str, Described] = {
        "logits": ("float32", (clips, spec.classes)),
        "query_relevance": ("float32", (clips, len(run.queries), *grid)),
        "temporal_rollout": ("float32", (clips, spec.frames, spec.frames)),
    }
    if request.method == "gradient_rollout":
        expected["targets"] = ("int64", (clips,))
    if request.per_layer:
        expected["layer_relevance"] = ("float32", (clips, spec.depth, *grid))
    if request.full_rollout:
        expected["full_rollout"] = ("float16", (clips, tokens, tokens))
    return _are(arrays, **expected)


def is_curve(arrays: Arrays, steps: int) -> bool:
    """Whether these are the arrays of a `Perturbed`."""
    return _are(arrays, probabilities=("float32", (steps + 1,)))


def _are(arrays: Arrays, **expected: Described) -> bool:
    """Whether the arrays are of these types and shapes, and hold nothing but numbers."""
    described = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    return described == expected and all(np.isfinite(array).all() for array in arrays.values())
