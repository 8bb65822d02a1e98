"""The rollout as it is published: matrices over all tokens, multiplied layer by layer.

Source: Abnar & Zuidema 2020, arXiv:2005.00928, with the two attentions of a divided layer combined
as usual: patch p of frame i takes space[i, p, q] × time[q, i, j] from patch q of frame j. This is
the slow reference; `rollout_core.relevance.rollout` gives the same result.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor


def dense_rollout(space: Sequence[Tensor], time: Sequence[Tensor]) -> Tensor:
    """Return what the classification token gets from each patch, `b t p`.

    Args:
        space: attention within frames of each layer, heads fused, `b t 1+p 1+p`.
        time: attention over time of each layer, heads fused, `b p t t`.
    """
    product = layer_matrix(space[0], time[0])
    for layer_space, layer_time in zip(space[1:], time[1:], strict=True):
        product = layer_matrix(layer_space, layer_time) @ product
    return rearrange(product[:, 0, 1:], "b (t p) -> b t p", t=space[0].shape[1])


def layer_matrix(space: Tensor, time: Tensor) -> Tensor:
    """Return the matrix of one layer, `b 1+(t p) 1+(t p)`, skip connections included."""
    space, time = with_skip(space), with_skip(time)
    flow = torch.einsum("b i p q, b q i j -> b i p j q", space[..., 1:], time)
    rows = torch.cat([space[..., :1], rearrange(flow, "b i p j q -> b i p (j q)")], dim=-1)
    cls = rows[:, :, 0].mean(dim=1, keepdim=True)
    return torch.cat([cls, rearrange(rows[:, :, 1:], "b i p n -> b (i p) n")], dim=1)


def with_skip(attention: Tensor) -> Tensor:
    """Return the mean of an attention, `... q k`, and the identity."""
    identity = torch.eye(attention.shape[-1], device=attention.device, dtype=attention.dtype)
    return (attention + identity) / 2


def matrix_bytes(frames: int, patches: int) -> int:
    """Return the size of one matrix over all tokens of a clip, in float32."""
    return 4 * (1 + frames * patches) ** 2
