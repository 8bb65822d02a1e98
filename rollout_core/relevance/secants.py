"""Secants: how each operation of the model passes the difference of two inputs on, exactly.

A derivative tells how an output changes for an infinitely small change of the input. Here the
change is finite: from a reference to a clip. For each operation y = f(x) this module gives a linear
map S that depends on both inputs, such that f(x) − f(x′) = S (x − x′) exactly. Where both inputs
are equal, S is the derivative. Source of the idea: DeepLIFT, Shrikumar et al. 2017,
arXiv:1704.02685; the rules for layer norm and softmax are ours.

With D the difference of both inputs, a bar for their mean, and a prime for the reference:

    linear      Dy = W Dx
    product     D(a b) = ā Db + Da b̄
    layer norm  c = x − mean x, v = mean c² + eps, q = 1 / √v:
                Dv = mean (2 c̄ Dc), Dq = −q q′ Dv / (√v + √v′), Dy = γ (q̄ Dc + c̄ Dq)
    GELU        Dy = (y − y′) / (x − x′) Dx
    softmax     DA_j = L_j (Ds_j − Σ L Ds / Σ L), where L_j is the logarithmic mean of A_j and A′_j:
                ln A_j − ln A′_j = Ds_j − D ln Σ exp s, and the DA_j sum to 0

Every function takes a pair, of which the first half along axis 0 belongs to the clips and the
second to the references, and returns the outputs with a `Pull`. All values are float32.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from rollout_core.model.timesformer import Attention

Pull = Callable[[Tensor], Tensor]
"""Transposed secant: from multipliers of the outputs to those of the inputs.

A multiplier is the change of the logit for each unit of change. Multipliers have no reference half,
and may have more axes in front, such as one for several logits.
"""

SAME = 1e-3
"""Inputs of a GELU that differ by less have the derivative between them for a secant."""

SERIES_BELOW = 1.0
"""Logarithms that differ by less have the logarithmic mean by its series."""


def linear(layer: nn.Linear, pair: Tensor) -> tuple[Tensor, Pull]:
    """Apply a linear layer to `... c`."""
    weight = layer.weight.float()
    bias = None if layer.bias is None else layer.bias.float()
    return F.linear(pair, weight, bias), lambda multipliers: multipliers @ weight


def layer_norm(norm: nn.LayerNorm, pair: Tensor) -> tuple[Tensor, Pull]:
    """Normalise `... c` over its channels."""
    gain, bias = norm.weight.float(), norm.bias.float()
    centred = pair - pair.mean(dim=-1, keepdim=True)
    deviation = (centred.square().mean(dim=-1, keepdim=True) + norm.eps).sqrt()
    outputs = centred / deviation * gain + bias

    def pull(multipliers: Tensor) -> Tensor:
        (d, d_ref), middle = deviation.chunk(2), mean(centred)
        scaled = multipliers * gain
        along = (scaled * middle).mean(dim=-1, keepdim=True) * 2 / (d * d_ref * (d + d_ref))
        of_centred = scaled * (1 / d + 1 / d_ref) / 2 - middle * along
        return of_centred - of_centred.mean(dim=-1, keepdim=True)

    return outputs, pull


def gelu(pair: Tensor) -> tuple[Tensor, Pull]:
    """Apply the GELU to each value."""
    outputs = F.gelu(pair)

    def pull(multipliers: Tensor) -> Tensor:
        change, middle = difference(pair), mean(pair)
        is_same = change.abs() < SAME
        secant = difference(outputs) / change.masked_fill(is_same, 1)
        return multipliers * torch.where(is_same, _gelu_derivative(middle), secant)

    return outputs, pull


def attention(module: Attention, pair: Tensor) -> tuple[Tensor, Pull]:
    """Attend within each of the `s` sequences of `b s n c`, both projections included."""
    joined, pull_qkv = linear(module.qkv, pair)
    pattern = "b s n (three head c) -> three b s head n c"
    q, k, v = rearrange(joined, pattern, three=3, head=module.heads)
    scale = q.shape[-1] ** -0.5
    logs = (scale * q @ k.transpose(-2, -1)).log_softmax(dim=-1)
    softmax = logs.exp()
    mixed = rearrange(softmax @ v, "b s head q c -> b s q (head c)")
    outputs, pull_proj = linear(module.proj, mixed)

    def pull(multipliers: Tensor) -> Tensor:
        of_mixed = rearrange(
            pull_proj(multipliers), "... q (head c) -> ... head q c", head=module.heads
        )
        of_v = mean(softmax).transpose(-2, -1) @ of_mixed
        of_softmax = of_mixed @ mean(v).transpose(-2, -1)
        weight = logarithmic_mean(softmax, logs)
        centre = (of_softmax * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)
        of_scores = scale * weight * (of_softmax - centre)
        of_q, of_k = of_scores @ mean(k), of_scores.transpose(-2, -1) @ mean(q)
        parts = torch.stack([of_q, of_k, of_v])
        return pull_qkv(rearrange(parts, "three ... head n c -> ... n (three head c)"))

    return outputs, pull


def logarithmic_mean(pair: Tensor, logs: Tensor) -> Tensor:
    """Return (a − a′) / (ln a − ln a′) for positive values; where they are equal, their value.

    Args:
        logs: the logarithms of `pair`.
    """
    change = difference(logs)
    is_near = change.abs() < SERIES_BELOW
    # With d = ln a − ln a′, the mean is √(a a′) sinh(d/2) / (d/2).
    square = (change / 2).square()
    series = 1 + square / 6 * (1 + square / 20 * (1 + square / 42 * (1 + square / 72)))
    near = mean(logs).exp() * series
    return torch.where(is_near, near, difference(pair) / change.masked_fill(is_near, 1))


def difference(pair: Tensor) -> Tensor:
    """Return clips minus references."""
    ours, reference = pair.chunk(2)
    return ours - reference


def mean(pair: Tensor) -> Tensor:
    """Return the mean of clips and references."""
    ours, reference = pair.chunk(2)
    return (ours + reference) / 2


def _gelu_derivative(x: Tensor) -> Tensor:
    cumulative = (1 + torch.erf(x / math.sqrt(2))) / 2
    return cumulative + x * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
