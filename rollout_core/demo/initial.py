"""Initial parameters with which a small TimeSformer learns the direction of motions."""

import math

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from rollout_core.model.timesformer import Architecture, TimeSformer

EMBEDDING_SCALE = 0.7


def new_model(architecture: Architecture, seed: int) -> TimeSformer:
    """Return an initialised model.

    With random position and time embeddings, a small model learns the kind of a motion but not its
    direction, because places and times have no order. The embeddings are therefore low frequency
    cosines in a random rotation. The temporal projection is initialised like any other layer: with
    the published value, zero, time attention has no effect in the first steps.
    """
    torch.manual_seed(seed)
    model = TimeSformer(architecture)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    h, w = architecture.grid
    rows, columns = _cosines(h), _cosines(w)
    grid = torch.cat((repeat(rows, "h k -> h w k", w=w), repeat(columns, "w k -> h w k", h=h)), -1)
    nn.init.normal_(model.cls_token, std=0.02)
    with torch.no_grad():
        model.pos_embed[:, 1:] = _rotate(rearrange(grid, "h w k -> 1 (h w) k"), architecture.dim)
        time = rearrange(_cosines(architecture.frames), "t k -> 1 t k")
        model.time_embed[:] = _rotate(time, architecture.dim)
    return model


def _cosines(count: int) -> Tensor:
    """Return the basis of the discrete cosine transform without the constant, `count k`."""
    position = (torch.arange(count) + 0.5) / count
    wave = torch.arange(1, count)
    return torch.cos(math.pi * position[:, None] * wave)


def _rotate(features: Tensor, dim: int) -> Tensor:
    """Map `1 n k` to embeddings `1 n c` by a random rotation, which mixes all channels."""
    axes = torch.linalg.qr(torch.randn(dim, features.shape[-1])).Q  # c k
    rotated: Tensor = features @ axes.T
    return EMBEDDING_SCALE * math.sqrt(dim / features.shape[-1]) * rotated
