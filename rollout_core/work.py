"""How much work a request is: forwards of the model, and bytes of the result's arrays.

The service checks requests by it before any video is open, so this module needs no numpy.
"""

from dataclasses import dataclass
from math import prod

from rollout_core.contract import ExplainRequest, Method
from rollout_core.errors import TooMuchWork
from rollout_core.model.specs import ModelSpec

FORWARDS: dict[Method, int] = {
    "rollout": 1,
    "attention": 1,
    "contribution_rollout": 1,
    "gradient_rollout": 3,
    "difference": 6,
}
"""Time of a clip by method, in forwards of the model, rounded down from what was measured."""

FLOAT_BYTES = 4
HALF_BYTES = 2

DEFAULT_ARRAY_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of a request whose number of clips is known.

    Attributes:
        clips, queries, targets, layers: what the arrays have one map for, each of a clip.
        forwards: of the model, on a clip; without those of faithfulness.
        array_bytes: of all arrays of `rollout.npz`, before compression.
    """

    clips: int
    queries: int
    targets: int
    layers: int
    forwards: int
    array_bytes: int


def work_of(request: ExplainRequest, spec: ModelSpec, clips: int) -> Work:
    """Return the work of a request for a video with this number of clips."""
    queries, targets = len(request.queries), len(request.targets)
    layers = spec.depth if request.per_layer else 0
    return Work(
        clips=clips,
        queries=queries,
        targets=targets,
        layers=layers,
        forwards=clips * FORWARDS[request.method],
        array_bytes=clips * _clip_bytes(request, spec, layers),
    )


def check_array_bytes(work: Work, most: int) -> None:
    """Check that the arrays of a result are not too large.

    Raises:
        TooMuchWork: they are; the message has the numbers.
    """
    if work.array_bytes > most:
        raise TooMuchWork(
            f"the arrays of {_count(work.clips, 'clip')}, {_count(work.queries, 'query')}, "
            f"{_count(work.targets, 'target')} and {_count(work.layers, 'layer')} take "
            f"{work.array_bytes:,} bytes; {most:,} are allowed. Ask for a shorter span, fewer "
            "queries or targets, or no per_layer"
        )


def _clip_bytes(request: ExplainRequest, spec: ModelSpec, layers: int) -> int:
    """Return the bytes of what `rollout_core.archive.ARRAYS` lists for one clip, maps above all."""
    maps = 1 + layers
    if len(request.queries) > 1:
        maps += len(request.queries)
    if len(request.targets) > 1:
        maps += len(request.targets)
    values = maps * prod(spec.grid) + spec.classes
    whole = HALF_BYTES * (1 + prod(spec.grid)) ** 2 if request.full_rollout else 0
    return FLOAT_BYTES * values + whole


def _count(number: int, name: str) -> str:
    plural = f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"
    return f"{number:,} {name if number == 1 else plural}"
