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
    alti        ‖y_i‖₁ − ‖y_i − T_ij‖₁, by how much T_ij reduces the distance to the output.
                Source: Ferrando, Gállego & Costa-jussà 2022, arXiv:2203.04212.
    l2          ‖T_ij‖₂, whatever its direction. Source: Kobayashi et al. 2020, arXiv:2004.10102,
                and 2021, arXiv:2109.07152, for the residual.

Negative shares are set to 0, and the rows renormalised. The MLP processes each token separately,
so it moves nothing between tokens.
"""

from collections.abc import Iterator

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from rollout_core.contract import Weighting
from rollout_core.model.timesformer import AttentionStep, average_cls

CPU_CHUNK, GPU_CHUNK = 1 << 18, 1 << 24
"""Number of elements of T held in memory at once. On a CPU they fit a core's cache; on a GPU they
are half the elements of T in one layer of the base model for one clip."""


def contribution_shares(step: AttentionStep, weighting: Weighting) -> Tensor:
    """Return the share of each input token in each output token, float32 `b s q k`.

    Shares are not negative and rows sum to 1. If the classification token is shared, the mean of
    its rows over the sequences sums to 1. If no token contributes to an output, its own share is 1.
    """
    raw = raw_shares(step, weighting).clamp(min=0)
    total = raw.sum(dim=-1, keepdim=True)
    if step.shares_cls:
        total = average_cls(total)
    own = torch.eye(raw.shape[-1], device=raw.device)
    return torch.where(total > 0, raw / total, own)


def raw_shares(step: AttentionStep, weighting: Weighting) -> Tensor:
    """Return the shares, float32 `b s q k`, before clamping and renormalising.

    A shared classification token has one row in each sequence; its row is their mean.
    """
    match weighting:
        case "projection":
            return _projection(_Parts(step))
        case "deviation":
            return _projection(_Parts(step, from_mean=True))
        case "alti":
            return _alti(_Parts(step))
        case "l2":
            return _l2(_Parts(step))


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

    def own(self) -> Tensor:
        """Return T_ii, `b s q c`."""
        diagonal = self.attention.diagonal(dim1=-2, dim2=-1)  # b s head q
        values = rearrange(diagonal[..., None] * self.values, "b s head q d -> b s q (head d)")
        moved = values @ self.weight.T
        return self.of_tokens(moved) + self.residual

    def of_tokens(self, updates: Tensor) -> Tensor:
        """Average the updates, `b s q c`, of a shared classification token over the sequences."""
        return average_cls(updates) if self.shares_cls else updates

    def projected(self, sequences: slice) -> Tensor:
        """Return W times each head's values, `s k head c`, for some of the `(b s)` sequences."""
        values = rearrange(self.values, "b s head k d -> (b s) k head d")[sequences]
        s, k, heads, d = values.shape
        out = values.new_empty(s * k, heads, heads * d)
        for head, weight in enumerate(torch.split(self.weight, d, dim=1)):
            # Written in place: the result is too large to be copied into order afterwards.
            torch.mm(values[:, :, head].reshape(s * k, d), weight.T, out=out[:, head])
        return rearrange(out, "(s k) head c -> s k head c", s=s)


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


def _l2(parts: _Parts) -> Tensor:
    """Return ‖T_ij‖₂: ‖Σ_heads α W v‖² = α (vᵀ Wᵀ W v) α, where the bracket is equal for all q."""
    b, s, _, _, d = parts.values.shape
    gram = parts.weight.T @ parts.weight
    values = rearrange(parts.values, "b s head k d -> (b s k) head d")
    inner = values.new_zeros(len(values), *values.shape[1:2] * 2)  # n g h
    for g, rows in enumerate(torch.split(gram, d)):
        # The product of each pair of heads is computed once and counted twice.
        moved = rearrange(values[:, g] @ rows[:, g * d :], "n (h d) -> n h d", d=d)
        inner[:, g, g:] = 2 * reduce(moved * values[:, g:], "n h d -> n h", "sum")
        inner[:, g, g] /= 2
    inner = rearrange(inner, "(b s k) g h -> b s k g h", b=b, s=s)
    attention = rearrange(parts.attention, "b s head q k -> b s k q head")
    squares = reduce((attention @ inner) * attention, "b s k q head -> b s q k", "sum")
    own = torch.linalg.vector_norm(parts.own(), dim=-1, keepdim=True)
    return _with_own(squares.clamp(min=0).sqrt(), own)


def _alti(parts: _Parts) -> Tensor:
    """Return ‖y_i‖₁ − ‖y_i − T_ij‖₁, in chunks of sequences and keys."""
    b, s, heads, k, d = parts.values.shape
    # One sequence contributes 1/s of its vector to the mean over `s` sequences, and the token's
    # share is the sum over these `s` parts.
    scale = torch.ones(k, 1, device=parts.values.device)  # q 1
    scale[0] = s if parts.shares_cls else 1
    attention = rearrange(parts.attention / scale, "b s head q k -> (b s) k q head")
    outputs = rearrange(parts.outputs, "b s q c -> (b s) 1 q c")
    elements = CPU_CHUNK if outputs.device.type == "cpu" else GPU_CHUNK
    distance = torch.empty(b * s, k, k, device=outputs.device)  # (b s) k q
    for sequences in _slices(b * s, elements // (k * k * heads * d)):
        projected = parts.projected(sequences)
        for keys in _slices(k, elements // (k * heads * d * len(projected))):
            vectors = attention[sequences, keys] @ projected[:, keys]  # s k q c
            vectors.sub_(outputs[sequences])
            distance[sequences, keys] = vectors.abs_().sum(dim=-1)
    y = parts.outputs
    length = reduce(y.abs(), "b s q c -> b s q 1", "sum")
    own = length - reduce((y - parts.own()).abs(), "b s q c -> b s q 1", "sum")
    nearer = length - rearrange(distance, "(b s) k q -> b s q k", b=b)
    return _with_own(scale * nearer, own)


def _slices(count: int, size: int) -> Iterator[slice]:
    """Return slices of at most `size` elements, at least 1, that cover `count` elements."""
    size = max(1, size)
    return (slice(start, start + size) for start in range(0, count, size))


def _with_own(shares: Tensor, own: Tensor) -> Tensor:
    """Put `own`, `b s q 1`, on the diagonal of `b s q k`."""
    diagonal = torch.eye(shares.shape[-1], dtype=torch.bool, device=shares.device)
    return torch.where(diagonal, own, shares)
