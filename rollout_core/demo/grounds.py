"""Calm grounds for the demo's clips: layered noise in the colours of grass, sand, water and sky.

Lengths are in half-heights of the frame, as in `scenes`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Generator, Tensor

from rollout_core.demo.draws import uniform

Split = Literal["train", "test"]

OCTAVES = (4, 8, 16, 32, 64, 128)
"""Cells of each noise along both axes of its table, which spans `SPAN` half-heights."""

SPAN = 4.0
HORIZON = (-0.8, -0.6)
NEAR = 0.35  # how far in front of the horizon perspective stops growing
TINT = 0.05  # largest shift of each colour, 0 to 1
CLOUD_WEIGHTS = torch.tensor([[0.8, 0.7, 0.5, 0.3]])
CONTRAST = 0.38  # standard deviations of the noise to the whole ramp
LIGHT = 0.16  # how much brighter the lit side is than the middle


@dataclass(frozen=True)
class GroundKind:
    """How a ground looks.

    Attributes:
        ramp: four colours from the hollows of the noise to its crests, as RRGGBB.
        weights: share of each octave, from coarse to fine.
        stretch: how much wider than high its features are.
        sky: colours at the top and at the horizon, as RRGGBB, or None for a view from above.
    """

    ramp: tuple[str, str, str, str]
    weights: tuple[float, float, float, float, float, float]
    stretch: float = 1.0
    sky: tuple[str, str] | None = None


MEADOW = ("4c7a3a", "6a9a4a", "86b45c", "a9cc7c")
SAND = ("b8935c", "d0ae76", "e2c794", "f2e0b8")
WATER = ("1f5f83", "2f7ea3", "4fa0bf", "a6d8e6")
DAY = ("6fb1e6", "d6ebf7")

TRAINING_GROUNDS = {
    "meadow": GroundKind(MEADOW, (1.0, 0.7, 0.3, 0.2, 0.3, 0.4)),
    "sand": GroundKind(SAND, (1.0, 0.7, 0.3, 0.2, 0.2, 0.3), stretch=2.0),
    "pond": GroundKind(WATER, (0.6, 0.8, 0.9, 0.5, 0.2, 0.1), stretch=2.6),
    "pasture": GroundKind(MEADOW, (1.0, 0.6, 0.3, 0.2, 0.3, 0.4), sky=DAY),
    "dunes": GroundKind(SAND, (1.0, 0.8, 0.3, 0.2, 0.2, 0.3), stretch=2.0, sky=DAY),
    "dusk": GroundKind(
        ("3a3550", "55496b", "7a6080", "a98192"),
        (1.0, 0.6, 0.3, 0.2, 0.2, 0.3),
        stretch=1.6,
        sky=("5b4a86", "f4b183"),
    ),
    "clay": GroundKind(("7d4a35", "9a6147", "b57b5c", "cf9d7d"), (1.0, 0.6, 0.3, 0.2, 0.2, 0.3)),
}
HELD_OUT_GROUNDS = {
    "snow": GroundKind(("b9cadb", "d3dfeb", "e8eff6", "fbfdff"), (1.0, 0.7, 0.3, 0.2, 0.2, 0.3)),
    "sea": GroundKind(
        ("2a6c7c", "3d8c96", "63adb0", "bfe3dc"),
        (0.6, 0.7, 0.9, 0.6, 0.3, 0.2),
        stretch=3.0,
        sky=("8fc3ea", "f3efe0"),
    ),
    "moss": GroundKind(("4b5231", "6b6f3f", "8d8a52", "b3aa74"), (1.0, 0.7, 0.4, 0.2, 0.2, 0.3)),
}
GROUNDS: dict[Split, dict[str, GroundKind]] = {"train": TRAINING_GROUNDS, "test": HELD_OUT_GROUNDS}


def draw_grounds(b: int, generator: Generator, split: Split, y: Tensor, x: Tensor) -> Tensor:
    """Return random grounds, `b c H W`, 0 to 1.

    Args:
        generator: on the CPU; the draws do not depend on the size.
        y, x: places of the rows and columns of pixels, `H` and `W`.
    """
    kinds = list(GROUNDS[split].values())
    index = torch.randint(len(kinds), (b,), generator=generator)
    ramp = torch.stack([_colors(kind.ramp) for kind in kinds])[index]  # b 4 c
    weights = torch.tensor([kind.weights for kind in kinds])[index]
    stretch = torch.tensor([kind.stretch for kind in kinds])[index]
    sky = torch.stack([_colors(kind.sky or DAY) for kind in kinds])[index]  # b 2 c
    is_open = torch.tensor([kind.sky is not None for kind in kinds])[index]
    horizon = torch.where(is_open, uniform(b, HORIZON, generator), torch.tensor(-9.0))
    noises = [uniform((b, 1, cells, cells), (-1, 1), generator) for cells in OCTAVES]
    tint = uniform((b, 3, 1, 1), (-TINT, TINT), generator)

    below = rearrange(y, "H -> 1 H 1") - rearrange(horizon, "b -> b 1 1")  # b H 1
    depth = torch.where(rearrange(is_open, "b -> b 1 1"), NEAR + below.clamp(min=0), 1.0)
    v = repeat(torch.log(depth) * is_open[:, None, None] + y[:, None], "b H 1 -> b H W", W=len(x))
    u = x / depth / rearrange(stretch, "b -> b 1 1")
    height = _layered(noises, weights, v, u, pixel=float(y[1] - y[0]))
    ground = _ramp(ramp, height)
    wide_y = repeat(2.5 * y, "H -> b H W", b=b, W=len(x))
    wide_x = repeat(x, "W -> b H W", b=b, H=len(y))
    clouds = _layered(noises[:4], CLOUD_WEIGHTS.expand(b, 4), wide_y, wide_x, pixel=0.0)
    above = (-below / (horizon[:, None, None] + 1.3)).clamp(0, 1)
    gradient = torch.lerp(sky[:, 1, :, None, None], sky[:, 0, :, None, None], above[:, None])
    heaven = torch.lerp(gradient, torch.ones(1), 0.7 * _smooth((clouds - 0.45) * 3)[:, None])
    edge = (0.5 - below / (1.5 * (y[1] - y[0]))).clamp(0, 1)[:, None]  # b 1 H 1
    return ((torch.lerp(ground, heaven, edge) + tint) * _light(b, generator, y, x)).clamp(0, 1)


def _layered(noises: list[Tensor], weights: Tensor, v: Tensor, u: Tensor, pixel: float) -> Tensor:
    """Return the weighted sum of the noises at the places `b H W`, scaled to about 0 to 1."""
    grid = torch.stack((u, v), dim=-1) * (2 / SPAN)
    total = torch.zeros_like(u)
    for noise, weight in zip(noises, weights.T, strict=True):
        if SPAN / noise.shape[-1] < pixel:  # finer than the frame can show
            break
        layer = F.grid_sample(
            noise, grid, mode="bicubic", padding_mode="reflection", align_corners=False
        )
        total = total + rearrange(weight, "b -> b 1 1") * layer[:, 0]
    return 0.5 + CONTRAST * total / weights.square().sum(dim=1).sqrt()[:, None, None]


def _ramp(colors: Tensor, height: Tensor) -> Tensor:
    """Return the colours, `b c H W`, of heights `b H W` between the colours `b 4 c`."""
    position = height.clamp(0, 1)[:, None] * (colors.shape[1] - 1)
    picture = colors[:, 0, :, None, None].expand(-1, -1, *height.shape[1:])
    for step in range(colors.shape[1] - 1):
        following = colors[:, step + 1, :, None, None]
        picture = torch.lerp(picture, following, (position - step).clamp(0, 1))
    return picture


def _light(b: int, generator: Generator, y: Tensor, x: Tensor) -> Tensor:
    """Return a soft light from one side, `b 1 H W`, around 1."""
    side = uniform((b, 2, 1, 1), (-1, 1), generator)
    slope = side[:, :1] * y[:, None] + side[:, 1:] * x[None, :] / x.abs().max()
    return 1 + LIGHT * slope / 1.5


def _smooth(value: Tensor) -> Tensor:
    """Return the smooth step of 0 to 1."""
    value = value.clamp(0, 1)
    return value * value * (3 - 2 * value)


def _colors(codes: tuple[str, ...]) -> Tensor:
    return torch.tensor([list(bytes.fromhex(code)) for code in codes]) / 255
