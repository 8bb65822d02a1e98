"""Clips whose evidence is known: one object moves, and how it moves is the class.

A scene is a textured ground, still distractors and one moving object (or several, each with a
class of its own), all with a look and a place drawn at random. Nothing but the motion tells the
class. Scenes are drawn analytically, so the same seed gives the same scene at any size and frame
rate.

Lengths are in half-heights of the frame: y runs from -1 (top) to 1 (bottom), x likewise and
further where the frame is wider than high. Time runs from 0 to 1 over a clip.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from numpy.typing import NDArray
from torch import Generator, Tensor

from rollout_core.model.specs import MOVING_SHAPES

CLASSES = ("left", "right", "up", "down", "grow", "shrink", "swing", "blink")

DISTRACTORS = 2
OUTLINES = 4  # disc, square, diamond, ring
RADIUS = (0.2, 0.42)
TRAVEL = (0.6, 1.1)  # of a translation, from end to end
SCALING = (1.8, 2.6)  # of a grow, from the first radius to the last
SWING_TURNS = (1.0, 1.6)  # full periods in a clip
BLINK_TURNS = (1.5, 2.5)
APART = 0.45  # of several moving objects from the middle of their frame
GROUND_CELLS = 5  # of the coarsest texture, along the height
NOISE = 0.02  # standard deviation of the camera's noise, brightness runs from 0 to 1

# What carries a class must not be told by where or how large the object is at one instant, so
# the middle of every path is drawn the same way for all classes.


@dataclass(frozen=True)
class Looks:
    """How an object is painted; each field has one row a scene.

    Attributes:
        outline: `b`, index of its form.
        color, stripe: `b 3`, the two colours of its stripes, 0 to 1.
        angle, pitch: `b`, direction (radians) and wave number of the stripes.
    """

    outline: Tensor
    color: Tensor
    stripe: Tensor
    angle: Tensor
    pitch: Tensor


@dataclass(frozen=True)
class ClipBatch:
    """Rendered scenes.

    Attributes:
        frames: `b c t H W`, RGB, 0 to 1.
        evidence: `b t H W`, or `b o t H W` for several objects: 1 where the moving object is (a
            blinking one also while it is off) and no later one hides it.
        labels: `b` or `b o`, index into `CLASSES`.
    """

    frames: Tensor
    evidence: Tensor
    labels: Tensor


def render(
    labels: Tensor,
    generator: Generator,
    *,
    frames: int,
    height: int,
    width: int,
    noise: float = NOISE,
) -> ClipBatch:
    """Draw one random scene for each label, or for each row of labels.

    Args:
        labels: index into `CLASSES`: `b`, or `b o` for `o` moving objects in a scene, which begin
            apart; a later one passes in front of an earlier one.
        generator: the source of all randomness, on the CPU.
        frames: instants drawn, spread evenly over the clip: the middles of equal spans.
        height, width: of a frame, in pixels.
        noise: standard deviation of the camera's noise.
    """
    b, device = len(labels), labels.device
    y = (torch.arange(height, device=device) + 0.5) * 2 / height - 1
    x = ((torch.arange(width, device=device) + 0.5) * 2 / width - 1) * (width / height)
    time = (torch.arange(frames, device=device) + 0.5) / frames
    canvas, ground_brightness = _still(b, generator, y, x)

    video = repeat(canvas, "b c H W -> b c t H W", t=frames)
    evidence: list[Tensor] = []
    objects = rearrange(labels, "b ... -> (...) b")
    places = _places(b, len(objects), generator, device)
    for kind, (center, radius) in zip(objects, places, strict=True):
        path, radii, visible = _move(kind, center, radius, time, generator)
        looks = _looks(b, generator, ground_brightness)
        mask, paint = _draw(looks, path, radii, y, x)  # b t H W, b c t H W
        shown = mask * rearrange(visible, "b t -> b t 1 1")
        video = torch.lerp(video, paint, rearrange(shown, "b t H W -> b 1 t H W"))
        evidence = [*(earlier * (1 - shown) for earlier in evidence), mask]
    grain = torch.randn((b, 3, frames, height, width), generator=generator).to(device)
    masks = evidence[0] if labels.ndim == 1 else torch.stack(evidence, dim=1)
    return ClipBatch((video + noise * grain).clamp(0, 1), masks, labels)


def random_labels(count: int, generator: Generator) -> Tensor:
    """Draw `count` class indices, each class equally likely."""
    return torch.randint(len(CLASSES), (count,), generator=generator)


def random_label_pairs(count: int, generator: Generator) -> Tensor:
    """Draw `count` pairs of two different class indices, `count 2`."""
    first = random_labels(count, generator)
    step = torch.randint(1, len(CLASSES), (count,), generator=generator)
    return torch.stack((first, (first + step) % len(CLASSES)), dim=1)


def _still(b: int, generator: Generator, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Draw grounds with their distractors, `b c H W`, and tell the grounds' brightness, `b`."""
    canvas = _ground(b, generator, len(y), len(x), y.device)
    ground_brightness = reduce(canvas, "b c H W -> b", "mean")
    for _ in range(DISTRACTORS):
        center, radius = _place(b, generator, y.device)
        looks = _looks(b, generator, ground_brightness)
        mask, paint = _draw(looks, center[:, None], radius[:, None], y, x)
        canvas = torch.lerp(canvas, paint[:, :, 0], mask)
    return canvas, ground_brightness


