"""Generates clips of everyday things, whose class is a motion and whose evidence is known.

A scene has a calm ground, a camera that pans and trembles, and two acts (see `motions`) in opposite
corners of the frame. Looks and places are random, so only motion tells the class. With one label
per scene, the second act is frozen at a random moment of a random class. With two, both acts move,
and a striped ring marks the things of the first: its class is the label of the clip.

Scenes are drawn from continuous places: the same seed gives the same scene at any size and frame
rate. Lengths are in half-heights of the frame: y runs from -1 (top) to 1 (bottom), and x from -w/h
to w/h for a frame of w × h pixels. Time runs from 0 to 1 over a clip.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Generator, Tensor

from rollout_core.demo.drawing import axis, look_at, paint
from rollout_core.demo.grounds import Split, draw_grounds
from rollout_core.demo.layout import (
    ACTS,
    MARGIN,
    NO_RING,
    THINGS_PER_ACT,
    USUAL_VIEW,
    View,
    arrange,
    draw_camera,
)

NOISE = 0.015  # standard deviation of the camera noise, for brightness from 0 to 1

ON_THING = 0.25
"""A patch is on a thing if the thing covers at least this share of it."""


@dataclass(frozen=True)
class ClipBatch:
    """Rendered scenes.

    Attributes:
        frames: `b c t H W`, RGB, 0 to 1.
        evidence: `b t H W`, or `b a t H W` for several acts, 0 to 1: 1 where a thing of the act is
            and no other act hides it.
        labels: `b` or `b a`, index into `CLASSES`.
        camera: `b t 2` (y, x), the place that the middle of each frame shows.
    """

    frames: Tensor
    evidence: Tensor
    labels: Tensor
    camera: Tensor


def render(
    labels: Tensor,
    generator: Generator,
    *,
    frames: int,
    height: int,
    width: int,
    split: Split = "train",
    view: View = USUAL_VIEW,
    ringed: Tensor | None = None,
    noise: float = NOISE,
) -> ClipBatch:
    """Render one random scene per label, or per row of two labels.

    Args:
        labels: `b` or `b 2`, indices into `CLASSES`.
        generator: source of all randomness, on the CPU.
        frames: number of frames, at the centres of equal segments of the clip.
        height, width: size of a frame, in pixels.
        split: which sprites and grounds to draw from.
        view: how near the things are, and how the camera moves.
        ringed: `b`, the act whose things have the ring, or `NO_RING`. Default: the first where
            both acts move, else none.
        noise: standard deviation of the camera noise.
    """
    rows = rearrange(labels, "b ... -> b (...)")
    b, live = rows.shape
    aspect = width / height
    time = (torch.arange(frames) + 0.5) / frames
    if ringed is None:
        ringed = torch.full((b,), 0 if live == ACTS else NO_RING)
    camera = draw_camera(b, generator, time, view)
    things = arrange(
        rows, ringed, generator, time, height=height, aspect=aspect, split=split, view=view
    )
    canvas = torch.zeros(b, frames, height, width, 3 + live)
    ground = _ground(b, generator, split, camera, height, width)
    canvas[..., :3] = rearrange(ground, "b c t H W -> b t H W c")
    for index in range(things.radius.shape[1]):
        act = (index - 1) // THINGS_PER_ACT  # -1 for the still thing
        paint(canvas, things, index, camera, act if act < live else -1)
    grain = noise * torch.randn(canvas.shape[:4], generator=generator)
    video = (canvas[..., :3] + grain[..., None]).clamp(0, 1)
    masks = rearrange(canvas[..., 3:], "b t H W a -> b a t H W")
    return ClipBatch(
        frames=rearrange(video, "b t H W c -> b c t H W"),
        evidence=masks[:, 0] if labels.ndim == 1 else masks,
        labels=labels,
        camera=camera,
    )


def touched(batch: ClipBatch) -> Tensor:
    """Return where the acts' things are in a frame or its neighbours; shaped as the evidence."""
    return _over_frames(batch, reach=1)


def path(batch: ClipBatch) -> Tensor:
    """Return where the acts' things are in any frame of the clip; shaped as the evidence."""
    return _over_frames(batch, reach=batch.frames.shape[2])


def coverage_of(evidence: Tensor, patch: tuple[int, int]) -> Tensor:
    """Return the covered share of each patch, `... t h w`.

    Args:
        evidence: `... t H W`, 0 to 1 per pixel.
        patch: height and width of a patch, in pixels.
    """
    y, x = patch
    return reduce(evidence, "... t (h y) (w x) -> ... t h w", "mean", y=y, x=x)


def _over_frames(batch: ClipBatch, reach: int) -> Tensor:
    """Return the largest evidence of the frames up to `reach` away, moved as the camera moved."""
    t, height, width = batch.evidence.shape[-3:]
    masks = rearrange(batch.evidence, "b ... t H W -> b t (...) H W")
    rows = []
    for here in range(t):
        near = range(max(0, here - reach), min(t, here + reach + 1))
        shifts = {there: batch.camera[:, [here]] - batch.camera[:, [there]] for there in near}
        moved = [look_at(masks[:, i], shift, height, width) for i, shift in shifts.items()]
        rows.append(torch.stack(moved).amax(dim=0)[:, :, 0])
    return torch.stack(rows, dim=2).reshape(batch.evidence.shape)


def _ground(
    b: int, generator: Generator, split: Split, camera: Tensor, height: int, width: int
) -> Tensor:
    """Return the ground as the camera shows it, `b c t H W`."""
    border = math.ceil(MARGIN * height / 2)
    high, wide = height + 2 * border, width + 2 * border
    y, x = axis(high, high / height), axis(wide, wide / height)
    canvas = draw_grounds(b, generator, split, y, x)
    return look_at(canvas, camera, height, width)
