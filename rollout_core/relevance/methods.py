"""The methods: each runs the model and turns its attention into a `Flow`.

rollout               head-fused attention plus the skip connection; see `rollout`
attention             head-fused attention of each layer by itself
gradient_rollout      attention × its gradient; see `gradients`
contribution_rollout  contribution of each token to each other; see `contributions`
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from einops import reduce
from torch import Tensor

from rollout_core.contract import HeadFusion, MethodOptions
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
    target: Sequence[int] | None = None,
) -> MethodOutput:
    """Run `model` once and compute the flow of the method.

    Args:
        clips: `b c t H W`.
        target: class of each clip, for "gradient_rollout". Default: the predicted classes.
    """
    match options.method:
        case "rollout":
            return _watch(model, clips, partial(_rollout_map, options=options), options.start_layer)
        case "attention":
            return _watch(model, clips, partial(fuse_heads, head_fusion=options.head_fusion), 0)
        case "gradient_rollout":
            return MethodOutput(
                *gradient_flow(model, clips, target, start_layer=options.start_layer)
            )
        case "contribution_rollout":
            combine = partial(contribution_shares, weighting=options.weighting)
            return _watch(model, clips, combine, options.start_layer)


def fuse_heads(step: AttentionStep, head_fusion: HeadFusion) -> Tensor:
    """Return the mean, maximum or minimum over the heads, float32 `b s q k`.

    Rows sum to 1 for "mean" only.
    """
    return reduce(step.attention.float(), "b s head q k -> b s q k", head_fusion)


@contextmanager
def capture_flow(model: TimeSformer, combine: Combine, *, start_layer: int = 0) -> Iterator[Flow]:
    """Capture the flow of one forward, from `start_layer` on.

    Each layer's heads are combined while the layer runs, so that memory never holds the heads of
    all layers at once. The maps have no gradient, even if the forward has one.
    """
    flow = Flow()

    @torch.no_grad()
    def keep(step: AttentionStep) -> None:
        flow.add(step.axis, combine(step))

    with watch(model.layers[start_layer:], keep):
        yield flow


def _rollout_map(step: AttentionStep, options: MethodOptions) -> Tensor:
    fused = fuse_heads(step, options.head_fusion)
    return add_skip(discard_smallest(fused, options.discard_ratio))


def _watch(model: TimeSformer, clips: Tensor, combine: Combine, start_layer: int) -> MethodOutput:
    with capture_flow(model, combine, start_layer=start_layer) as flow:
        logits = model(clips)
    return MethodOutput(flow, logits)
