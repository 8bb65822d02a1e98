"""Checks of what a child answers: array names, dtypes, shapes, and finite values.

Answers that pass end up in the files of a result, so these checks keep the files readable.
"""

import math
from collections.abc import Mapping
from math import prod

import numpy as np

from rollout_core.archive import ARRAYS
from rollout_core.contract import ExplainRequest
from rollout_core.model.specs import ModelSpec
from rollout_core.resolve import ResolvedRun
from rollout_core.video import sampling
from worker.messages import MAX_DETAIL_CHARACTERS, Decoded, Opened
from worker.wire import Arrays

ENGINE_AXES = {
    "query_relevance": "clip query t h w",
    "target_relevance": "clip target t h w",
    "target_classes": "clip target",
}
"""Axes that the engine sends in another order than `ARRAYS`: it answers clip by clip."""

MAX_NUMBER = 1 << 53
"""JSON's numbers are exact up to here."""

DtypeAndShape = tuple[str, tuple[int, ...]]


def is_plan(
    arrays: Arrays, opened: Opened, request: ExplainRequest, spec: ModelSpec, *, max_seconds: float
) -> bool:
    """Return whether this can be the plan of the request.

    The media process may have been compromised by the video, and only it knows how long the
    video is. The length limits the number of clips, and so the time and memory that a job takes.
    """
    start, end = request.start_seconds or 0.0, opened.end_seconds
    if not start == opened.start_seconds < end <= max_seconds:
        return False
    most = len(sampling.plan(end, request, spec).times_seconds)
    times: DtypeAndShape = "float64", (opened.clips, spec.frames)
    return opened.clips <= most and _match(arrays, {"times_seconds": times})


def is_source(decoded: Decoded, upload_bytes: int) -> bool:
    """Return whether this can describe the upload: text of limited length and sound numbers."""
    numbers, texts = _leaves(decoded.model_dump())
    source = decoded.source
    return (
        all(math.isfinite(number) and abs(number) < MAX_NUMBER for number in numbers)
        and sum(map(len, texts)) <= MAX_DETAIL_CHARACTERS
        and all(text.isprintable() for text in texts)
        and source.bytes == upload_bytes
        and min(source.width, source.height, source.stored_width, source.stored_height) > 0
        and source.frames_decoded >= 0
    )


def is_clip(arrays: Arrays, spec: ModelSpec) -> bool:
    """Return whether these are the arrays of a `Clip`."""
    frames: DtypeAndShape = "uint8", (spec.frames, spec.height, spec.width, 3)
    times = {
        name: (_dtype(name), (spec.frames,))  # of one clip: without the axis `clip`
        for name in ("pts_seconds", "frame_index")
    }
    return _match(arrays, {"frames": frames, **times})


def is_explanation(arrays: Arrays, run: ResolvedRun, clips: int) -> bool:
    """Return whether these are the arrays of an `Explained` of this number of clips."""
    request, spec = run.request, run.spec
    t, h, w = spec.grid
    sizes = {
        "clip": clips,
        "query": len(run.queries),
        "target": len(request.targets) or 1,
        **{"t": t, "h": h, "w": w, "n": 1 + prod(spec.grid)},
        "k": spec.classes,
        "l": spec.depth,
    }
    wanted = {
        "logits": True,
        "query_relevance": True,
        "temporal_rollout": not request.explains_classes,
        "targets": request.has_targets,
        "target_relevance": request.explains_classes,
        "target_classes": request.explains_classes,
        "layer_relevance": request.per_layer,
        "full_rollout": request.full_rollout,
    }
    expected = {name: _expected(name, sizes) for name, is_wanted in wanted.items() if is_wanted}
    return _match(arrays, expected)


def is_curve(arrays: Arrays, steps: int) -> bool:
    """Return whether these are the arrays of a `Perturbed`."""
    return _match(arrays, {"probabilities": ("float32", (steps + 1,))})


def _expected(name: str, sizes: Mapping[str, int]) -> DtypeAndShape:
    """Return the dtype and shape of an engine's array, given the size of each axis."""
    axes = ENGINE_AXES.get(name, ARRAYS[name].axes)
    return _dtype(name), tuple(sizes[axis] for axis in axes.split())


def _dtype(name: str) -> str:
    return np.dtype(ARRAYS[name].dtype).name


def _leaves(value: object) -> tuple[list[float], list[str]]:
    """Return all numbers and all texts within nested values."""
    numbers: list[float] = []
    texts: list[str] = []
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str(text):
                texts.append(text)
            case int(number) | float(number):
                numbers.append(number)
            case dict(fields):
                waiting += fields.values()
            case list(items) | tuple(items):
                waiting += items
    return numbers, texts


def _match(arrays: Arrays, expected: Mapping[str, DtypeAndShape]) -> bool:
    """Return whether exactly these arrays are there, with finite values only."""
    found = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    return found == expected and all(np.isfinite(array).all() for array in arrays.values())
