"""Contributions: the share of each input token in each output token of an attention.

The output of token i is a sum over tokens j: y_i = Σ_j T_ij. T_ij is the attention of i to j times
the values of j, summed over heads after the output projections. T_ii also includes the residual and
the biases of the projections. Attention alone ignores the length and the direction of these
vectors, and how much the skip connection carries. The share of j in y_i is one of:

    projection  ⟨T_ij, y_i⟩ / ‖y_i‖², the projection of T_ij onto the output. The shares sum to
                exactly 1. With z_i = Wᵀ y_i this is Σ_heads α_ij ⟨z_i, v_j⟩ / ‖y_i‖², which
                costs no more than attention scores.
    deviation   the same for deviations from the mean token. x̄ and v̄ are the means of x and v over
                all tokens of the clip, where each copy of the classification token counts.
                T_ij becomes α_ij W (v_j − v̄), the residual x_i − x̄, and y_i is reduced by
                x̄ + W v̄ and the biases. Softmax rows sum to 1, so W v̄ does not depend on the
                attention, and the shares again sum to exactly 1.

Negative shares are set to 0, and the rows renormalised. The MLP processes each token separately,
so it moves nothing between tokens.
"""

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from rollout_core.contract import Weighting
from rollout_core.model.timesformer import AttentionStep, average_cls


def contribution_shares(step: AttentionStep, weighting: Weighting) -> Tensor:
    """Return the share of each input token in each output token, float32 `b s q k`.

    Shares are not negative and rows sum to 1. If the classification token is shared, the mean of
    its rows over the sequences sums to 1. If no token contributes to an output, its own share is 1.
    """
    return positive_shares(raw_shares(step, weighting), shares_cls=step.shares_cls)


def positive_shares(raw: Tensor, *, shares_cls: bool) -> Tensor:
    """Set negative shares, `b s q k`, to 0 and renormalise the rows; see `contribution_shares`."""
    raw = raw.clamp(min=0)
    total = raw.sum(dim=-1, keepdim=True)
    if shares_cls:
        total = average_cls(total)
    own = torch.eye(raw.shape[-1], device=raw.device)
    return torch.where(total > 0, raw / total, own)


def raw_shares(step: AttentionStep, weighting: Weighting) -> Tensor:
    """Return the shares, float32 `b s q k`, before clamping and renormalising.

    A shared classification token has one row in each sequence; its row is their mean.
    """
    return _projection(_Parts(step, from_mean=weighting == "deviation"))


class _Parts:
    """The factors of T_ij in float32; with `from_mean`, as deviations from the mean token."""

    def __init__(self, step: AttentionStep, *, from_mean: bool = False) -> None:
        self.attention = step.attention.float()  # b s head q k
        self.values = step.values.float()  # b s head k d
        self.outputs = step.outputs.float().contiguous()  # b s q c
        self.weight, bias = _joined(step.projections)
        self.residual = step.inputs.float() + bias  # b s q c
        self.shares_cls = step.shares_cls
        if from_mean:
            inputs = reduce(self.residual, "b s q c -> b 1 1 c", "mean")
            values = reduce(self.values, "b s head k d -> b 1 head 1 d", "mean")
            moved = rearrange(values, "b 1 head 1 d -> b 1 1 (head d)") @ self.weight.T
            self.residual = self.residual - inputs
            self.values = self.values - values
            self.outputs = self.outputs - inputs - moved

    def of_tokens(self, updates: Tensor) -> Tensor:
        """Average the updates, `b s q c`, of a shared classification token over the sequences."""
        return average_cls(updates) if self.shares_cls else updates


def _joined(projections: tuple[nn.Linear, ...]) -> tuple[Tensor, Tensor]:
    """Return the weight, `c c`, and the bias, `c`, of the composed projections."""
    first, *then = projections
    weight, bias = first.weight.float(), first.bias.float()
    for layer in then:
        weight = layer.weight.float() @ weight
        bias = layer.weight.float() @ bias + layer.bias.float()
    return weight, bias


def _projection(parts: _Parts) -> Tensor:
    """Return ⟨T_ij, y_i⟩ / ‖y_i‖², computed as attention scores with z_i = Wᵀ y_i."""
    y = parts.outputs
    heads = parts.values.shape[2]
    z = rearrange(y @ parts.weight, "b s q (head d) -> b s head q d", head=heads)
    scores = z @ parts.values.transpose(-2, -1)
    moved = reduce(scores.mul_(parts.attention), "b s head q k -> b s q k", "sum")
    own = rearrange(moved.diagonal(dim1=-2, dim2=-1), "b s q -> b s q 1")
    residual = reduce(parts.residual * y, "b s q c -> b s q 1", "sum")
    shares = _with_own(moved, parts.of_tokens(own) + residual)
    return shares / reduce(y.square(), "b s q c -> b s q 1", "sum")


def _with_own(shares: Tensor, own: Tensor) -> Tensor:
    """Put `own`, `b s q 1`, on the diagonal of `b s q k`."""
    diagonal = torch.eye(shares.shape[-1], dtype=torch.bool, device=shares.device)
    return torch.where(diagonal, own, shares)
