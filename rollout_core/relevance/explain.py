"""Explain a batch of clips: from a model, clips and a method to relevance and logits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from numpy.typing import NDArray
from torch import Tensor

from rollout_core.contract import (
    PREDICTED,
    SEVERAL_TARGETS,
    ClassChoice,
    Method,
    MethodOptions,
    PatchQuery,
    TokenQuery,
    check_option,
    default_weighting,
)
from rollout_core.errors import InvalidRequest
from rollout_core.model.specs import ModelSpec
from rollout_core.model.timesformer import TimeSformer
from rollout_core.relevance.class_contributions import class_contributions
from rollout_core.relevance.difference import explain_difference
from rollout_core.relevance.methods import watch_forward
from rollout_core.relevance.perturbation import fill_of
from rollout_core.relevance.rollout import (
    Flow,
    cls_row,
    frame_rows,
    patch_rows,
    patches_of,
    roll_out,
    tokens_of,
)
from rollout_core.relevance.targets import Targets
from rollout_core.resolve import check_against, check_layer, check_patch, check_tokens

FLOAT16_MAX = torch.finfo(torch.float16).max

FULL_ROLLOUT_ROWS = 256
"""Rows of a full rollout that are computed together, to bound the memory."""

PLAIN_ROLLOUT = MethodOptions()

Grid = tuple[int, int, int]
"""Patches of a clip, `(t, h, w)`."""


@dataclass(frozen=True)
class Explanation:
    """Relevance and logits of a batch of clips. Tensors are on the CPU.

    Relevance is not normalised further. With "rollout" and "contribution_rollout", the relevance
    of the patches and of the classification token sums to 1 for each query. "attention" is the
    attention of one layer, unchanged. "gradient_rollout" adds to the 1 that each query gives
    itself; its sum has no upper bound. The maps of classes, by "difference" and by
    "contribution_rollout" with a target, have signs, in units of the logit.

    Attributes:
        logits: `b k`, float32.
        targets: `b`, int64: the class explained, the first one of several; None for methods without
            a class.
        query_relevance: `b r t h w`, float32: relevance of each patch for each query. With maps of
            classes: that of the first class.
        temporal_rollout: `b t t`, float32: row i is the relevance, summed over each frame, for a
            query spread evenly over the patches of frame i. None with maps of classes.
        target_relevance: `b r t h w`, float32: the maps of classes, for each class.
        target_classes: `b r`, int64: the classes of `target_relevance`.
        layer_relevance: `b l t h w`, float32: for the first query or class, relevance of the tokens
            that enter layer l; equal for all layers up to `start_layer`. For "attention": the
            attention of layer l alone.
        full_rollout: `b n n`, float16: rows are queries, columns are input tokens. Token 0 is the
            classification token; the patches follow in the order `(t h w)`.
    """

    logits: Tensor
    targets: Tensor | None
    query_relevance: Tensor
    temporal_rollout: Tensor | None = None
    target_relevance: Tensor | None = None
    target_classes: Tensor | None = None
    layer_relevance: Tensor | None = None
    full_rollout: Tensor | None = None

    @property
    def relevance(self) -> Tensor:
        """Relevance for the first query or class, `b t h w`."""
        return self.query_relevance[:, 0]

    @property
    def frame_relevance(self) -> Tensor:
        """Share of each frame in the positive part of `relevance`, `b t`.

        Sums to 1, or to 0 without any positive relevance.
        """
        by_frame = self.relevance.clamp(min=0).sum((2, 3))  # b t
        return by_frame / by_frame.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the fields that are not None, as numpy arrays by name."""
        return {name: part.numpy() for name, part in vars(self).items() if part is not None}


