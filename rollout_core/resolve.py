"""Checks a request against a model, and resolves it for one video.

The service checks requests when they are submitted, so this module needs no numpy and no torch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import ValidationError

from rollout_core.colormaps import is_colormap, suggest_colormap
from rollout_core.command import describe_errors
from rollout_core.contract import (
    MAX_FULL_ROLLOUT_TOKENS,
    OPTIONS_BY_METHOD,
    PREDICTED,
    SEVERAL_TARGETS,
    ClassChoice,
    ExplainRequest,
    Method,
    PatchQuery,
    PointQuery,
    Query,
    TokenQuery,
    default_weighting,
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
        if self.request.method == "contribution_rollout" and self.request.weighting is None:
            has_target = self.request.target is not None
            resolved["weighting"] = default_weighting(has_target=has_target)
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
    targets = [class_choice(name, spec, field) for field, name in _targets_by_field(request)]
    if request.against is not None:
        check_against(class_choice(request.against, spec, "against"), targets)
    span = request.start_seconds or 0.0, request.end_seconds or math.inf
    for field, query in _queries_by_field(request):
        if isinstance(query, PatchQuery):
            clips = 1 if request.clips == "one" else None
            check_patch(query, spec.grid, clips=clips, field=field)
        elif isinstance(query, PointQuery):
            _check_time(query, *span, field=field)
    if request.full_rollout:
        check_tokens(spec.grid)
    if request.overlay is not None:
        check_colormap(request.overlay.colormap)


def refuse_script(request: ExplainRequest) -> None:
    """Raise InvalidRequest if the request says what the fake engine should do."""
    if request.fake is not None:
        raise InvalidRequest("this is for the fake engine; the model is real", field="fake")


def check_layer(name: str, layer: int, depth: int) -> None:
    """Raise InvalidRequest if a model of this depth does not have the layer."""
    if not 0 <= layer < depth:
        raise InvalidRequest(f"there is no layer {layer}; the model has {depth} layers", field=name)


def check_patch(
    query: PatchQuery,
    grid: tuple[int, int, int],
    *,
    clips: int | None = None,
    field: str = "query",
) -> None:
    """Raise InvalidRequest if the grid, `(t, h, w)`, does not have the patch.

    Args:
        clips: number of clips, or None if it is not known yet.
        field: path of the query in the request.
    """
    t, h, w = grid
    limits = {"clip": clips, "frame": t, "row": h, "column": w}
    for name, limit in limits.items():
        index = getattr(query, name)
        if limit is not None and index >= limit:
            raise InvalidRequest(f"{name} is {index}, but the last one is {limit - 1}", field=field)


def check_tokens(grid: tuple[int, int, int]) -> None:
    """Raise InvalidRequest if a grid, `(t, h, w)`, is too large for a full rollout."""
    tokens = 1 + math.prod(grid)
    if tokens > MAX_FULL_ROLLOUT_TOKENS:
        raise InvalidRequest(
            f"the clip has {tokens} tokens, more than {MAX_FULL_ROLLOUT_TOKENS}",
            field="full_rollout",
        )


def check_colormap(name: str) -> None:
    """Raise InvalidRequest if no colormap has this name."""
    if not is_colormap(name):
        raise InvalidRequest(
            f"no colormap is named {name!r}; {suggest_colormap(name)}", field="overlay.colormap"
        )


def check_against(against: ClassChoice, targets: Sequence[ClassChoice]) -> None:
    """Raise InvalidRequest if a target is explained against itself."""
    if against in targets:
        raise InvalidRequest("this class is a target itself", field="against")


def class_choice(name: int | str, spec: ModelSpec, field: str = "target") -> ClassChoice:
    """Return the class that a request means.

    Raises:
        InvalidRequest: the model has no such class, or several of this name.
    """
    return PREDICTED if name == PREDICTED else spec.class_index(name, field=field)


def explained_classes(request: ExplainRequest, spec: ModelSpec) -> tuple[ClassChoice, ...]:
    """Return the classes to explain; none if the request has no target or the method no class."""
    if "target" not in OPTIONS_BY_METHOD[request.method]:
        return ()
    return tuple(class_choice(name, spec, field) for field, name in _targets_by_field(request))


def class_against(request: ExplainRequest, spec: ModelSpec) -> ClassChoice | None:
    """Return the class against which the targets are explained; None for the mean of all."""
    return None if request.against is None else class_choice(request.against, spec, "against")


def with_method(request: ExplainRequest, method: Method) -> ExplainRequest:
    """Return the request for another method, which keeps the options that this method uses.

    A method that explains one class gets the first target.

    Raises:
        InvalidRequest: the method does not explain the tokens that the request asks about.
    """
    extras = {"per_layer", "full_rollout", "faithfulness"}
    options = {name for options in OPTIONS_BY_METHOD.values() for name in options}
    dropped = {"method"} | extras | (options - set(OPTIONS_BY_METHOD[method]))
    kept = request.model_dump(exclude=dropped)
    if method not in SEVERAL_TARGETS and len(request.targets) > 1 and "target" in kept:
        kept["target"] = request.targets[0]
    try:
        return ExplainRequest(method=method, **kept)
    except ValidationError as error:
        raise InvalidRequest(describe_errors(error, ExplainRequest)) from error


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

    def resolve(field: str, query: Query) -> TokenQuery:
        if isinstance(query, PointQuery):
            _check_time(query, start_seconds, end_seconds, field=field)
            clip, frame = _nearest(query.seconds, times_seconds)
            row, column = _patch_at(query, crop, spec, field=field)
            return PatchQuery(clip=clip, frame=frame, row=row, column=column)
        if isinstance(query, PatchQuery):
            check_patch(query, spec.grid, clips=len(times_seconds), field=field)
        return query

    return tuple(resolve(field, query) for field, query in _queries_by_field(request))


def _targets_by_field(request: ExplainRequest) -> Iterator[tuple[str, int | str]]:
    """Yield each target with its path in the request."""
    are_listed = isinstance(request.target, tuple)
    for index, name in enumerate(request.targets):
        yield (f"target.{index}" if are_listed else "target"), name


def _queries_by_field(request: ExplainRequest) -> Iterator[tuple[str, Query]]:
    """Yield each query with its path in the request."""
    are_listed = isinstance(request.query, tuple)
    for index, query in enumerate(request.queries):
        yield (f"query.{index}" if are_listed else "query"), query


def _check_time(query: PointQuery, start_seconds: float, end_seconds: float, *, field: str) -> None:
    if not start_seconds <= query.seconds < end_seconds:
        raise InvalidRequest(
            f"{query.seconds:g} s is outside the span, {start_seconds:g} s to {end_seconds:g} s",
            field=field,
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
    query: PointQuery, crop: tuple[int, int, int, int], spec: ModelSpec, *, field: str
) -> tuple[int, int]:
    """Return row and column of the patch that contains a point of the source."""
    x, y, width, height = crop
    right, down = (query.x - x) / width, (query.y - y) / height
    if not (0 <= right < 1 and 0 <= down < 1):
        raise InvalidRequest(
            f"({query.x:g}, {query.y:g}) is outside what the model sees, "
            f"{width}×{height} pixels from ({x}, {y})",
            field=field,
        )
    _, h, w = spec.grid
    return int(down * h), int(right * w)
