"""The obvious rollout, for comparison: every layer as one dense matrix over all tokens.

Token 0 is the classification token, then the patches in the order `(t p)`.
"""

import torch
from einops import rearrange
from torch import Tensor


def with_residual(attention: Tensor) -> Tensor:
    """`... q k` → half attention, half identity."""
    mixed = attention + torch.eye(attention.shape[-1])
    return mixed / mixed.sum(dim=-1, keepdim=True)


def divided_layer(space: Tensor, time: Tensor) -> Tensor:
    """One layer's matrix, `b n n`, from `b t 1+p 1+p` and `b p t t`, element by element."""
    b, t, n, _ = space.shape
    space, time = with_residual(space), with_residual(time)
    dense = torch.zeros(b, 1 + t * (n - 1), 1 + t * (n - 1))

    def token(frame: int, patch: int) -> int:
        return 1 + frame * (n - 1) + patch

    for i in range(t):
        dense[:, 0, 0] += space[:, i, 0, 0] / t
        for q in range(n - 1):
            for j in range(t):
                # Through frame i, then from its location q to frame j.
                dense[:, 0, token(j, q)] += space[:, i, 0, 1 + q] * time[:, q, i, j] / t
        for p in range(n - 1):
            dense[:, token(i, p), 0] = space[:, i, 1 + p, 0]
            for q in range(n - 1):
                for j in range(t):
                    dense[:, token(i, p), token(j, q)] = (
                        space[:, i, 1 + p, 1 + q] * time[:, q, i, j]
                    )
    return dense


def divided_rollout(space: list[Tensor], time: list[Tensor]) -> Tensor:
    """Relevance of the patches for the classification token, `b t p`."""
    product = torch.eye(1 + time[0].shape[1] * time[0].shape[2])
    for layer_space, layer_time in zip(space, time, strict=True):
        product = divided_layer(layer_space, layer_time) @ product
    return rearrange(product[:, 0, 1:], "b (t p) -> b t p", t=time[0].shape[-1])


def grouped_rollout(attention: list[Tensor]) -> Tensor:
    """Relevance of each group's patches for its classification token, `b g p`."""
    product = torch.eye(attention[0].shape[-1])
    for layer in attention:
        product = with_residual(layer) @ product
    return product[:, :, 0, 1:]