@torch.no_grad()
def explain_clips(
    model: TimeSformer,
    clips: Tensor,
    options: MethodOptions = PLAIN_ROLLOUT,
    *,
    target: ClassChoice | Sequence[ClassChoice | Sequence[ClassChoice]] | None = None,
    against: ClassChoice | None = None,
    queries: Sequence[TokenQuery] = ("cls",),
    first_clip: int = 0,
) -> Explanation:
    """Run `model` on a batch of clips and compute the relevance for each query or class.

    Args:
        clips: `b c t H W`, normalised, on the model's device and in its dtype.
        options: the method and its options.
        target: one class for all clips, or for each clip one or several; several only for
            "contribution_rollout" and "difference". Default: the predicted classes; for
            "contribution_rollout": none.
        against: class of each clip that "contribution_rollout" compares the target with. Default:
            the mean of all classes.
        queries: tokens to explain. In all clips but its own, a patch has relevance 0.
        first_clip: index in the video of the first of `clips`; `PatchQuery.clip` counts from the
            start of the video.
    Raises:
        InvalidRequest: the model has no such layer, class or patch, the method does not use
            the classes or queries that are given, or a clip has too many tokens for `full_rollout`.
    """
    grid = model.grid_of(clips)
    _check_ranges(model, grid, options, queries)
    targets = _targets(options.method, target, len(clips), model.architecture.classes)
    _check_classes(model, options, targets, against, queries)
    if options.method == "difference":
        return _explain_difference(model, clips, options, targets)
    if options.method == "contribution_rollout" and targets is not None:
        return _explain_classes(model, clips, options, targets, against)
    first = None if targets is None else [of_clip[0] for of_clip in targets]
    output = watch_forward(model, clips, options, first)
    flow = output.flow
    if options.method == "attention":
        flow = flow.layer(_last_layer(model) if options.layer is None else options.layer)
    asked = _query_rows(queries, flow.groups[0], grid, first_clip)
    frames = frame_rows(flow.groups[0], t=grid[0])
    *_, rows = roll_out(torch.cat([asked, frames], dim=1), flow)
    of_queries, of_frames = torch.split(_by_patch(rows, grid), [len(queries), grid[0]], dim=1)
    by_layer = _by_layer(asked[:, :1], output.flow, options) if options.per_layer else None
    return Explanation(
        logits=output.logits.float().cpu(),
        targets=None if output.targets is None else output.targets.cpu(),
        query_relevance=of_queries.cpu(),
        temporal_rollout=reduce(of_frames, "b q t h w -> b q t", "sum").cpu(),
        layer_relevance=None if by_layer is None else _by_patch(by_layer, grid).cpu(),
        full_rollout=_roll_out_all(flow, grid).cpu() if options.full_rollout else None,
    )


