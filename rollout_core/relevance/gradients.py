"""Class-specific relevance: attention weighted by its gradient.

Source: Chefer, Gur & Wolf 2021, arXiv:2103.15679. For each attention A, A̅ is the mean over heads
of the positive part of A ⊙ ∂y/∂A, where y is the logit of a class. Relevance R starts as the
identity and is updated by R ← R + A̅ R. The maps that are rolled out are therefore A̅ + I, and their
rows are not renormalised.

Time attention and space attention are separate steps. Divided attention averages the
classification token's update over the `t` frames, so its effective attention to a token of one
frame is 1/t of the attention within that frame. A ⊙ ∂y/∂A is the same for both and is summed over
the frames.
"""

from collections.abc import Sequence

import torch
from einops import reduce
from torch import Tensor

from rollout_core.contract import ClassChoice
from rollout_core.model.timesformer import AttentionStep, TimeSformer, watch
from rollout_core.relevance.rollout import Flow
from rollout_core.relevance.targets import choose_classes


def gradient_flow(
    model: TimeSformer, clips: Tensor, target: Sequence[ClassChoice] | None, *, start_layer: int = 0
) -> tuple[Flow, Tensor, Tensor]:
    """Run `model`, then propagate the gradient of a logit back layer by layer.

    The forward keeps only the input tokens of each layer. Each layer is then run again with
    a graph, and its heads are fused when the gradient reaches them. Memory holds the kept tokens
    and the graph of one layer.

    Args:
        clips: `b c t H W`.
        target: class of each clip; None for the predicted classes.
    Returns:
        The flow from `start_layer` on, the logits `b k`, and the targets, int64 `b`.
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
    model: TimeSformer, tokens: Tensor, target: Sequence[ClassChoice] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits `b k`, targets `b`, and the gradient, `b g n c`, of the targets' logits."""
    tokens.requires_grad_()
    with torch.enable_grad():
        logits = model.classify(tokens)
    targets = choose_classes(None if target is None else [[each] for each in target], logits)[:, 0]
    chosen = torch.zeros_like(logits).scatter(1, targets[:, None], 1)
    (gradient,) = torch.autograd.grad(logits, tokens, chosen)
    return logits.detach(), targets, gradient


def _collect(step: AttentionStep, flow: Flow) -> None:
    """Add the step's map to `flow` when its gradient is computed: the last layer comes first."""
    # A hook that refers to the attention itself would form a reference cycle and keep it alive.
    attention, axis, shares_cls = step.attention.detach(), step.axis, step.shares_cls

    def weight_and_add(gradient: Tensor) -> None:
        positive = (gradient * attention).clamp_(min=0)
        relevance = reduce(positive.float(), "b s head q k -> b s q k", "mean")
        if shares_cls:
            relevance[:, :, 0] *= relevance.shape[1]  # the flow takes the mean over frames
        flow.add(axis, relevance + torch.eye(relevance.shape[-1], device=relevance.device))

    step.attention.register_hook(weight_and_add)  # type: ignore[no-untyped-call]
