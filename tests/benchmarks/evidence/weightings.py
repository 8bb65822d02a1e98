"""Published ways to weigh the contribution of a token, as rows of the evidence table.

T_ij is what token j adds to the output y_i of an attention; see
`rollout_core/relevance/contributions.py`, which has the weightings that the service offers.

    alti  ‖y_i‖₁ − ‖y_i − T_ij‖₁, by how much T_ij reduces the distance to the output.
          Source: Ferrando, Gállego & Costa-jussà 2022, arXiv:2203.04212.
    l2    ‖T_ij‖₂, whatever its direction. Source: Kobayashi et al. 2020, arXiv:2004.10102, and
          2021, arXiv:2109.07152, for the residual.

This is the plain computation. It holds every T_ij of a layer, which is for small models only.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from rollout_core.model.timesformer import AttentionStep, TimeSformer, average_cls
from rollout_core.relevance.contributions import positive_shares
from rollout_core.relevance.methods import capture_flow
from rollout_core.relevance.rollout import cls_row, patches_of, roll_out

Weigh = Callable[[Tensor, Tensor], Tensor]
"""Returns the share, `...`, of vectors, `... c`, in outputs that broadcast to `... c`."""


def alti(vectors: Tensor, outputs: Tensor) -> Tensor:
    return outputs.abs().sum(dim=-1) - (outputs - vectors).abs().sum(dim=-1)


def l2(vectors: Tensor, outputs: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=-1)


WEIGHTINGS: dict[str, Weigh] = {"l2": l2, "alti": alti}


@torch.inference_mode()
def contribution_map(model: TimeSformer, clips: Tensor, weigh: Weigh) -> Tensor:
    """Return the rollout of the contributions for clips, `b c t H W`: `b t h w`, on the CPU."""

    def combine(step: AttentionStep) -> Tensor:
        return positive_shares(raw_shares(step, weigh), shares_cls=step.shares_cls)

    with capture_flow(model, combine) as flow:
        model(clips)
    *_, rows = roll_out(cls_row(flow.groups[0]), flow)
    t, h, w = model.grid_of(clips)
    return rearrange(patches_of(rows), "b 1 (t h w) -> b t h w", t=t, h=h, w=w).cpu()


def raw_shares(step: AttentionStep, weigh: Weigh) -> Tensor:
    """Return the share of each input token in each output token, `b s q k`."""
    s, size = step.attention.shape[1], step.attention.shape[-1]
    moved = rearrange(step.attention, "b s head q k -> b s head q k 1") * rearrange(
        step.values, "b s head k d -> b s head 1 k d"
    )
    vectors = rearrange(moved, "b s head q k d -> b s q k (head d)")
    own = vectors.diagonal(dim1=2, dim2=3).transpose(-2, -1)  # b s q c
    for layer in step.projections:
        vectors, own = vectors @ layer.weight.T, layer(own)
    if step.shares_cls:
        own = average_cls(own)
    # One sequence contributes 1/s of its vector to the mean over `s` sequences, and the token's
    # share is the sum over these `s` parts.
    parts = torch.ones(size, 1, device=own.device)
    parts[0] = s if step.shares_cls else 1
    shares = parts * weigh(vectors / parts[..., None], step.outputs[:, :, :, None])
    of_own = weigh(own + step.inputs, step.outputs)
    is_own = torch.eye(size, dtype=torch.bool, device=own.device)
    return torch.where(is_own, of_own[..., None], shares)