def prepare_clips(
    frames: np.ndarray, spec: ModelSpec, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Turn decoded frames into the model's input.

    Args:
        frames: `b t H W c`, uint8, RGB, at the model's size.
        spec: gives the channel order, mean and standard deviation.
    Returns:
        `b c t H W`, normalised.
    """
    clips = rearrange(torch.from_numpy(frames).to(device), "b t H W c -> b c t H W").float() / 255
    if spec.channel_order == "BGR":
        clips = clips.flip(1)
    return normalize(clips, spec).to(dtype)


def normalize(clips: Tensor, spec: ModelSpec) -> Tensor:
    """Normalise clips, `b c t H W` from 0 to 1, with the model's mean and deviation."""
    mean, std = (
        rearrange(torch.tensor(values, device=clips.device), "c -> c 1 1 1")
        for values in (spec.mean, spec.std)
    )
    return (clips - mean) / std


def _explain_classes(
    model: TimeSformer,
    clips: Tensor,
    options: MethodOptions,
    targets: Targets,
    against: ClassChoice | None,
) -> Explanation:
    """Roll down what the patches add to the logits of classes; see `class_contributions`."""
    found = class_contributions(
        model,
        clips,
        targets,
        against=against,
        weighting=options.weighting or default_weighting(has_target=True),
        start_layer=options.start_layer,
    )
    grid = model.grid_of(clips)
    by_layer = [*roll_out(torch.zeros_like(found.direct[0]), found.flow, found.direct)][::-1]
    layers = None
    if options.per_layer:
        pushed = [_by_patch(rows[:, :1], grid) for rows in by_layer]
        layers = torch.cat(pushed[:1] * options.start_layer + pushed, dim=1)
    return _of_classes(found.logits, found.targets, _by_patch(by_layer[0], grid), layers)


def _explain_difference(
    model: TimeSformer, clips: Tensor, options: MethodOptions, targets: Targets | None
) -> Explanation:
    """Trace the difference of logits back to the patches; see `difference`."""
    patch = model.architecture.patch_height, model.architecture.patch_width
    references = fill_of(clips, options.reference, patch).expand_as(clips)
    found = explain_difference(model, clips, references, targets)
    layers = found.layer_relevance if options.per_layer else None
    return _of_classes(found.logits, found.targets, found.relevance, layers)


def _of_classes(
    logits: Tensor, classes: Tensor, relevance: Tensor, layers: Tensor | None
) -> Explanation:
    """Return the maps, `b r t h w`, of classes, `b r`."""
    relevance, classes = relevance.cpu(), classes.cpu()
    return Explanation(
        logits=logits.cpu(),
        targets=classes[:, 0],
        query_relevance=relevance[:, :1],
        target_relevance=relevance,
        target_classes=classes,
        layer_relevance=None if layers is None else layers.cpu(),
    )


def _check_ranges(
    model: TimeSformer, grid: Grid, options: MethodOptions, queries: Sequence[TokenQuery]
) -> None:
    """Raise InvalidRequest if the model has no such layer or patch, or a clip is too large."""
    for name, layer in (("start_layer", options.start_layer), ("layer", options.layer)):
        if layer is not None:
            check_layer(name, layer, model.architecture.depth)
    for query in queries:
        if query != "cls":
            check_patch(query, grid)
    if options.full_rollout:
        check_tokens(grid)


def _targets(
    method: Method,
    target: ClassChoice | Sequence[ClassChoice | Sequence[ClassChoice]] | None,
    b: int,
    classes: int,
) -> Targets | None:
    """Return the classes of each clip, or None for the default of the method."""
    if target is None:
        return None
    try:
        check_option(method, "target")
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    of_clips = [target] * b if isinstance(target, (int, str)) else list(target)
    targets = [[each] if isinstance(each, (int, str)) else list(each) for each in of_clips]
    sizes = {len(of_clip) for of_clip in targets}
    if (
        len(targets) != b
        or not all(_is_class(each, classes) for of_clip in targets for each in of_clip)
        or sizes == {0}
        or len(sizes) > 1
    ):
        raise InvalidRequest(
            f"target is {target}, but there are {b} clips and the model has {classes} classes"
        )
    return targets


def _is_class(choice: ClassChoice, classes: int) -> bool:
    return choice == PREDICTED or (isinstance(choice, int) and 0 <= choice < classes)


def _check_classes(
    model: TimeSformer,
    options: MethodOptions,
    targets: Targets | None,
    against: ClassChoice | None,
    queries: Sequence[TokenQuery],
) -> None:
    """Raise InvalidRequest if the method does not go with the classes or the queries."""
    method, classes = options.method, model.architecture.classes
    if targets is not None and method not in SEVERAL_TARGETS and len(targets[0]) > 1:
        raise InvalidRequest(f"several targets are not for {method}")
    if against is not None:
        if method != "contribution_rollout" or targets is None:
            raise InvalidRequest("against is for contribution_rollout with a target")
        if not _is_class(against, classes):
            raise InvalidRequest(f"against is {against}, but the model has {classes} classes")
        for of_clip in targets:
            check_against(against, of_clip)
    if method == "difference" or (method == "contribution_rollout" and targets is not None):
        if list(queries) != ["cls"]:
            raise InvalidRequest("maps of classes are for the query 'cls'")
        if options.full_rollout:
            raise InvalidRequest("full_rollout is not for maps of classes")


def _last_layer(model: TimeSformer) -> int:
    return model.architecture.depth - 1


def _query_rows(
    queries: Sequence[TokenQuery], groups: Tensor, grid: Grid, first_clip: int
) -> Tensor:
    """Return one row per query, `b r g n`. Only the sizes of `groups`, `b g n n`, are used."""
    b, g = groups.shape[:2]
    patches = groups.new_zeros(b, len(queries), *grid)
    for row, query in enumerate(queries):
        if query != "cls" and 0 <= query.clip - first_clip < b:
            patches[query.clip - first_clip, row, *_place(query)] = 1
    rows = patch_rows(rearrange(patches, "b r t h w -> b r (t h w)"), g=g)
    for row, query in enumerate(queries):
        if query == "cls":
            rows[:, row] = cls_row(groups)[:, 0]
    return rows


def _place(query: PatchQuery) -> Grid:
    return query.frame, query.row, query.column


def _by_patch(rows: Tensor, grid: Grid) -> Tensor:
    """Return the patches of rows, `b r g n`, as `b r t h w`."""
    t, h, w = grid
    return rearrange(patches_of(rows), "b r (t h w) -> b r t h w", t=t, h=h, w=w)


def _by_layer(row: Tensor, flow: Flow, options: MethodOptions) -> Tensor:
    """Return the row, `b 1 g n`, at the input of every layer, `b l g n`."""
    if options.method == "attention":
        layers = (flow.layer(index) for index in range(len(flow.groups)))
        return torch.cat([next(roll_out(row, alone)) for alone in layers], dim=1)
    pushed = [*roll_out(row, flow)][::-1]
    return torch.cat(pushed[:1] * options.start_layer + pushed, dim=1)


def _roll_out_all(flow: Flow, grid: Grid) -> Tensor:
    """Return the rollout of every token, float16 `b n n`, computed in chunks of rows."""
    groups = flow.groups[0]
    b, g = groups.shape[:2]
    every = torch.eye(math.prod(grid), device=groups.device)
    chunks = torch.split(every, FULL_ROLLOUT_ROWS)
    starts = chain([cls_row(groups)], (patch_rows(c.expand(b, -1, -1), g=g) for c in chunks))
    pushed = [
        tokens_of([*roll_out(rows, flow)][-1]).clamp(max=FLOAT16_MAX).half() for rows in starts
    ]
    return torch.cat(pushed, dim=1)
