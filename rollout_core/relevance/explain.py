"""Clips, a model and a method in; relevance and logits out."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from numpy.typing import NDArray
from torch import Tensor

from rollout_core.contract import (
    HeadFusion,
    Method,
    PatchQuery,
    TokenQuery,
    Weighting,
    check_method,
)
from rollout_core.errors import InvalidRequest
from rollout_core.model.specs import ModelSpec
from rollout_core.model.timesformer import TimeSformer
from rollout_core.relevance.methods import watch_forward
from rollout_core.relevance.rollout import (
    Flow,
    cls_row,
    frame_rows,
    patch_rows,
    patches_of,
    roll_out,
    tokens_of,
)
from rollout_core.resolve import check_layer, check_patch, check_tokens

Grid = tuple[int, int, int]
"""Patches of a clip, `(t, h, w)`."""

HALF_MAX = torch.finfo(torch.float16).max

FULL_ROLLOUT_ROWS = 256
"""Rows of a full rollout that are pushed back together."""


@dataclass(frozen=True)
class Explanation:
    """What the model said of each clip, and what it looked at. Tensors are on the CPU.

    Relevance is not normalised further. For "rollout" and "contribution_rollout" a query is worth
    1 in all: what its patches lack, the classification token keeps. "attention" is that of one
    layer as it is. "gradient_rollout" adds to the 1 that a query is worth to itself, without a
    bound.

    Attributes:
        logits: `b k`, float32.
        targets: `b`, int64: the class that relevance is of; None for methods that know no class.
        query_relevance: `b r t h w`, float32: for each query, each patch's share.
        temporal_rollout: `b t t`, float32: row t is the relevance, summed in each frame, of a query
            spread evenly over the patches of frame t.
        layer_relevance: `b l t h w`, float32: for the first query, relevance of the tokens that
            enter layer l, the same for all up to `start_layer`; of "attention", that of layer l.
        full_rollout: `b n n`, float16: row by query, column by input token: the classification
            token, then the patches, `(t h w)`.
    """

    logits: Tensor
    targets: Tensor | None
    query_relevance: Tensor
    temporal_rollout: Tensor
    layer_relevance: Tensor | None = None
    full_rollout: Tensor | None = None

    @property
    def relevance(self) -> Tensor:
        """That of the first query, `b t h w`."""
        return self.query_relevance[:, 0]

    @property
    def frame_relevance(self) -> Tensor:
        """Each frame's share of `relevance`, `b t`: sums to 1, or to 0 where there is none."""
        by_frame = self.relevance.sum((2, 3))  # b t
        return by_frame / by_frame.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what there is, by name, for those who do without torch."""
        return {name: part.numpy() for name, part in vars(self).items() if part is not None}


@torch.no_grad()
def explain_clips(
    model: TimeSformer,
    clips: Tensor,
    *,
    method: Method = "rollout",
    weighting: Weighting = "projection",
    head_fusion: HeadFusion = "mean",
    discard_ratio: float = 0.0,
    start_layer: int = 0,
    layer: int | None = None,
    target: int | Sequence[int] | None = None,
    queries: Sequence[TokenQuery] | None = None,
    first_clip: int = 0,
    per_layer: bool = False,
    full_rollout: bool = False,
) -> Explanation:
    """Run `model` on a batch of clips, and find what each queried token is made of.

    Args:
        clips: `b c t H W`, normalised, on the model's device and in its dtype.
        method: `contract.check_method` says which of the other arguments go with it.
        weighting: see `contributions`.
        head_fusion: how the heads of a layer become one map.
        discard_ratio: see `rollout.discard_smallest`.
        start_layer: first layer that takes part.
        layer: the layer that "attention" shows; default: the last.
        target: class, for all clips or one a clip; default: the one predicted for each.
        queries: default: the classification token. A query of another clip has no relevance.
        first_clip: index of the first of `clips` in its video, from which queries count.
        per_layer: also find `layer_relevance`.
        full_rollout: also find that of every token; up to `FULL_ROLLOUT_TOKENS` a clip.
    Raises:
        InvalidRequest: a parameter is out of its range for this model, or for this method.
    """
    with _as_invalid_request():
        check_method(
            method,
            weighting=weighting,
            head_fusion=head_fusion,
            discard_ratio=discard_ratio,
            start_layer=start_layer,
            layer=layer,
            full_rollout=full_rollout,
            target=target,
        )
    grid, queries = model.grid_of(clips), queries or ("cls",)
    _check_ranges(
        model, grid, queries, discard_ratio=discard_ratio, layers=(start_layer, layer or 0)
    )
    if full_rollout:
        check_tokens(grid)
    seen = watch_forward(
        model,
        clips,
        method=method,
        weighting=weighting,
        head_fusion=head_fusion,
        discard_ratio=discard_ratio,
        start_layer=start_layer,
        target=_targets(target, len(clips), model.architecture.classes),
    )
    flow = seen.flow
    if method == "attention":
        flow = flow.layer(model.architecture.depth - 1 if layer is None else layer)
    asked = _query_rows(queries, flow.groups[0], grid, first_clip)
    frames = frame_rows(flow.groups[0], t=grid[0])
    *_, rows = roll_out(torch.cat([asked, frames], dim=1), flow)
    of_queries, of_frames = torch.split(_by_patch(rows, grid), [len(queries), grid[0]], dim=1)
    by_layer = None
    if per_layer and method == "attention":
        by_layer = _through_each_layer(asked[:, :1], seen.flow)
    elif per_layer:
        by_layer = _entering_each_layer(asked[:, :1], flow, start_layer)
    return Explanation(
        logits=seen.logits.float().cpu(),
        targets=None if seen.targets is None else seen.targets.cpu(),
        query_relevance=of_queries.cpu(),
        temporal_rollout=reduce(of_frames, "b q t h w -> b q t", "sum").cpu(),
        layer_relevance=None if by_layer is None else _by_patch(by_layer, grid).cpu(),
        full_rollout=_roll_out_all(flow, grid).cpu() if full_rollout else None,
    )


def _check_ranges(
    model: TimeSformer,
    grid: Grid,
    queries: Sequence[TokenQuery],
    *,
    discard_ratio: float,
    layers: tuple[int, int],
) -> None:
    """Refuse what this model does not have; `layers` are `start_layer` and `layer`."""
    if not 0 <= discard_ratio < 1:
        raise InvalidRequest(f"discard_ratio is {discard_ratio}, not from 0 to below 1")
    for name, layer in zip(("start_layer", "layer"), layers, strict=True):
        check_layer(name, layer, model.architecture.depth)
    for query in queries:
        if query != "cls":
            check_patch(query, grid)


@contextmanager
def _as_invalid_request() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InvalidRequest(str(error)) from error


def _targets(target: int | Sequence[int] | None, b: int, classes: int) -> list[int] | None:
    """Return a class for each clip, or None for those predicted."""
    if target is None:
        return None
    targets = [target] * b if isinstance(target, int) else list(target)
    if len(targets) != b or not all(0 <= index < classes for index in targets):
        raise InvalidRequest(f"target is {target}, but there are {b} clips, {classes} classes")
    return targets


def _query_rows(
    queries: Sequence[TokenQuery], groups: Tensor, grid: Grid, first_clip: int
) -> Tensor:
    """Return a row for each query, `b r g n`; `groups`, `b g n n`, is there for its sizes."""
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
    """Return the patches' part of rows, `b r g n`, as `b r t h w`."""
    t, h, w = grid
    return rearrange(patches_of(rows), "b r (t h w) -> b r t h w", t=t, h=h, w=w)


