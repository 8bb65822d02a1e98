"""Relevance propagation for transformers, CP-LRP, as a row of the evidence table.

The attention weights, the standard deviations of the layer norms and the slopes of the GELUs count
as constants. The rest is linear in the tokens, so that gradient times input of it divides the logit
among them (and the biases). Source: Ali et al. 2022, arXiv:2202.07304; the rule of the GELU is
that of Achtibat et al. 2024, arXiv:2402.05602. For divided attention only.
"""

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from rollout_core.model.timesformer import Attention, Block, TimeSformer, average_cls


@torch.enable_grad()
def propagated(model: TimeSformer, clips: Tensor, classes: Tensor) -> Tensor:
    """Return the relevance of each patch's embedding, `b r t h w`, for `classes`, `b r`."""
    tokens = model.embed(clips).detach().requires_grad_()
    logits = linear_forward(model, tokens)
    t, h, w = model.grid_of(clips)
    maps = []
    for each in classes.unbind(dim=1):
        logit = logits.gather(1, each[:, None]).sum()
        (gradient,) = torch.autograd.grad(logit, tokens, retain_graph=True)
        of_patches = (gradient * tokens).sum(dim=-1)[:, :, 1:]
        maps.append(rearrange(of_patches.detach(), "b t (h w) -> b t h w", t=t, h=h, w=w))
    return torch.stack(maps, dim=1).cpu()


def linear_forward(model: TimeSformer, tokens: Tensor) -> Tensor:
    """Return the logits of embedded tokens, `b t n c`, by operations that are linear in them."""
    for block in model.layers:
        tokens = _layer(block, tokens)
    cls = reduce(tokens[:, :, 0], "b t c -> b c", "mean")
    logits: Tensor = model.head(_normed(model.norm, cls))
    return logits


def _layer(block: Block, x: Tensor) -> Tensor:
    patches = rearrange(x[:, :, 1:], "b t p c -> b p t c")
    update = _attended(block.temporal_attn, _normed(block.temporal_norm1, patches))
    patches = patches + block.temporal_fc(update)
    x = torch.cat([x[:, :, :1], rearrange(patches, "b p t c -> b t p c")], dim=2)
    x = x + average_cls(_attended(block.attn, _normed(block.norm1, x)))
    hidden = block.mlp.fc1(_normed(block.norm2, x))
    slope = torch.special.ndtr(hidden).detach()
    return x + block.mlp.fc2(hidden * slope)


def _attended(attention: Attention, x: Tensor) -> Tensor:
    pattern = "b s n (three head c) -> three b s head n c"
    q, k, v = rearrange(attention.qkv(x), pattern, three=3, head=attention.heads)
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1).detach()
    out: Tensor = attention.proj(rearrange(weights @ v, "b s head n c -> b s n (head c)"))
    return out


def _normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centered = x - x.mean(dim=-1, keepdim=True)
    variance = centered.square().mean(dim=-1, keepdim=True).detach()
    normed: Tensor = centered / (variance + norm.eps).sqrt() * norm.weight + norm.bias
    return normed
