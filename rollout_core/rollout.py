"""Attention rollout: how much of a token's output flows from each input token.

Sources: Abnar & Zuidema 2020, arXiv:2005.00928, for the rollout; the combination of time and
space attention is the one in common use for divided attention, in which a layer maps by
W[i, j, p, q] = S[i, j, p] T[p, j, q] from patch (p, q) to patch (p, j): S attends within frame j,
T within location p.

The dense (1 + p t)² product of the layers is never formed. One row of it is wanted, so that row
is pushed backwards, from the last layer to the first, through each attention in turn. The result
is the same, and costs O(t p² + p t²) a layer instead of O((p t)³).
"""

from collections.abc import Sequence

import torch
from einops import rearrange, reduce
from torch import Tensor


def divided_rollout(
    space: Sequence[Tensor], time: Sequence[Tensor], *, discard_ratio: float = 0.0
) -> Tensor:
    """Roll divided attention out to the input.

    The classification token has one copy a frame, whose outputs are averaged: its relevance is
    split evenly over the frames before each space attention and summed after it. It takes no
    part in time attention.

    Args:
        space: `b t n n` a layer, `n = 1 + p`, first layer first.
        time: `b p t t` a layer.
        discard_ratio: see `discard_smallest`.
    Returns:
        Relevance, `b t p`: each patch's share of the classification token's output. Patches and
        the token itself share 1.
    """
    b, t, n, _ = space[0].shape
    row = space[0].new_zeros(b, t, n)
    row[:, :, 0] = 1 / t
    for layer_space, layer_time in zip(reversed(space), reversed(time), strict=True):
        row = push(row, discard_smallest(layer_space, discard_ratio))
        cls, patches = row[:, :, :1], rearrange(row[:, :, 1:], "b t p -> b p t")
        patches = push(patches, discard_smallest(layer_time, discard_ratio))
        cls = reduce(cls, "b t 1 -> b 1 1", "mean").expand_as(cls)
        row = torch.cat([cls, rearrange(patches, "b p t -> b t p")], dim=2)
    return row[:, :, 1:]


def grouped_rollout(attention: Sequence[Tensor], *, discard_ratio: float = 0.0) -> Tensor:
    """Roll attention that never leaves its group out to the input.

    Args:
        attention: `b g n n` a layer, first layer first: joint (`g = 1`) or space-only (`g = t`).
        discard_ratio: see `discard_smallest`.
    Returns:
        Relevance, `b g (n - 1)`, of the patches of each group for its classification token,
        which share 1 with the token itself.
    """
    row = torch.zeros_like(attention[0][:, :, 0])  # b g n
    row[:, :, 0] = 1
    for layer in reversed(attention):
        row = push(row, discard_smallest(layer, discard_ratio))
    return row[:, :, 1:]


def push(row: Tensor, attention: Tensor) -> Tensor:
    """Push relevance one step back, through an attention and the skip connection around it.

    The skip connection is modelled as the identity, with as much weight as the attention: row ·
    (A + I) with the rows of A + I renormalised, which is (A + I) / 2 where the rows of A sum to 1.

    Args:
        row: `... q`, what each output token is worth.
        attention: `... q k`, not negative.
    Returns:
        `... k`, what each input token is worth; the same sum as `row`.
    """
    share = row / (1 + attention.sum(dim=-1))
    return share + torch.einsum("... q, ... q k -> ... k", share, attention)


def discard_smallest(attention: Tensor, ratio: float) -> Tensor:
    """Zero the smallest entries of each attention matrix, before the residual is added.

    `ratio` is a share of the entries of the whole fused matrix (of one frame, or of one
    location), so that rows which attend sharply keep more than rows which attend to nothing. A
    token's attention to itself is never discarded. Rows are renormalised by `push`.

    Args:
        attention: `... q k`.
        ratio: from 0 (keep all) to below 1.
    """
    size = attention.shape[-1]
    count = min(int(ratio * size**2), size**2 - size)
    if count == 0:
        return attention
    own = torch.eye(size, dtype=torch.bool, device=attention.device)
    candidates = rearrange(attention.masked_fill(own, torch.inf), "... q k -> ... (q k)")
    smallest = candidates.topk(count, dim=-1, largest=False).indices
    kept = rearrange(attention, "... q k -> ... (q k)").scatter(-1, smallest, 0)
    return rearrange(kept, "... (q k) -> ... q k", q=size)
