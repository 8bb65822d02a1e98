"""The sprites of the demo's clips, as textures with a soft shadow and, where asked, a cue.

The pictures are rendered from Noto Color Emoji; sprites.LICENSE names its licence.
"""

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from rollout_core.demo.sprite_names import CELL, COLUMNS, SPRITES

SHEET_PATH = Path(__file__).with_name("sprites.webp")

REACH = 1.5
"""A texture reaches this many radii from its middle; the sprite itself reaches one."""

SHADOW_OFFSET = 0.17  # radii, downwards, and half as much to the right
SHADOW_SOFTNESS = 0.1  # standard deviation of the blur, in radii
SHADOW_OPACITY = 0.42

RING_RADIUS = 1.2  # of the cue, in radii of the sprite
RING_WIDTH = 0.22
RING_STRIPES = 8  # of each colour
RING_COLORS = ((0.93, 0.11, 0.14), (1.0, 1.0, 1.0))
RING_EDGE = 0.06  # width of the soft edges, in radii

DETAIL = 0.8
"""Textures have about this many pixels for each pixel of the frame, or more."""


@cache
def textures(level: int) -> Tensor:
    """Return all sprites above their shadows, `n 5 S S`, halved `level` times in size.

    Channels: red, green and blue, multiplied by the opacity; the opacity; and the opacity of the
    sprite without its shadow.
    """
    sheet = torch.from_numpy(np.array(Image.open(SHEET_PATH).convert("RGBA")))
    cells = rearrange(
        sheet.float() / 255, "(r y) (k x) c -> (r k) c y x", k=COLUMNS, y=CELL, x=CELL
    )[: len(SPRITES)]
    opacity = cells[:, 3:]
    border = round(CELL * (REACH - 1) / 2)
    whole = F.pad(torch.cat((cells[:, :3] * opacity, opacity), dim=1), (border,) * 4)
    shadow = SHADOW_OPACITY * _shadow(whole[:, 3:])
    shown = whole[:, 3:]
    drawn = torch.cat((whole[:, :3], shown + shadow * (1 - shown), shown), dim=1)
    return F.avg_pool2d(drawn, 2**level) if level else drawn


@cache
def ring(side: int) -> Tensor:
    """Return the cue, a striped ring around a sprite, `5 S S`; channels as in `textures`."""
    axis = ((torch.arange(side) + 0.5) * 2 / side - 1) * REACH
    y, x = axis[:, None], axis[None, :]
    edge = max(RING_EDGE, 2 * REACH / side)
    distance = (torch.hypot(y, x) - RING_RADIUS).abs() - RING_WIDTH / 2
    opacity = (0.5 - distance / edge).clamp(0, 1)
    wave = torch.sin(RING_STRIPES * torch.atan2(y, x)) * RING_RADIUS / RING_STRIPES
    stripe = (0.5 + wave / edge).clamp(0, 1)
    first, second = (torch.tensor(color)[:, None, None] for color in RING_COLORS)
    return torch.cat((torch.lerp(first, second, stripe) * opacity, opacity[None], opacity[None]))


def level_for(diameter_pixels: float) -> int:
    """Return the level of `textures` for a sprite that is so large in the frame."""
    largest = int(math.log2(CELL)) - 2
    return min(max(math.floor(math.log2(CELL / (DETAIL * diameter_pixels))), 0), largest)


def _shadow(opacity: Tensor) -> Tensor:
    """Return the sprites' opacity, `n 1 S S`, moved and blurred."""
    radius = CELL / 2
    down = round(SHADOW_OFFSET * radius)
    moved = opacity.roll((down, down // 2), dims=(-2, -1))
    sigma = SHADOW_SOFTNESS * radius
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    blurred = F.conv2d(moved, kernel[None, None, :, None], padding="same")
    return F.conv2d(blurred, kernel[None, None, None, :], padding="same")
