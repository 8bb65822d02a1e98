"""What each method takes the model's attention for: from a forward to a `Flow`.

rollout               attention, head-fused, and half a skip connection
attention             attention, head-fused, of each layer by itself
gradient_rollout      attention × its gradient; see `gradients`
contribution_rollout  what tokens contribute to one another; see `contributions`
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from einops import reduce
from torch import Tensor

from rollout_core.contract import HeadFusion, Method, Weighting
from rollout_core.model.timesformer import AttentionStep, TimeSformer, watch
from rollout_core.relevance.contributions import contribution_shares
from rollout_core.relevance.gradients import gradient_flow
from rollout_core.relevance.rollout import Flow, add_skip, discard_smallest

Weigh = Callable[[AttentionStep], Tensor]
"""Makes one map of an attention's heads, float32 `b s q k`."""


@dataclass(frozen=True)
class MethodOutput:
    """What a method saw of a batch of clips.

    Attributes:
        flow: from the first layer that takes part to the last.
        logits: `b k`.
        targets: `b`, the class that the flow is of; None for methods that know no class.
    """

    flow: Flow
    logits: Tensor
    targets: Tensor | None = None


def watch_forward(
    model: TimeSformer,
    clips: Tensor,
    *,
    method: Method,
    weighting: Weighting,
    head_fusion: HeadFusion,
    discard_ratio: float,
    start_layer: int,
    target: Sequence[int] | None,
) -> MethodOutput:
    """Run `model` on clips, `b c t H W`, and watch it as the method does."""
    match method:
        case "rollout":
            weigh = partial(_rollout, head_fusion=head_fusion, discard_ratio=discard_ratio)
            return _watch(model, clips, weigh, start_layer)
        case "attention":
            return _watch(model, clips, partial(fuse_heads, head_fusion=head_fusion), 0)
        case "gradient_rollout":
            return MethodOutput(*gradient_flow(model, clips, target, start_layer=start_layer))
        case "contribution_rollout":
            weigh = partial(contribution_shares, weighting=weighting)
            return _watch(model, clips, weigh, start_layer)


def fuse_heads(step: AttentionStep, head_fusion: HeadFusion) -> Tensor:
    """Make one map of an attention's heads, float32 `b s q k`; rows sum to 1 for "mean" only."""
    return reduce(step.attention.float(), "b s head q k -> b s q k", head_fusion)


def _rollout(step: AttentionStep, head_fusion: HeadFusion, discard_ratio: float) -> Tensor:
    return add_skip(discard_smallest(fuse_heads(step, head_fusion), discard_ratio))


def _watch(model: TimeSformer, clips: Tensor, weigh: Weigh, start_layer: int) -> MethodOutput:
    with capture_flow(model, weigh, start_layer=start_layer) as flow:
        logits = model(clips)
    return MethodOutput(flow, logits)


@contextmanager
def capture_flow(model: TimeSformer, weigh: Weigh, *, start_layer: int = 0) -> Iterator[Flow]:
    """Capture one forward of `model`, from `start_layer` on.

    Heads become one map as each layer runs, so all heads of all layers are never held together.
    Maps have no gradient, also where the forward has one.
    """
    flow = Flow()

    @torch.no_grad()
    def keep(step: AttentionStep) -> None:
        flow.add(step.axis, weigh(step))

    with watch(model.layers[start_layer:], keep):
        yield flow
