"""The methods: each runs the model and turns its attention into a `Flow`.

rollout               head-fused attention plus the skip connection; see `rollout`
attention             head-fused attention of each layer by itself
gradient_rollout      attention × its gradient; see `gradients`
contribution_rollout  contribution of each token to each other; see `contributions`, and
                      `class_contributions` for those to the logits of classes
difference            no flow: the secants from a reference to the clip; see `difference`
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange, reduce
from torch import Tensor

from rollout_core.contract import ClassChoice, HeadFusion, MethodOptions, default_weighting
from rollout_core.model.timesformer import AttentionStep, TimeSformer, watch
from rollout_core.relevance.contributions import contribution_shares
from rollout_core.relevance.gradients import gradient_flow
from rollout_core.relevance.rollout import Flow, add_skip, discard_smallest

Combine = Callable[[AttentionStep], Tensor]
"""Combines the heads of one attention into one map, float32 `b s q k`."""


@dataclass(frozen=True)
class MethodOutput:
    """What a method computes for a batch of clips.

    Attributes:
        flow: from the first layer that the method includes to the last layer.
        logits: `b k`.
        targets: `b`, the class that the flow explains; None for methods without a class.
    """

    flow: Flow
    logits: Tensor
    targets: Tensor | None = None


def watch_forward(
    model: TimeSformer,
    clips: Tensor,
    options: MethodOptions,
    target: Sequence[ClassChoice] | None = None,
) -> MethodOutput:
    """Run `model` once and compute the flow of a method for tokens.

    Args:
        clips: `b c t H W`.
        target: class of each clip, for "gradient_rollout". Default: the predicted classes.
    """
    match options.method:
        case "rollout":
            combine = partial(_rollout_map, discard_ratio=options.discard_ratio)
            return _watch(model, clips, combine, options.start_layer, options.head_fusion)
        case "attention":
            return _watch(model, clips, fused_map, 0, options.head_fusion)
        case "gradient_rollout":
            return MethodOutput(
                *gradient_flow(model, clips, target, start_layer=options.start_layer)
            )
        case "contribution_rollout":
            weighting = options.weighting or default_weighting(has_target=False)
            combine = partial(contribution_shares, weighting=weighting)
            return _watch(model, clips, combine, options.start_layer)
        case "difference":
            raise ValueError("difference has no flow")


def fuse_heads(step: AttentionStep, head_fusion: HeadFusion) -> Tensor:
    """Return the mean, maximum or minimum over the heads, float32 `b s q k`.

    Rows sum to 1 for "mean" only.
    """
    return _reduce_heads(step.attention, head_fusion)


def fused_map(step: AttentionStep) -> Tensor:
    """Return the map, `b s q k`, of a step whose heads are fused."""
    return rearrange(step.attention, "b s 1 q k -> b s q k")


@contextmanager
def capture_flow(
    model: TimeSformer,
    combine: Combine,
    *,
    start_layer: int = 0,
    head_fusion: HeadFusion | None = None,
) -> Iterator[Flow]:
    """Capture the flow of one forward, from `start_layer` on.

    Each layer's heads are combined while the layer runs, so that memory never holds the heads of
    all layers at once. The maps have no gradient, even if the forward has one.

    Args:
        head_fusion: fuses the heads before `combine` gets the step, in chunks, so that memory does
            not hold the heads of one layer either.
    """
    flow = Flow()

    @torch.no_grad()
    def keep(step: AttentionStep) -> None:
        flow.add(step.axis, combine(step))

    fuse = None if head_fusion is None else partial(_reduce_heads, head_fusion=head_fusion)
    with watch(model.layers[start_layer:], keep, fuse=fuse):
        yield flow


def _reduce_heads(attention: Tensor, head_fusion: HeadFusion) -> Tensor:
    """Reduce `... head q k` to float32 `... q k`."""
    return reduce(attention.float(), "... head q k -> ... q k", head_fusion)


def _rollout_map(step: AttentionStep, discard_ratio: float) -> Tensor:
    return add_skip(discard_smallest(fused_map(step), discard_ratio))


def _watch(
    model: TimeSformer,
    clips: Tensor,
    combine: Combine,
    start_layer: int,
    head_fusion: HeadFusion | None = None,
) -> MethodOutput:
    with capture_flow(model, combine, start_layer=start_layer, head_fusion=head_fusion) as flow:
        logits = model(clips)
    return MethodOutput(flow, logits)
