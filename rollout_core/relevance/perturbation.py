"""What a model says of a clip whose patches are taken away, a share at a time."""

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from rollout_core.contract import Fill
from rollout_core.model.timesformer import TimeSformer

FORWARD_TOKENS = 16_384
"""Tokens that one forward may hold: about ten clips of the base size."""


@torch.inference_mode()
def perturbed_probabilities(
    model: TimeSformer,
    clip: Tensor,
    order: Tensor,
    *,
    fill: Fill,
    target: int,
    steps: int,
    batch_clips: int | None = None,
) -> Tensor:
    """Replace a clip's patches in the given order, and watch the probability of a class.

    Args:
        clip: `1 c t H W`, normalised, on the model's device and in its dtype.
        order: int64 `p`, a permutation of the patches, counted in the order `(t h w)`.
        fill: what stands where a patch was; see `fill_of`.
        target: index of the class.
        steps: equal shares of the patches, to within one patch, that go one after the other.
        batch_clips: how many a forward may hold; default: see `forward_clips`.
    Returns:
        float32 `steps+1`, on the CPU: the probability with 0, 1/steps … all of the patches
        replaced.
    Raises:
        ValueError: `order` is no permutation of the patches.
    """
    grid = model.grid_of(clip)
    rank = _rank(order, grid).to(clip.device)  # t h w
    counts = torch.linspace(0, rank.numel(), steps + 1).round().to(clip.device)
    a = model.architecture
    patch = a.patch_height, a.patch_width
    replacement = fill_of(clip, fill, patch)
    probabilities = []
    most = batch_clips or forward_clips(rank.numel())
    for batch in counts.chunk(-(-len(counts) // most)):
        logits = model(torch.where(_missing(rank, batch, patch), replacement, clip))
        probabilities.append(logits.float().softmax(dim=1)[:, target])
    return torch.cat(probabilities).cpu()


def forward_clips(tokens: int) -> int:
    """Return how many clips of so many patches one forward may hold."""
    return max(1, FORWARD_TOKENS // tokens)


def fill_of(clips: Tensor, fill: Fill, patch: tuple[int, int]) -> Tensor:
    """Make what missing patches are replaced by.

    "blur" takes the detail: each frame through a Gaussian whose standard deviation is a patch's
    side. "mean" takes all but the clip's mean colour. "still" takes the motion: every frame
    becomes the mean frame.

    Args:
        clips: `b c t H W`.
        patch: height and width of a patch, in pixels.
    Returns:
        What can be broadcast to `b c t H W`.
    """
    if fill == "mean":
        return reduce(clips, "b c t H W -> b c 1 1 1", "mean")
    if fill == "still":
        return reduce(clips, "b c t H W -> b c 1 H W", "mean")
    rows, columns = (
        _gaussian(size, sigma).to(clips)
        for size, sigma in zip(clips.shape[-2:], patch, strict=True)
    )
    return rows @ clips @ columns.T


def _gaussian(size: int, sigma: float) -> Tensor:
    """Return the weights, `to from`, that blur a line; beyond its ends there is nothing."""
    place = torch.arange(size, dtype=torch.float32)
    distance = place[:, None] - place
    return (-(distance**2) / (2 * sigma**2)).softmax(dim=1)


def _rank(order: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Return when each patch goes, `t h w`, from 0."""
    t, h, w = grid
    count = t * h * w
    rank = torch.argsort(order)
    if len(order) != count or not torch.equal(order[rank], torch.arange(count).to(order)):
        raise ValueError(f"order is no permutation of the {count} patches of {t}×{h}×{w}")
    return rearrange(rank, "(t h w) -> t h w", t=t, h=h, w=w)


def _missing(rank: Tensor, counts: Tensor, patch: tuple[int, int]) -> Tensor:
    """Return which pixels are replaced when `counts`, `s`, patches are gone: `s 1 t H W`."""
    gone = rank < rearrange(counts, "s -> s 1 1 1")
    return repeat(gone, "s t h w -> s 1 t (h y) (w x)", y=patch[0], x=patch[1])
