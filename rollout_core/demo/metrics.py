"""How well a map points at evidence that is known.

Each score is a number a clip, of maps `b t h w` against coverage `b t h w`: the share of each
patch that the moving object covers (a blinking object also while it is off). Only the positive
part of a map counts, and a map that is 0 everywhere says as much as a constant one. Where several
patches are the most relevant, a score is its mean over them: a constant map scores as chance.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Generator, Tensor

ON_OBJECT = 0.25
"""A patch is on the moving object when the object covers at least this share of it."""

CONFIDENCE = 0.95
RESAMPLES = 2000


def coverage_of(evidence: Tensor, patch: tuple[int, int]) -> Tensor:
    """Turn pixels, `... t H W`, into the share of each patch that is covered, `... t h w`.

    Args:
        patch: height and width of a patch, in pixels.
    """
    y, x = patch
    return reduce(evidence, "... t (h y) (w x) -> ... t h w", "mean", y=y, x=x)


def pointing_game(relevance: Tensor, coverage: Tensor) -> Tensor:
    """Score 1 where the most relevant patch of a clip is on the object, else 0. Returns `b`."""
    flat, evidence = (rearrange(m, "b t h w -> b (t h w)") for m in (relevance, coverage))
    return _peak_on_object(flat, evidence)


def frame_hit_rate(relevance: Tensor, coverage: Tensor) -> Tensor:
    """Return the share of frames whose own most relevant patch is on the object, `b`.

    A frame counts when at least one of its patches is on the object. It need not be a frame that
    the map finds relevant: this score asks where the map points to all along the motion.
    """
    flat, evidence = (rearrange(m, "b t h w -> b t (h w)") for m in (relevance, coverage))
    counts = (evidence >= ON_OBJECT).any(dim=-1).float()  # b t
    return (_peak_on_object(flat, evidence) * counts).sum(dim=1) / counts.sum(dim=1)


def object_share(relevance: Tensor, coverage: Tensor) -> Tensor:
    """Return the share of a clip's relevance that is on the object, `b`.

    Relevance counts by how much of its patch the object covers.
    """
    flat, evidence = (
        rearrange(m, "b t h w -> b (t h w)") for m in (_positive(relevance), coverage)
    )
    return (flat * evidence).sum(dim=1) / flat.sum(dim=1)


def leaning(relevance: Tensor, coverages: Tensor) -> Tensor:
    """Return how two objects divide the relevance that is on either of them.

    Args:
        coverages: `b o t h w`, of each object.
    Returns:
        `b o`, sums to 1 over the objects; even where nothing is on any of them.
    """
    shares = torch.stack([object_share(relevance, each) for each in coverages.unbind(1)], dim=1)
    total = shares.sum(dim=1, keepdim=True)
    return torch.where(total > 0, shares / total, 1 / shares.shape[1])


def rank_correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Return Spearman's rank correlation of each map, `b t h w`, with its other, `b`.

    That of a constant map with anything is 0.
    """
    ranks = [_ranks(rearrange(m, "b t h w -> b (t h w)")) for m in (maps, others)]
    first, second = (r - r.mean(dim=1, keepdim=True) for r in ranks)
    return torch.cosine_similarity(first, second, dim=1)


@dataclass(frozen=True)
class Interval:
    """A mean over clips and what it may be with other clips."""

    mean: float
    low: float
    high: float


def bootstrap(values: Tensor, *, seed: int = 0) -> Interval:
    """Return the mean of `values`, `b`, and its interval of `CONFIDENCE`, by resampling clips."""
    values = values.double()
    generator = Generator().manual_seed(seed)
    drawn = torch.randint(len(values), (RESAMPLES, len(values)), generator=generator)
    tail = (1 - CONFIDENCE) / 2
    low, high = values[drawn].mean(dim=1).quantile(torch.tensor([tail, 1 - tail]).double()).tolist()
    return Interval(values.mean().item(), low, high)


def _peak_on_object(relevance: Tensor, evidence: Tensor) -> Tensor:
    """Return the share of the most relevant patches that are on the object, `... p` to `...`."""
    relevance = relevance.clamp(min=0)
    peak = (relevance == relevance.amax(dim=-1, keepdim=True)).float()
    return (peak * (evidence >= ON_OBJECT)).sum(dim=-1) / peak.sum(dim=-1)


def _positive(relevance: Tensor) -> Tensor:
    """Clamp maps, `b t h w`, at 0; one with nothing above it becomes constant."""
    positive = relevance.clamp(min=0)
    empty = reduce(positive, "b t h w -> b 1 1 1", "sum") == 0
    return torch.where(empty, torch.ones_like(positive), positive)


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each value in its row, `b n`; equal values share their mean rank."""
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values, side="left")
    up_to = torch.searchsorted(ordered, values, side="right")
    return (below + up_to - 1).double() / 2
