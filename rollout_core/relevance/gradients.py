"""Class-specific relevance: attention weighed by its gradient.

Source: Chefer, Gur & Wolf 2021, arXiv:2103.15679. For each attention A, A̅ is the mean over heads
of the positive part of A ⊙ ∂y/∂A, where y is the logit of a class; relevance R starts as the
identity, and R ← R + A̅ R. A̅ + I is therefore what rolls out here, and rows are not renormalised.

Every attention counts as one sub-block: time, then space. Divided attention averages the
classification token's update over the frames, so its effective attention to a token of a frame
is a `t`-th of the attention there; A ⊙ ∂y/∂A is the same for both, and is summed over frames.
"""

from collections.abc import Sequence

import torch
from einops import reduce
from torch import Tensor

from rollout_core.model.timesformer import AttentionStep, TimeSformer, watch
from rollout_core.relevance.rollout import Flow


def gradient_flow(
    model: TimeSformer, clips: Tensor, target: Sequence[int] | None, *, start_layer: int = 0
) -> tuple[Flow, Tensor, Tensor]:
    """Run `model`, then carry the gradient of a logit back, layer by layer.

    The forward keeps the tokens that enter each layer; each layer is then run again, and its
    heads become one map as the gradient reaches them. Memory is that of one layer's graph, and of
    the tokens kept.

    Args:
        clips: `b c t H W`.
        target: class of each clip; None for the one predicted.
    Returns:
        The flow from `start_layer` on, logits `b k`, and the targets `b`.
    """
    with torch.inference_mode(False), torch.no_grad():
        inputs = [model.embed(clips)]
        for block in model.layers:
            inputs.append(block(inputs[-1]))
        logits, targets, gradient = _classify(model, inputs.pop(), target)
        flow = Flow()
        for block in reversed(model.layers[start_layer:]):
            tokens = inputs.pop().requires_grad_()
            with torch.enable_grad(), watch([block], lambda step: _collect(step, flow)):
                outputs = block(tokens)
            (gradient,) = torch.autograd.grad(outputs, tokens, gradient)
    flow.groups.reverse()
    flow.time.reverse()
    return flow, logits, targets


def _classify(
    model: TimeSformer, tokens: Tensor, target: Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits `b k`, targets `b`, and the targets' logits' gradient, `b g n c`."""
    tokens.requires_grad_()
    with torch.enable_grad():
        logits = model.classify(tokens)
    targets = logits.argmax(dim=1) if target is None else torch.tensor(target).to(logits.device)
    chosen = torch.zeros_like(logits).scatter(1, targets[:, None], 1)
    (gradient,) = torch.autograd.grad(logits, tokens, chosen)
    return logits.detach(), targets, gradient


def _collect(step: AttentionStep, flow: Flow) -> None:
    """Add an attention's map to `flow` when its gradient is known: the last layer comes first."""
    # A hook that held the attention itself would be held by it in turn, and outlive the layer.
    attention, axis, shares_cls = step.attention.detach(), step.axis, step.shares_cls

    def weigh(gradient: Tensor) -> None:
        positive = (gradient * attention).clamp_(min=0)
        relevance = reduce(positive.float(), "b s head q k -> b s q k", "mean")
        if shares_cls:
            relevance[:, :, 0] *= relevance.shape[1]  # Flow wants its mean over the frames.
        flow.add(axis, relevance + torch.eye(relevance.shape[-1], device=relevance.device))

    step.attention.register_hook(weigh)  # type: ignore[no-untyped-call]
