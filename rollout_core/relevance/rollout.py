"""Rollout: how much of a token's output flows from each input token.

Sources: Abnar & Zuidema 2020, arXiv:2005.00928, for the rollout; the combination of time and
space attention is the one in common use for divided attention, in which a layer maps by
W[i, j, p, q] = S[i, j, p] T[p, j, q] from patch p of frame q to patch i of frame j: S attends
within frame j, T within location p.

The dense (1 + p t)² product of the layers is never formed. Only some rows of it are wanted, so
those are pushed backwards, from the last layer to the first, through each attention in turn. The
result is the same, and costs O(t p² + p t²) a row and layer instead of O((p t)³).

Rows travel as `b r g n`: `r` rows a clip over `g` groups of `n` tokens, as the model's tokens are
grouped. Token 0 of each group is a copy of the classification token: its relevance is split over
the copies.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from rollout_core.model.timesformer import Axis


@dataclass(frozen=True)
class Flow:
    """What every output token of every attention takes from every input token, first layer first.

    Maps hold the skip connection, are not negative, and their rows sum to 1 unless said otherwise.
    For divided attention the classification token's row is the mean of its rows in all frames.

    Attributes:
        groups: `b g n n` a layer: within each frame for divided (`g = t`, `n = 1 + p`) and
            space-only attention, among all tokens for joint (`g = 1`, `n = 1 + t p`).
        time: `b p t t` a layer, for divided attention; empty for the others.
    """

    groups: list[Tensor] = field(default_factory=list)
    time: list[Tensor] = field(default_factory=list)

    def add(self, axis: Axis, shares: Tensor) -> None:
        """Append an attention's map to those along its axis."""
        (self.time if axis == "time" else self.groups).append(shares)

    def layer(self, index: int) -> "Flow":
        """Return one of the layers by itself."""
        return Flow(self.groups[index : index + 1], self.time[index : index + 1])


def roll_out(rows: Tensor, flow: Flow) -> Iterator[Tensor]:
    """Push rows, `b r g n`, back from the last layer to the first.

    The classification token takes no part in time attention. In divided attention its relevance
    is split evenly over the frames before each space attention.

    Yields:
        `b r g n` at the input of each layer, the last layer first.
    """
    for groups, time in zip_longest(reversed(flow.groups), reversed(flow.time)):
        rows = push(rows, groups)
        if time is not None:
            cls, patches = rows[..., :1], rearrange(rows[..., 1:], "b r t p -> b r p t")
            patches = rearrange(push(patches, time), "b r p t -> b r t p")
            cls = reduce(cls, "b r t 1 -> b r 1 1", "mean").expand_as(cls)
            rows = torch.cat([cls, patches], dim=-1)
        yield rows


def push(rows: Tensor, shares: Tensor) -> Tensor:
    """Push what output tokens are worth, `b r s q`, to input tokens, `b r s k`.

    Args:
        shares: `b s q k`. Where its rows sum to 1, `rows` keeps its sum.
    """
    return torch.einsum("b r s q, b s q k -> b r s k", rows, shares)


def add_skip(attention: Tensor) -> Tensor:
    """Model the skip connection as the identity, with as much weight as the attention.

    Args:
        attention: `... q k`, not negative.
    Returns:
        `... q k`: A + I with its rows renormalised, which is (A + I) / 2 where the rows of A
        sum to 1.
    """
    return (attention + _own(attention)) / (1 + attention.sum(dim=-1, keepdim=True))


def discard_smallest(attention: Tensor, ratio: float) -> Tensor:
    """Zero the smallest entries of each attention matrix, before the residual is added.

    `ratio` is a share of the entries of the whole fused matrix (of one frame, or of one
    location), so that rows which attend sharply keep more than rows which attend to nothing. The
    other meaning in use, a quantile after the residual is added, would mostly count the zeros of
    the identity. A token's attention to itself is never discarded. `add_skip` renormalises rows.

    Args:
        attention: `... q k`.
        ratio: from 0 (keep all) to below 1.
    """
    size = attention.shape[-1]
    count = min(int(ratio * size**2), size**2 - size)
    if count == 0:
        return attention
    own = _own(attention).bool()
    candidates = rearrange(attention.masked_fill(own, torch.inf), "... q k -> ... (q k)")
    smallest = candidates.topk(count, dim=-1, largest=False).indices
    kept = rearrange(attention, "... q k -> ... (q k)").scatter(-1, smallest, 0)
    return rearrange(kept, "... (q k) -> ... q k", q=size)


def cls_row(groups: Tensor) -> Tensor:
    """Return the classification token's row, `b 1 g n`: an even part for each of its copies.

    Args:
        groups: `b g n n`, for its sizes.
    """
    b, g, n, _ = groups.shape
    row = groups.new_zeros(b, 1, g, n)
    row[..., 0] = 1 / g
    return row


def patch_rows(patches: Tensor, *, g: int) -> Tensor:
    """Return rows, `b r g n`, of patches, `b r (t p)`, without the classification token."""
    rows = rearrange(patches, "b r (g p) -> b r g p", g=g)
    return torch.cat([torch.zeros_like(rows[..., :1]), rows], dim=-1)


def frame_rows(groups: Tensor, *, t: int) -> Tensor:
    """Return one row a frame, `b t g n`, spread evenly over the patches of that frame.

    Args:
        groups: `b g n n`, for its sizes.
    """
    b, g, n, _ = groups.shape
    patches = g * (n - 1) // t
    even = torch.eye(t, device=groups.device, dtype=groups.dtype) / patches
    return patch_rows(repeat(even, "r t -> b r (t p)", b=b, p=patches), g=g)


def patches_of(rows: Tensor) -> Tensor:
    """Return the patches' part, `b r (t p)`, of rows, `b r g n`."""
    return rearrange(rows[..., 1:], "b r g p -> b r (g p)")


def tokens_of(rows: Tensor) -> Tensor:
    """Return rows, `b r g n`, as `b r (1 + t p)`: the classification token's copies are one."""
    return torch.cat([reduce(rows[..., :1], "b r g 1 -> b r 1", "sum"), patches_of(rows)], dim=-1)


def _own(attention: Tensor) -> Tensor:
    """Return the identity, `q k`, of an attention's size."""
    return torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
