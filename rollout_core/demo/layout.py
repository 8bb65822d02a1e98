"""Where the things of the demo's clips are, how they look, and where the camera looks."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Generator, Tensor

from rollout_core.demo.draws import uniform
from rollout_core.demo.grounds import Split
from rollout_core.demo.motions import perform, random_labels
from rollout_core.demo.sprite_names import SPRITES, TRAINING_SPRITES
from rollout_core.demo.sprites import level_for, ring, textures

ACTS = 2
THINGS_PER_ACT = 2
NO_RING = -1
UNEVEN = ((0.85, 1.0), (1.0, 1.15))
"""Factors of the radius of an act's things: of the one behind, and of the one in front."""

PLACE = 0.44  # distance of an act from the middle of the frame, along both axes
PLACE_SPREAD = 0.1
CORNER = 0.6  # the same for the still thing in another corner
TILT = 0.2  # largest angle of a thing, in radians
PAN = (0.0, 0.25)  # how far the camera pans in a clip
TREMBLE = (0.004, 0.015)  # amplitude of the camera's trembling
TREMBLE_TURNS = (1.5, 4.0)  # periods per clip
MARGIN = 0.22  # how far the camera may leave its middle place


@dataclass(frozen=True)
class View:
    """How near the things are, and how the camera moves.

    Attributes:
        radius: of things, in half-heights, from the smallest to the largest.
        shake: factor of the camera's pan and trembling.
    """

    radius: tuple[float, float] = (0.17, 0.24)
    shake: float = 1.0


USUAL_VIEW = View()
STEADY_VIEW = View(radius=(0.28, 0.36), shake=0.0)
"""Large things and a still camera: what a model learns first."""


@dataclass(frozen=True)
class Things:
    """All things of the scenes, from back to front: a still one, then those of each act.

    Attributes:
        place: `b n t 2` (y, x), in half-heights.
        radius: `b n t`; 0 for what is not there.
        texture: `b n 5 S S`, see `sprites.textures`.
        tilt: `b n`, radians.
        mirror: `b n`, -1 or 1.
    """

    place: Tensor
    radius: Tensor
    texture: Tensor
    tilt: Tensor
    mirror: Tensor


def arrange(
    labels: Tensor,
    ringed: Tensor,
    generator: Generator,
    time: Tensor,
    *,
    height: int,
    aspect: float,
    split: Split,
    view: View,
) -> Things:
    """Return the things of scenes.

    Args:
        labels: `b a`, classes of the one or two live acts.
        ringed: `b`, the act whose things have a ring, or `NO_RING`.
    """
    b, live = labels.shape
    frozen_labels = random_labels(b, generator)
    # More often near the ends of the clip: there, moving things would stand out most.
    moment = torch.sin(uniform((b, 1), (0, math.pi / 2), generator)).square()
    frozen = moment.expand(b, len(time))
    moving = repeat(time, "t -> b t", b=b)
    radius = _log_uniform((b, ACTS), view.radius, generator)
    centers = _centers(b, generator, aspect)  # b 3 2
    places = [repeat(centers[:, ACTS], "b d -> b 1 t d", t=len(time))]
    radii = [repeat(_log_uniform((b,), view.radius, generator), "b -> b 1 t", t=len(time))]
    for index in range(ACTS):
        is_live = index < live
        kind = labels[:, index] if is_live else frozen_labels
        act = perform(kind, radius[:, index], moving if is_live else frozen, generator)
        places.append(centers[:, index, None, None] + act.offset)
        uneven = torch.stack([uniform(b, span, generator) for span in UNEVEN], dim=1)
        size = radius[:, index, None] * uneven
        radii.append((size * act.present)[..., None] * act.scale)
    n = 1 + ACTS * THINGS_PER_ACT
    which = _sprites(b, n, generator, split)
    level = level_for(math.sqrt(view.radius[0] * view.radius[1]) * height)
    return Things(
        place=torch.cat(places, dim=1),
        radius=torch.cat(radii, dim=1),
        texture=_with_ring(textures(level)[which], ringed),
        tilt=uniform((b, n), (-TILT, TILT), generator),
        mirror=torch.randint(2, (b, n), generator=generator) * 2.0 - 1,
    )


def draw_camera(b: int, generator: Generator, time: Tensor, view: View) -> Tensor:
    """Return where the camera looks, `b t 2` (y, x): a slow pan and some trembling."""
    angle = uniform((b, 1), (0, 2 * math.pi), generator)
    length = uniform((b, 1), PAN, generator)
    eased = time * time * (3 - 2 * time) - 0.5
    pan = torch.stack((angle.sin() * length * eased, angle.cos() * length * eased), dim=-1)
    turns, phase, amplitude = (
        uniform((b, 1, 2), span, generator) for span in (TREMBLE_TURNS, (0, 2 * math.pi), TREMBLE)
    )
    tremble = amplitude * torch.sin(2 * math.pi * turns * time[:, None] + phase)
    return view.shake * (pan + tremble)


def _centers(b: int, generator: Generator, aspect: float) -> Tensor:
    """Return the places of two acts in opposite corners, and of a still thing, `b 3 2` (y, x)."""
    signs = torch.randint(2, (b, 3), generator=generator) * 2.0 - 1
    up, side, other = signs.unbind(dim=1)
    first = torch.stack((up, side), dim=-1) * PLACE
    corner = torch.stack((other * up, -other * side), dim=-1) * CORNER
    shift = uniform((b, 3, 2), (-PLACE_SPREAD, PLACE_SPREAD), generator)
    centers = torch.stack((first, -first, corner), dim=1) + shift
    return centers * torch.tensor([1.0, aspect])


def _sprites(b: int, n: int, generator: Generator, split: Split) -> Tensor:
    """Return different random sprites, `b n`, as indices into `SPRITES`."""
    begin, end = 0, len(TRAINING_SPRITES)
    if split == "test":
        begin, end = end, len(SPRITES)
    return begin + uniform((b, end - begin), (0, 1), generator).argsort(dim=1)[:, :n]


def _with_ring(texture: Tensor, ringed: Tensor) -> Tensor:
    """Lay the ring around the things of one act of each scene, under them; `b n 5 S S`."""
    act = (torch.arange(texture.shape[1]) - 1) // THINGS_PER_ACT  # -1 for the still thing
    has_ring = (ringed[:, None] == act) & (act >= 0)  # b n
    mark = ring(texture.shape[-1]) * rearrange(has_ring.float(), "b n -> b n 1 1 1")
    color = texture[:, :, :3] + mark[:, :, :3] * (1 - texture[:, :, 4:])
    opacity = 1 - (1 - texture[:, :, 3:]) * (1 - mark[:, :, 3:])
    return torch.cat((color, opacity), dim=2)


def _log_uniform(shape: tuple[int, ...], span: tuple[float, float], generator: Generator) -> Tensor:
    return uniform(shape, (math.log(span[0]), math.log(span[1])), generator).exp()
