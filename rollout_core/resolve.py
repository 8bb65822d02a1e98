"""Checks a request against a model, and resolves it for one video.

The service checks requests when they are submitted, so this module needs no numpy and no torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from rollout_core.colormaps import is_colormap, suggest_colormap
from rollout_core.contract import (
    MAX_FULL_ROLLOUT_TOKENS,
    OPTIONS_BY_METHOD,
    ExplainRequest,
    Method,
    PatchQuery,
    PointQuery,
    Query,
    TokenQuery,
)
from rollout_core.errors import InvalidRequest
from rollout_core.model.specs import ModelSpec, Sampling


@dataclass(frozen=True)
class ResolvedRun:
    """A request, the model that runs it, and the values that were chosen for one video.

    Attributes:
        crop: x, y, width and height of the part that the model sees, in source pixels as
            displayed.
        sampling, start_seconds, end_seconds: the values in use. The span is half open.
        queries: the queries of the request, with points resolved to patches.
    """

    spec: ModelSpec
    checkpoint_sha256: str | None
    request: ExplainRequest
    crop: tuple[int, int, int, int]
    sampling: Sampling
    start_seconds: float
    end_seconds: float
    queries: tuple[TokenQuery, ...]

    @classmethod
    def resolve(
        cls,
        request: ExplainRequest,
        spec: ModelSpec,
        *,
        checkpoint_sha256: str | None,
        crop: tuple[int, int, int, int],
        sampling: Sampling,
        start_seconds: float,
        end_seconds: float,
        times_seconds: Sequence[Sequence[float]],
    ) -> Self:
        """Return the run of a request whose clips will be sampled at `times_seconds`.

        Raises:
            InvalidRequest: see `resolve_queries`.
        """
        queries = resolve_queries(
            request,
            times_seconds=times_seconds,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            crop=crop,
            spec=spec,
        )
        return cls(
            spec=spec,
            checkpoint_sha256=checkpoint_sha256,
            request=request,
            crop=crop,
            sampling=sampling,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            queries=queries,
        )

    @property
    def resolved_request(self) -> ExplainRequest:
        """The request with all defaults filled in."""
        resolved = {
            "model": self.spec.name,
            "sampling": self.sampling,
            "start_seconds": self.start_seconds,
            "end_seconds": self.end_seconds,
        }
        if self.request.method == "attention" and self.request.layer is None:
            resolved["layer"] = self.spec.depth - 1
        return self.request.model_copy(update=resolved)


def check_request(request: ExplainRequest, spec: ModelSpec) -> None:
    """Check everything that does not depend on the video.

    Raises:
        InvalidRequest: the model has no such layer, class or patch, a point is outside the span,
            a clip has too many tokens for `full_rollout`, or no colormap has this name.
    """
    check_layer("start_layer", request.start_layer, spec.depth)
    if request.layer is not None:
        check_layer("layer", request.layer, spec.depth)
    if request.target is not None:
        spec.class_index(request.target)
    span = request.start_seconds or 0.0, request.end_seconds or math.inf
    for query in request.queries:
        if isinstance(query, PatchQuery):
            check_patch(query, spec.grid, clips=1 if request.clips == "one" else None)
        elif isinstance(query, PointQuery):
            _check_time(query, *span)
    if request.full_rollout:
        check_tokens(spec.grid)
    if request.overlay is not None:
        _check_colormap(request.overlay.colormap)


def refuse_script(request: ExplainRequest) -> None:
    """Raise InvalidRequest if the request says what the fake engine should do."""
    if request.fake is not None:
        raise InvalidRequest("fake is for a service that runs the fake engine; this one is real")


def check_layer(name: str, layer: int, depth: int) -> None:
    """Raise InvalidRequest if a model of this depth does not have the layer."""
    if not 0 <= layer < depth:
        raise InvalidRequest(f"{name} is {layer}, but the model has {depth} layers")


def check_patch(query: PatchQuery, grid: tuple[int, int, int], *, clips: int | None = None) -> None:
    """Raise InvalidRequest if the grid, `(t, h, w)`, does not have the patch.

    Args:
        clips: number of clips, or None if it is not known yet.
    """
    t, h, w = grid
    limits = {"clip": clips, "frame": t, "row": h, "column": w}
    for name, limit in limits.items():
        index = getattr(query, name)
        if limit is not None and index >= limit:
            raise InvalidRequest(f"query: {name} is {index}, but the last one is {limit - 1}")


def check_tokens(grid: tuple[int, int, int]) -> None:
    """Raise InvalidRequest if a grid, `(t, h, w)`, is too large for a full rollout."""
    tokens = 1 + math.prod(grid)
    if tokens > MAX_FULL_ROLLOUT_TOKENS:
        raise InvalidRequest(
            f"full_rollout is for clips of up to {MAX_FULL_ROLLOUT_TOKENS} tokens, not of {tokens}"
        )


def _check_colormap(name: str) -> None:
    """Raise InvalidRequest if no colormap has this name."""
    if not is_colormap(name):
        raise InvalidRequest(
            f"overlay.colormap: no colormap is named {name!r}; {suggest_colormap(name)}"
        )


def explained_class(request: ExplainRequest, spec: ModelSpec) -> int | None:
    """Return the class to explain. None if it is the predicted one, or the method uses no class."""
    if request.target is None or "target" not in OPTIONS_BY_METHOD[request.method]:
        return None
    return spec.class_index(request.target)


def with_method(request: ExplainRequest, method: Method) -> ExplainRequest:
    """Return the request for another method, which keeps the options that this method uses."""
    extras = {"per_layer", "full_rollout", "faithfulness"}
    options = {name for options in OPTIONS_BY_METHOD.values() for name in options}
    dropped = {"method"} | extras | (options - set(OPTIONS_BY_METHOD[method]))
    return ExplainRequest(method=method, **request.model_dump(exclude=dropped))


def resolve_queries(
    request: ExplainRequest,
    *,
    times_seconds: Sequence[Sequence[float]],
    start_seconds: float,
    end_seconds: float,
    crop: tuple[int, int, int, int],
    spec: ModelSpec,
) -> tuple[TokenQuery, ...]:
    """Return the queries of a request, with points resolved to patches.

    Args:
        times_seconds: `clip t`, times of the sampled frames. Of two equally near, the earlier is
            chosen.
        start_seconds, end_seconds: the span, half open.
        crop: x, y, width and height of the part that the model sees, in source pixels as
            displayed.
    Raises:
        InvalidRequest: a point is outside the crop or the span, or a patch does not exist.
    """

    def resolve(query: Query) -> TokenQuery:
        if isinstance(query, PointQuery):
            _check_time(query, start_seconds, end_seconds)
            clip, frame = _nearest(query.seconds, times_seconds)
            row, column = _patch_at(query, crop, spec)
            return PatchQuery(clip=clip, frame=frame, row=row, column=column)
        if isinstance(query, PatchQuery):
            check_patch(query, spec.grid, clips=len(times_seconds))
        return query

    return tuple(resolve(query) for query in request.queries)


def _check_time(query: PointQuery, start_seconds: float, end_seconds: float) -> None:
    if not start_seconds <= query.seconds < end_seconds:
        raise InvalidRequest(
            f"query: {query.seconds:g} s is outside the span, "
            f"{start_seconds:g} s to {end_seconds:g} s"
        )


def _nearest(seconds: float, times_seconds: Sequence[Sequence[float]]) -> tuple[int, int]:
    """Return clip and frame of the sampled frame nearest in time."""
    distances = (
        (abs(time - seconds), clip, frame)
        for clip, times in enumerate(times_seconds)
        for frame, time in enumerate(times)
    )
    _, clip, frame = min(distances)
    return clip, frame


def _patch_at(
    query: PointQuery, crop: tuple[int, int, int, int], spec: ModelSpec
) -> tuple[int, int]:
    """Return row and column of the patch that contains a point of the source."""
    x, y, width, height = crop
    right, down = (query.x - x) / width, (query.y - y) / height
    if not (0 <= right < 1 and 0 <= down < 1):
        raise InvalidRequest(
            f"query: ({query.x:g}, {query.y:g}) is outside what the model sees, "
            f"{width}×{height} pixels from ({x}, {y})"
        )
    _, h, w = spec.grid
    return int(down * h), int(right * w)