def _move(
    labels: Tensor, center: Tensor, radius: Tensor, time: Tensor, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the object's path `b t 2` (y, x), its radii `b t` and whether it shows, `b t`."""
    b, t = len(labels), len(time)
    device = labels.device
    centered = repeat(time - 0.5, "t -> b t", b=b)
    travel = _uniform(b, TRAVEL, generator, device)[:, None]
    scaling = _uniform(b, SCALING, generator, device)[:, None]
    phase = _uniform(b, (0, 2 * math.pi), generator, device)[:, None]
    turns = torch.where(
        _is(labels, "blink"),
        _uniform(b, BLINK_TURNS, generator, device),
        _uniform(b, SWING_TURNS, generator, device),
    )[:, None]
    wave = torch.sin(2 * math.pi * turns * centered + phase)

    sideways = _is(labels, "right").float() - _is(labels, "left").float()
    downward = _is(labels, "down").float() - _is(labels, "up").float()
    growth = _is(labels, "grow").float() - _is(labels, "shrink").float()
    swing = _is(labels, "swing").float()[:, None]
    direction = torch.stack((downward, sideways), dim=-1)[:, None]  # b 1 2
    swing_angle = _uniform(b, (0, 2 * math.pi), generator, device)
    swing_axis = torch.stack((swing_angle.sin(), swing_angle.cos()), dim=-1)[:, None]

    path = center[:, None] + direction * (travel * centered)[..., None]
    path = path + swing_axis * (swing * wave * travel / 2)[..., None]
    radii = radius[:, None] * scaling ** (growth[:, None] * centered)
    visible = torch.where(
        _is(labels, "blink")[:, None], (wave > 0).float(), torch.ones(b, t, device=device)
    )
    return path, radii, visible


def _is(labels: Tensor, name: str) -> Tensor:
    return labels == CLASSES.index(name)


def _place(b: int, generator: Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw centres `b 2` (y, x), inside the central square, and radii `b`."""
    center = _uniform((b, 2), (-0.5, 0.5), generator, device)
    return center, _uniform(b, RADIUS, generator, device)


def _places(
    b: int, count: int, generator: Generator, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Place `count` moving objects as `_place` does; several stand apart, around the middle."""
    places = [_place(b, generator, device) for _ in range(count)]
    if count == 1:
        return places
    angle = _uniform(b, (0, 2 * math.pi), generator, device)
    angles = [angle + 2 * math.pi * index / count for index in range(count)]
    return [
        (center / 3 + APART * torch.stack((angle.sin(), angle.cos()), dim=-1), radius)
        for angle, (center, radius) in zip(angles, places, strict=True)
    ]


def _looks(b: int, generator: Generator, ground_brightness: Tensor) -> Looks:
    """Draw colours that are lighter or darker than the ground, and a striped pattern."""
    device = ground_brightness.device
    hue = _uniform((b, 3), (-0.15, 0.15), generator, device)
    contrast = _uniform(b, (0.3, 0.45), generator, device)
    # Towards the side with more room.
    sign = torch.where(ground_brightness > 0.5, -1.0, 1.0)
    brightness = (ground_brightness + sign * contrast)[:, None]
    stripe = brightness + _uniform((b, 1), (-0.12, 0.12), generator, device)
    return Looks(
        outline=torch.randint(OUTLINES, (b,), generator=generator).to(device),
        color=(brightness + hue).clamp(0, 1),
        stripe=(stripe + hue).clamp(0, 1),
        angle=_uniform(b, (0, math.pi), generator, device),
        pitch=_uniform(b, (5, 12), generator, device),
    )


def _draw(looks: Looks, path: Tensor, radii: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Paint an object at `path`, `b t 2`: its coverage `b t H W` and its colours `b c t H W`."""
    dy = rearrange(y, "H -> 1 1 H 1") - rearrange(path[..., 0], "b t -> b t 1 1")
    dx = rearrange(x, "W -> 1 1 1 W") - rearrange(path[..., 1], "b t -> b t 1 1")
    radius = rearrange(radii, "b t -> b t 1 1")
    disc = torch.hypot(dy, dx) - radius
    square = torch.maximum(dy.abs(), dx.abs()) - 0.85 * radius
    diamond = (dy.abs() + dx.abs()) * math.sqrt(0.5) - 0.85 * radius
    ring = torch.maximum(disc, 0.45 * radius - torch.hypot(dy, dx))
    outline = rearrange(looks.outline, "b -> b 1 1 1")
    distance = torch.where(outline == 0, disc, square)
    distance = torch.where(outline == 2, diamond, distance)
    distance = torch.where(outline == 3, ring, distance)
    pixel = y[1] - y[0]
    coverage = (0.5 - distance / pixel).clamp(0, 1)

    angle, pitch = (rearrange(v, "b -> b 1 1 1") for v in (looks.angle, looks.pitch))
    wave = torch.sin(pitch / radius * 0.3 * (dy * angle.sin() + dx * angle.cos()))
    blend = rearrange(0.5 + 0.5 * wave, "b t H W -> b 1 t H W")
    color, stripe = (rearrange(v, "b c -> b c 1 1 1") for v in (looks.color, looks.stripe))
    return coverage, torch.lerp(color, stripe, blend)


def _ground(b: int, generator: Generator, height: int, width: int, device: torch.device) -> Tensor:
    """Draw a smooth random texture, `b c H W`, of a random mean colour."""
    texture = _uniform((b, 3, 1, 1), (0.2, 0.8), generator, device)
    aspect = width / height
    for octave, amplitude in enumerate((0.12, 0.08, 0.05)):
        cells = GROUND_CELLS * 2**octave
        coarse = _uniform((b, 3, cells, round(cells * aspect)), (-1, 1), generator, device)
        smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
        texture = texture + amplitude * smooth
    return texture.clamp(0, 1)


def _uniform(
    shape: int | tuple[int, ...],
    span: tuple[float, float],
    generator: Generator,
    device: torch.device,
) -> Tensor:
    size = (shape,) if isinstance(shape, int) else shape
    return torch.empty(size).uniform_(*span, generator=generator).to(device)


SAMPLE_PATH = Path(__file__).with_name("sample.mp4")


LABEL_PATH = Path(__file__).with_name("sample.label")


LABEL = "left"


SEED = 19


FRAME_RATE_HZ = 25


HEIGHT, WIDTH = 360, 640


def sample_frames() -> NDArray[np.uint8]:
    """Draw the sample's scene, uint8 `t H W c`, RGB. It has no noise, which would not compress."""
    batch = render(
        torch.tensor([CLASSES.index(LABEL)]),
        Generator().manual_seed(SEED),
        frames=round(MOVING_SHAPES.clip_seconds * FRAME_RATE_HZ),
        height=HEIGHT,
        width=WIDTH,
        noise=0.0,
    )
    frames = rearrange(batch.frames, "1 c t H W -> t H W c")
    return (frames * 255).round().to(torch.uint8).numpy()


def write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    """Encode frames, `t H W c`, as H.264."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE_HZ)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "26", "preset": "slow"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def main() -> None:
    """Write the clip and its label."""
    write_video(SAMPLE_PATH, sample_frames())
    LABEL_PATH.write_text(f"{LABEL}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
