"""What happens in the demo's clips: twelve classes, each told by motion alone.

An act is one or two things around a place. Things have an offset from that place and a size, both
in radii or half-heights that grow downwards and to the right. The classes come in pairs that are
each other's reverse in time, but for "swings" and "passes", which are their own.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from rollout_core.demo.draws import uniform
from rollout_core.model.specs import MOVING_THINGS

CLASSES = MOVING_THINGS.labels or ()
LEFT, RIGHT, RISES, FALLS, NEARS, RECEDES, SWINGS, MEET, PART, PASSES, COVERED, APPEARS = range(12)

TRAVEL = (0.6, 0.8)  # length of a path, in half-heights
SCALING = (2.0, 2.6)  # largest size of an approaching thing divided by its smallest
SWING_TURNS = (1.0, 1.6)  # periods per clip
SWING_ARC = 0.4  # how far the ends of a swing are raised, in amplitudes
REST = (0.0, 0.15)  # share of the clip before and after a motion
TOUCH = 0.95  # distance of two things that touch, in sums of their radii
PASSING = 2.4  # distance at the ends of a passing, in radii
PASSING_SIDE = 0.35  # how far aside of the other a thing passes, in radii
HIDING = 2.3  # farthest distance of a thing that is covered, in radii


@dataclass(frozen=True)
class Act:
    """Where the two things of each act are; the first is behind the second.

    Attributes:
        offset: `b 2 t 2` (y, x), in half-heights.
        scale: `b 2 t`, factor of the radius.
        present: `b 2`, whether there is such a thing.
    """

    offset: Tensor
    scale: Tensor
    present: Tensor


def perform(labels: Tensor, radius: Tensor, time: Tensor, generator: Generator) -> Act:
    """Return a random act for each label. The draws are the same for every class.

    Args:
        labels: `b`, indices into `CLASSES`.
        radius: `b`, mean radius of the act's things, in half-heights.
        time: `b t`, 0 to 1 over the clip.
    """
    b = len(labels)
    travel = uniform((b, 1), TRAVEL, generator)
    angle = uniform(b, (0, 2 * math.pi), generator)
    swaps = uniform(b, (0, 1), generator) < 0.5
    progress = _progress(time, generator)  # -1/2 to 1/2
    wave = _wave(time, generator)
    scaling = uniform((b, 1), SCALING, generator)
    is_ = {k: (labels == k)[:, None].float() for k in range(len(CLASSES))}
    axis = torch.stack((angle.sin(), angle.cos()), dim=-1)[:, None]  # b 1 2
    aside = axis.flip(-1) * torch.tensor([1.0, -1.0])
    radii = radius[:, None]

    right = (is_[RIGHT] - is_[LEFT]) * travel * progress + is_[SWINGS] * travel / 2 * wave
    down = (is_[FALLS] - is_[RISES]) * travel * progress
    down = down - is_[SWINGS] * SWING_ARC * travel / 2 * (wave.square() - 0.5)
    # The gap of a meeting closes, and that of a parting opens.
    gap = travel * (0.5 + (is_[PART] - is_[MEET]) * progress)
    apart = (is_[MEET] + is_[PART]) * (TOUCH * radii + gap / 2)
    hiding = HIDING * radii * (0.5 + (is_[APPEARS] - is_[COVERED]) * progress)
    hiding = (is_[COVERED] + is_[APPEARS]) * hiding
    passing = is_[PASSES] * 2 * PASSING * radii * progress
    sideways = is_[PASSES] * PASSING_SIDE * radii

    first = torch.stack((down, right), dim=-1) + axis * (apart + hiding + passing)[..., None]
    first = first + aside * sideways[..., None]
    second = -axis * apart[..., None]
    swapped = (swaps & (labels == PASSES))[:, None, None, None]
    pair = torch.stack((first, second), dim=1)
    offset = torch.where(swapped, pair.flip(1), pair)
    growth = scaling ** ((is_[NEARS] - is_[RECEDES]) * progress)
    return Act(
        offset=offset,
        scale=torch.stack((growth, torch.ones_like(growth)), dim=1),
        present=torch.stack((torch.ones(b, dtype=torch.bool), labels >= MEET), dim=1),
    )


def _progress(time: Tensor, generator: Generator) -> Tensor:
    """Return eased progress, `b t`, from -1/2 to 1/2, symmetric around the middle of the clip."""
    b = len(time)
    rest = uniform((b, 1), REST, generator)
    softness = uniform((b, 1), (0.2, 1), generator)
    linear = ((time - rest) / (1 - 2 * rest)).clamp(0, 1)
    return torch.lerp(linear, linear.square() * (3 - 2 * linear), softness) - 0.5


def _wave(time: Tensor, generator: Generator) -> Tensor:
    """Return a swing, `b t`, from -1 to 1."""
    b = len(time)
    turns = uniform((b, 1), SWING_TURNS, generator)
    phase = uniform((b, 1), (0, 2 * math.pi), generator)
    return torch.sin(2 * math.pi * turns * (time - 0.5) + phase)


def reversed_label(label: int) -> int:
    """Return the class that a clip of `label` shows when it is played backwards."""
    if label in (SWINGS, PASSES):
        return label
    first = LEFT if label < SWINGS else MEET
    if label in (COVERED, APPEARS):
        first = COVERED
    return first + ((label - first) ^ 1)


def random_labels(count: int, generator: Generator) -> Tensor:
    """Draw `count` class indices, each class equally likely."""
    return torch.randint(len(CLASSES), (count,), generator=generator)


def random_label_pairs(count: int, generator: Generator) -> Tensor:
    """Draw `count` pairs of two different class indices, `count 2`."""
    first = random_labels(count, generator)
    step = torch.randint(1, len(CLASSES), (count,), generator=generator)
    return torch.stack((first, (first + step) % len(CLASSES)), dim=1)
