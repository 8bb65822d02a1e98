"""Small models with random parameters, and clips for them."""

from dataclasses import replace

import torch
from torch import nn

from rollout_core.model.timesformer import Architecture, TimeSformer

SMALL = Architecture(
    attention_type="divided_space_time",
    frames=3,
    height=16,
    width=24,
    patch_height=8,
    patch_width=4,
    dim=16,
    mlp_dim=40,
    depth=3,
    heads=2,
    classes=5,
)


def random_model(seed: int = 0, **changes: object) -> TimeSformer:
    """Return a model of `SMALL` with the given fields changed and random parameters."""
    torch.manual_seed(seed)
    model = TimeSformer(replace(SMALL, **changes))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False).eval()


def random_clips(batch: int = 2, t: int = 3, height: int = 16, width: int = 24) -> torch.Tensor:
    """Return normalised noise, `b c t H W`."""
    return torch.randn(batch, 3, t, height, width, generator=torch.Generator().manual_seed(1))