def _entering_each_layer(row: Tensor, flow: Flow, start_layer: int) -> Tensor:
    """Return a row, `b 1 g n`, as pushed to the input of every layer, `b l g n`."""
    pushed = [*roll_out(row, flow)][::-1]
    return torch.cat(pushed[:1] * start_layer + pushed, dim=1)


def _through_each_layer(row: Tensor, flow: Flow) -> Tensor:
    """Return a row, `b 1 g n`, as pushed through each layer by itself, `b l g n`."""
    layers = (flow.layer(index) for index in range(len(flow.groups)))
    return torch.cat([next(roll_out(row, alone)) for alone in layers], dim=1)


def _roll_out_all(flow: Flow, grid: Grid) -> Tensor:
    """Return every token's rollout, float16 `b n n`, some rows at a time."""
    groups = flow.groups[0]
    b, g = groups.shape[:2]
    every = torch.eye(math.prod(grid), device=groups.device)
    chunks = torch.split(every, FULL_ROLLOUT_ROWS)
    starts = chain([cls_row(groups)], (patch_rows(c.expand(b, -1, -1), g=g) for c in chunks))
    pushed = [tokens_of([*roll_out(rows, flow)][-1]).clamp(max=HALF_MAX).half() for rows in starts]
    return torch.cat(pushed, dim=1)


def prepare_clips(
    frames: np.ndarray, spec: ModelSpec, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Turn decoded frames into a model's input.

    Args:
        frames: `b t H W c`, uint8, RGB, at the model's size.
        spec: tells the channel order, the mean and the standard deviation.
    Returns:
        `b c t H W`, normalised.
    """
    clips = rearrange(torch.from_numpy(frames).to(device), "b t H W c -> b c t H W").float() / 255
    if spec.channel_order == "BGR":
        clips = clips.flip(1)
    return normalize(clips, spec).to(dtype)


def normalize(clips: Tensor, spec: ModelSpec) -> Tensor:
    """Shift and scale clips, `b c t H W` from 0 to 1, as the model was trained."""
    mean, std = (
        rearrange(torch.tensor(values, device=clips.device), "c -> c 1 1 1")
        for values in (spec.mean, spec.std)
    )
    return (clips - mean) / std
