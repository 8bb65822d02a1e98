"""Generates clips of moving shapes, whose class is the motion and whose evidence is known.

A scene has a textured background, still distractors, and one moving object (or several, each with
its own class). Looks and places are random, so only the motion determines the class. Scenes are
drawn analytically: the same seed gives the same scene at any size and frame rate.

Lengths are in half-heights of the frame: y runs from -1 (top) to 1 (bottom), and x from -w/h to w/h
for a frame of w × h pixels. Time runs from 0 to 1 over a clip.

`python -m rollout_core.demo.shapes` writes the sample video and its label.
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
TRAVEL = (0.6, 1.1)  # length of a translation
SCALING = (1.8, 2.6)  # last radius of a growing object divided by its first
SWING_TURNS = (1.0, 1.6)  # periods per clip
BLINK_TURNS = (1.5, 2.5)  # periods per clip
APART = 0.45  # distance of several moving objects from the middle of the frame
GROUND_CELLS = 5  # cells of the coarsest background texture along the height
NOISE = 0.02  # standard deviation of the camera noise, for brightness from 0 to 1

# Place and size at a single moment must not reveal the class, so the middle of every path has the
# same distribution for all classes.

SAMPLE_PATH = Path(__file__).with_name("sample.mp4")
LABEL_PATH = Path(__file__).with_name("sample.label")
SAMPLE_LABEL = "left"
SAMPLE_SEED = 19
SAMPLE_FRAME_RATE_HZ = 25
SAMPLE_HEIGHT, SAMPLE_WIDTH = 360, 640


@dataclass(frozen=True)
class Looks:
    """Form and colours of an object; each field has one row per scene.

    Attributes:
        outline: `b`, index of the form: disc, square, diamond or ring.
        color, stripe: `b 3`, the two colours of the stripes, 0 to 1.
        angle, pitch: `b`, direction in radians and wave number of the stripes.
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
        evidence: `b t H W`, or `b o t H W` for several objects, 0 to 1: 1 where the moving object
            is and no later one hides it. A blinking object counts even while it is invisible.
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
    """Render one random scene per label, or per row of labels.

    Args:
        labels: indices into `CLASSES`: `b`, or `b o` for `o` moving objects per scene. Several
            objects begin apart, and later ones cover earlier ones.
        generator: source of all randomness, on the CPU.
        frames: number of frames, at the centres of equal segments of the clip.
        height, width: size of a frame, in pixels.
        noise: standard deviation of the camera noise.
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


def sample_frames() -> NDArray[np.uint8]:
    """Render the sample's scene, uint8 `t H W c`, RGB, without noise so that it compresses well."""
    batch = render(
        torch.tensor([CLASSES.index(SAMPLE_LABEL)]),
        Generator().manual_seed(SAMPLE_SEED),
        frames=round(MOVING_SHAPES.clip_seconds * SAMPLE_FRAME_RATE_HZ),
        height=SAMPLE_HEIGHT,
        width=SAMPLE_WIDTH,
        noise=0.0,
    )
    frames = rearrange(batch.frames, "1 c t H W -> t H W c")
    return (frames * 255).round().to(torch.uint8).numpy()


def write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    """Encode frames, uint8 `t H W c`, RGB, as H.264 in MP4."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=SAMPLE_FRAME_RATE_HZ)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "26", "preset": "slow"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def main() -> None:
    """Write the sample video and its label."""
    write_video(SAMPLE_PATH, sample_frames())
    LABEL_PATH.write_text(f"{SAMPLE_LABEL}\n", encoding="utf-8")


def _still(b: int, generator: Generator, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return backgrounds with distractors, `b c H W`, and the backgrounds' brightness, `b`."""
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
    """Return the object's path `b t 2` (y, x), radii `b t` and visibility `b t`, 0 or 1."""
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
    """Return which labels are the named class."""
    return labels == CLASSES.index(name)


def _place(b: int, generator: Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return random centres `b 2` (y, x) in the central square, and random radii `b`."""
    center = _uniform((b, 2), (-0.5, 0.5), generator, device)
    return center, _uniform(b, RADIUS, generator, device)


def _places(
    b: int, count: int, generator: Generator, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Return centres and radii of `count` moving objects; several are spread around the middle."""
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
    """Return random forms and colours that contrast with the background."""
    device = ground_brightness.device
    hue = _uniform((b, 3), (-0.15, 0.15), generator, device)
    contrast = _uniform(b, (0.3, 0.45), generator, device)
    # Away from the nearer end of the brightness range.
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
    """Return coverage, `b t H W`, 0 to 1, and colours, `b c t H W`, of an object at `path`."""
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
    """Return smooth random textures, `b c H W`, each with a random mean colour."""
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
    """Return uniform random numbers, drawn on the CPU and moved to the device."""
    size = (shape,) if isinstance(shape, int) else shape
    return torch.empty(size).uniform_(*span, generator=generator).to(device)


if __name__ == "__main__":
    main()
