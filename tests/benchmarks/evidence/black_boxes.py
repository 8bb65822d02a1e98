"""Maps by perturbation: how much the logits of classes fall when parts of a clip are hidden.

They use the model only through `answer`, which maps clips, `n c t H W`, to one number for each
class, `n r`. So they work with any model, and need hundreds of forwards for a clip.
"""

from collections.abc import Callable

import torch
from einops import rearrange, reduce, repeat
from torch import Generator, Tensor

Answer = Callable[[Tensor], Tensor]

BATCH_CLIPS = 32
CUBOID = (2, 2, 2)
"""Frames, rows and columns of patches that are hidden together."""

KERNEL_WIDTH = 0.25
"""Width of LIME's kernel, in cosine distance from the whole clip."""

RIDGE = 1.0
TUBE_STEPS = 10
TUBE_COLOR = 2.0
"""Weight of colours, scaled to 0 to 1, against time and place, also scaled to 0 to 1."""


def occlusion(answer: Answer, clip: Tensor, replacement: Tensor, cuboids: Tensor) -> Tensor:
    """Hide one cuboid of patches after the other; measure how much is lost while it is hidden.

    Source: Zeiler & Fergus 2014, arXiv:1311.2901, with time as a third dimension.

    Args:
        clip: `1 c t H W`.
        replacement: pixels for hidden patches; broadcasts to `clip`.
        cuboids: bool `n t h w`; see `sliding_cuboids`.
    Returns:
        `r t h w`: the mean loss over the cuboids that cover a patch; 0 where there is none. Takes
        one forward for the clip and one for each cuboid.
    """
    whole = answer(clip).cpu()
    loss = whole - _hidden(answer, clip, replacement, _pixels(cuboids, clip))  # n r
    sums = torch.einsum("n r, n t h w -> r t h w", loss, cuboids.float())
    return sums / reduce(cuboids.float(), "n t h w -> t h w", "sum").clamp(min=1)


def lime(
    answer: Answer,
    clip: Tensor,
    replacement: Tensor,
    segments: Tensor,
    *,
    forwards: int,
    generator: Generator,
) -> Tensor:
    """Hide random halves of a clip's segments and fit a linear model of the answers.

    The fit is a ridge regression on the segments that are visible. A sample's weight is
    exp(−distance² / width²) of its cosine distance from the whole clip. Source: Ribeiro, Singh &
    Guestrin 2016, arXiv:1602.04938, for pictures and words.

    Args:
        clip: `1 c t H W`.
        replacement: pixels for hidden segments; broadcasts to `clip`.
        segments: int64 `t H W`, the segment of each pixel, counted from 0.
        generator: draws the samples, on the CPU.
    Returns:
        `r t H W`: the coefficient of each pixel's segment.
    """
    count = int(segments.max()) + 1
    present = torch.randint(2, (forwards, count), generator=generator).bool()
    present[0] = True
    answers = _hidden(answer, clip, replacement, ~present[:, segments])
    distance = 1 - present.double().mean(dim=1).sqrt()  # of the cosine, from the whole clip
    weight = torch.exp(-((distance / KERNEL_WIDTH) ** 2))
    found = _ridge(present.double(), answers.double(), weight).float()  # segment r
    return rearrange(found[segments], "t H W r -> r t H W")


def tube_segments(clip: Tensor, count: int, generator: Generator) -> Tensor:
    """Group a clip's pixels, `1 c t H W`, by place, time and colour: int64 `t H W`.

    k-means from random pixels: superpixels, after the idea of Achanta et al. 2012 ("SLIC"), with
    time as a third dimension.
    """
    _, _, t, height, width = clip.shape
    axes = [torch.linspace(0, 1, size) for size in (t, height, width)]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)  # t H W 3
    color = rearrange(clip.cpu().float(), "1 c t H W -> t H W c")
    color = (color - color.min()) / (color.max() - color.min())
    features = rearrange(torch.cat([place, TUBE_COLOR * color], dim=-1), "t H W f -> (t H W) f")
    centers = features[torch.randperm(len(features), generator=generator)[:count]]
    for _ in range(TUBE_STEPS):
        nearest = torch.cdist(features, centers).argmin(dim=1)
        sums = torch.zeros_like(centers).index_add(0, nearest, features)
        sizes = nearest.bincount(minlength=count)[:, None]
        centers = torch.where(sizes > 0, sums / sizes.clamp(min=1), centers)
    return rearrange(nearest, "(t H W) -> t H W", t=t, H=height)


def sliding_cuboids(grid: tuple[int, int, int], most: int) -> Tensor:
    """Return places of a cuboid in a grid: bool `n t h w`, true inside the cuboid.

    All places, or `most` that are spread evenly among them.
    """
    t, y, x = (_spans(size, side) for size, side in zip(grid, CUBOID, strict=True))
    cuboids = (
        rearrange(t, "i t -> i 1 1 t 1 1")
        & rearrange(y, "j h -> 1 j 1 1 h 1")
        & rearrange(x, "k w -> 1 1 k 1 1 w")
    )
    everywhere = rearrange(cuboids, "i j k t h w -> (i j k) t h w")
    if len(everywhere) <= most:
        return everywhere
    return everywhere[torch.linspace(0, len(everywhere) - 1, most).round().long()]


def _spans(size: int, side: int) -> Tensor:
    """Return every place of `side` neighbours among `size`: bool `n size`."""
    first = torch.arange(max(1, size - side + 1))[:, None]
    place = torch.arange(size)
    return (first <= place) & (place < first + side)


def _pixels(patches: Tensor, clip: Tensor) -> Tensor:
    """Repeat values of patches, `n t h w`, for their pixels: `n t H W`."""
    y, x = clip.shape[-2] // patches.shape[-2], clip.shape[-1] // patches.shape[-1]
    return repeat(patches, "n t h w -> n t (h y) (w x)", y=y, x=x)


def _hidden(answer: Answer, clip: Tensor, replacement: Tensor, hidden: Tensor) -> Tensor:
    """Return the answers, `n r`, for a clip under masks, bool `n t H W`, true where hidden."""
    answers = [
        answer(torch.where(masks[:, None].to(clip.device), replacement, clip)).cpu()
        for masks in hidden.split(BATCH_CLIPS)
    ]
    return torch.cat(answers)


def _ridge(inputs: Tensor, outputs: Tensor, weight: Tensor) -> Tensor:
    """Return the coefficients, `f r`, of a weighted ridge regression with an intercept.

    Args:
        inputs: `n f`.
        outputs: `n r`.
        weight: `n`.
    """
    x = inputs - weight @ inputs / weight.sum()
    y = outputs - weight @ outputs / weight.sum()
    penalty = RIDGE * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    return torch.linalg.solve(x.T * weight @ x + penalty, x.T * weight @ y)
