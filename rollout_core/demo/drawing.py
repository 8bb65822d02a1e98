"""Draws the demo's scenes: what the camera sees of the ground, and the things on it."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from rollout_core.demo.layout import Things
from rollout_core.demo.sprites import REACH


def axis(pixels: int, reach: float) -> Tensor:
    """Return the middles of pixels that fill the span from -reach to reach."""
    return ((torch.arange(pixels) + 0.5) * 2 / pixels - 1) * reach


def look_at(picture: Tensor, camera: Tensor, height: int, width: int) -> Tensor:
    """Return the part of `b c h w` that a camera at `b t 2` (y, x) sees, `b c t height width`.

    The middle of the picture is where `camera` is 0. What lies outside the picture is 0.
    """
    y, x = axis(height, 1.0), axis(width, width / height)
    h, w = picture.shape[-2:]
    rows = (y + camera[..., :1]) * (height / h)  # b t H
    columns = (x + camera[..., 1:]) * (height / w)
    across = repeat(columns, "b t W -> b (t H) W", H=height)
    down = repeat(rows, "b t H -> b (t H) W", W=width)
    seen = F.grid_sample(picture, torch.stack((across, down), dim=-1), align_corners=False)
    return rearrange(seen, "b c (t H) W -> b c t H W", H=height)


def paint(canvas: Tensor, things: Things, index: int, camera: Tensor, act: int) -> None:
    """Paint one thing of each scene over what is on the canvas, in place.

    Only the pixels around a thing are computed.

    Args:
        canvas: `b t H W k`: red, green, blue, and the mask of each act.
        index: which of the things.
        camera: `b t 2`.
        act: whose mask the thing belongs to, or -1. It hides the other acts.
    """
    frames, height, width, channels = canvas.shape[1:]
    pixel = 2 / height
    place = rearrange(things.place[:, index] - camera, "b t yx -> (b t) yx")
    size = rearrange(REACH * things.radius[:, index], "b t -> (b t)")
    corner = torch.tensor([-1.0, -width / height])
    limits = torch.tensor([height, width])
    low = ((place - size[:, None] - corner) / pixel).floor().long().clamp(min=0)
    high = torch.minimum(((place + size[:, None] - corner) / pixel).ceil().long(), limits)
    owner, cells = _boxes(low, (high - low).clamp(min=0) * (size > 0)[:, None])

    scene = owner // frames
    dy, dx = (((cells + 0.5) * pixel + corner - place[owner]) / size[owner, None]).unbind(dim=1)
    tilt = things.tilt[scene, index]
    cos, sin = tilt.cos(), tilt.sin()
    across = things.mirror[scene, index] * (sin * dy + cos * dx)
    drawn = _sample(things.texture[:, index], scene, cos * dy - sin * dx, across)

    masks = channels - 3
    opacity = torch.cat((drawn[:, 3:4].expand(-1, 3), drawn[:, 4:].expand(-1, masks)), dim=1)
    own = (torch.arange(masks) == act).float()
    paint = torch.cat((drawn[:, :3], drawn[:, 4:] * own), dim=1)
    flat = canvas.view(-1, channels)
    where = (owner * height + cells[:, 0]) * width + cells[:, 1]
    flat[where] = flat[where] * (1 - opacity) + paint


def _boxes(low: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cells of boxes of different sizes, one after the other.

    Args:
        low, size: `m 2`, first row and column of each box, and its rows and columns.
    Returns:
        The box of each cell, `n`, and its row and column, `n 2`.
    """
    areas = size.prod(dim=1)
    owner = torch.repeat_interleave(areas)
    place = torch.arange(len(owner)) - (areas.cumsum(dim=0) - areas)[owner]
    columns = size[owner, 1]
    return owner, low[owner] + torch.stack((place // columns, place % columns), dim=1)


def _sample(textures: Tensor, which: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return `n c`: textures `b c S S` at places -1 to 1, `n`, interpolated between pixels."""
    side = textures.shape[-1]
    flat = rearrange(textures, "b c y x -> (b y x) c")
    y, x = (((part + 1) * side / 2 - 0.5).clamp(0, side - 1.001) for part in (y, x))
    top, left = y.long(), x.long()
    corner = (which * side + top) * side + left
    down, right = (y - top)[:, None], (x - left)[:, None]
    above = torch.lerp(flat[corner], flat[corner + 1], right)
    below = torch.lerp(flat[corner + side], flat[corner + side + 1], right)
    return torch.lerp(above, below, down)
