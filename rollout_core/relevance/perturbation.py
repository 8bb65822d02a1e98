"""Class probabilities while the patches of a clip are replaced step by step."""

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from rollout_core.contract import Fill
from rollout_core.model.timesformer import TimeSformer

FORWARD_TOKENS = 16_384
"""Largest number of tokens in one forward: about ten clips of the base model."""


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
    """Return the probability of a class while patches are replaced in the given order.

    Args:
        clip: `1 c t H W`, normalised, on the model's device and in its dtype.
        order: int64 `p`, a permutation of the patch indices, `(t h w)`.
        fill: the replacement; see `fill_of`.
        target: index of the class.
        steps: number of steps; the patches are divided among them as evenly as possible.
        batch_clips: clips per forward; default: see `forward_clips`.
    Returns:
        float32 `steps+1`, on the CPU: the probability with 0, 1/steps, … and all of the patches
        replaced.
    Raises:
        ValueError: `order` is not a permutation of the patches.
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
    """Return how many clips of `tokens` patches each are run in one forward, at least 1."""
    return max(1, FORWARD_TOKENS // tokens)


def fill_of(clips: Tensor, fill: Fill, patch: tuple[int, int]) -> Tensor:
    """Return the pixels that replace missing patches.

    "blur" removes detail: a Gaussian per frame, with the size of a patch as standard deviation.
    "mean" leaves only the clip's mean colour. "still" removes motion: every frame is the mean over
    the frames.

    Args:
        clips: `b c t H W`.
        patch: height and width of a patch, in pixels.
    Returns:
        A tensor that broadcasts to `b c t H W`.
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
    """Return the blurring matrix of a line, `to from`; rows sum to 1, also near the ends."""
    place = torch.arange(size, dtype=torch.float32)
    distance = place[:, None] - place
    return (-(distance**2) / (2 * sigma**2)).softmax(dim=1)


def _rank(order: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Return the position of each patch in `order`, `t h w`, from 0."""
    t, h, w = grid
    count = t * h * w
    rank = torch.argsort(order)
    if len(order) != count or not torch.equal(order[rank], torch.arange(count).to(order)):
        raise ValueError(f"order is not a permutation of the {count} patches of {t}×{h}×{w}")
    return rearrange(rank, "(t h w) -> t h w", t=t, h=h, w=w)


def _missing(rank: Tensor, counts: Tensor, patch: tuple[int, int]) -> Tensor:
    """Return which pixels are replaced, bool `s 1 t H W`, after `counts`, `s`, patches."""
    gone = rank < rearrange(counts, "s -> s 1 1 1")
    return repeat(gone, "s t h w -> s 1 t (h y) (w x)", y=patch[0], x=patch[1])
