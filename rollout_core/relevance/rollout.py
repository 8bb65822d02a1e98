"""Rollout: the share of each input token in a token's output.

Source: Abnar & Zuidema 2020, arXiv:2005.00928. Time and space attention are combined as usual for
divided attention: a layer maps patch p of frame q to patch i of frame j by
W[i, j, p, q] = S[i, j, p] T[p, j, q], where S attends within frame j and T within location p.

The dense (1 + p t)² product of the layers is never formed. Only some of its rows are needed, so
these rows are multiplied by each attention in turn, from the last layer to the first. The result
is the same at a cost of O(t p² + p t²) per row and layer instead of O((p t)³).

Rows have the shape `b r g n`: `r` rows per clip over `g` groups of `n` tokens, grouped like the
model's tokens. Token 0 of each group is a copy of the classification token, whose relevance is
the sum over its copies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from rollout_core.model.timesformer import Axis


@dataclass(frozen=True)
class Flow:
    """The share of each input token in each output token, for every attention, first layer first.

    Maps are not negative. They include the skip connection except for the raw attention method,
    and their rows sum to 1 for rollout and contributions. For divided attention, the
    classification token's row is the mean of its rows in all frames.

    Attributes:
        groups: one `b g n n` per layer: within each frame for divided and space-only attention
            (`g = t`, `n = 1 + p`), among all tokens for joint attention (`g = 1`, `n = 1 + t p`).
        time: one `b p t t` per layer for divided attention; empty for the others.
    """

    groups: list[Tensor] = field(default_factory=list)
    time: list[Tensor] = field(default_factory=list)

    def add(self, axis: Axis, shares: Tensor) -> None:
        """Append the map, `b s q k`, of an attention along an axis."""
        (self.time if axis == "time" else self.groups).append(shares)

    def layer(self, index: int) -> "Flow":
        """Return the flow of a single layer."""
        return Flow(self.groups[index : index + 1], self.time[index : index + 1])


def roll_out(rows: Tensor, flow: Flow, direct: Sequence[Tensor] = ()) -> Iterator[Tensor]:
    """Propagate rows, `b r g n`, back from the last layer to the first.

    The classification token takes no part in time attention. In divided attention, its relevance
    is divided evenly among the frames before each space attention.

    Args:
        direct: for each layer, rows `b r g n` that join where tokens enter the attention within
            groups. Default: none.
    Yields:
        `b r g n` at the input of each layer, the last layer first.
    """
    layers = zip_longest(reversed(flow.groups), reversed(flow.time), reversed(direct))
    for groups, time, joining in layers:
        rows = push(rows, groups)
        if joining is not None:
            rows = rows + joining
        if time is not None:
            cls, patches = rows[..., :1], rearrange(rows[..., 1:], "b r t p -> b r p t")
            patches = rearrange(push(patches, time), "b r p t -> b r t p")
            cls = reduce(cls, "b r t 1 -> b r 1 1", "mean").expand_as(cls)
            rows = torch.cat([cls, patches], dim=-1)
        yield rows


def push(rows: Tensor, shares: Tensor) -> Tensor:
    """Propagate relevance of output tokens, `b r s q`, to input tokens, `b r s k`.

    Args:
        shares: `b s q k`. If its rows sum to 1, the sum of each row of `rows` is kept.
    """
    # In any other memory layout, PyTorch multiplies the sequences one by one.
    by_sequence = rearrange(rows, "b r s q -> b s r q").contiguous()
    return rearrange(by_sequence @ shares, "b s r k -> b r s k")


def add_skip(attention: Tensor) -> Tensor:
    """Model the skip connection as the identity, weighted like the attention.

    Args:
        attention: `... q k`, not negative.
    Returns:
        `... q k`: A + I with its rows scaled to sum to 1; (A + I) / 2 if the rows of A sum to 1.
    """
    scale = 1 / (1 + attention.sum(dim=-1, keepdim=True))
    shares = attention * scale
    shares.diagonal(dim1=-2, dim2=-1).add_(scale[..., 0])
    return shares


def discard_smallest(attention: Tensor, ratio: float) -> Tensor:
    """Set the smallest entries of each attention matrix to 0, before the skip connection is added.

    `ratio` counts the entries of the whole head-fused matrix of one frame or one location, so
    a row with sharp attention keeps more entries than a row with flat attention. The other common
    definition, a quantile after the skip connection is added, would mostly count the zeros of the
    identity. A token's attention to itself is never discarded. `add_skip` renormalises the rows.

    Args:
        attention: `... q k`.
        ratio: share of the entries to discard, from 0 to below 1.
    """
    size = attention.shape[-1]
    count = min(int(ratio * size**2), size**2 - size)
    if count == 0:
        return attention
    itself = _identity(attention).bool()
    candidates = rearrange(attention.masked_fill(itself, torch.inf), "... q k -> ... (q k)")
    smallest = candidates.topk(count, dim=-1, largest=False).indices
    kept = rearrange(attention, "... q k -> ... (q k)").scatter(-1, smallest, 0)
    return rearrange(kept, "... (q k) -> ... q k", q=size)


def cls_row(groups: Tensor) -> Tensor:
    """Return the classification token's row, `b 1 g n`: an equal part for each of its copies.

    Args:
        groups: `b g n n`; only its shape is used.
    """
    b, g, n, _ = groups.shape
    row = groups.new_zeros(b, 1, g, n)
    row[..., 0] = 1 / g
    return row


def patch_rows(patches: Tensor, *, g: int) -> Tensor:
    """Return the rows, `b r g n`, for patches, `b r (t p)`, with 0 for the classification token."""
    rows = rearrange(patches, "b r (g p) -> b r g p", g=g)
    return torch.cat([torch.zeros_like(rows[..., :1]), rows], dim=-1)


def frame_rows(groups: Tensor, *, t: int) -> Tensor:
    """Return one row per frame, `b t g n`, spread evenly over the patches of that frame.

    Args:
        groups: `b g n n`; only its shape is used.
    """
    b, g, n, _ = groups.shape
    patches = g * (n - 1) // t
    even = torch.eye(t, device=groups.device, dtype=groups.dtype) / patches
    return patch_rows(repeat(even, "r t -> b r (t p)", b=b, p=patches), g=g)


def patches_of(rows: Tensor) -> Tensor:
    """Return the patches' part, `b r (t p)`, of rows, `b r g n`."""
    return rearrange(rows[..., 1:], "b r g p -> b r (g p)")


def tokens_of(rows: Tensor) -> Tensor:
    """Return rows, `b r g n`, as `b r (1 + t p)`, with the classification token's copies summed."""
    return torch.cat([reduce(rows[..., :1], "b r g 1 -> b r 1", "sum"), patches_of(rows)], dim=-1)


def _identity(attention: Tensor) -> Tensor:
    """Return the identity matrix, `q k`, for an attention."""
    return torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
