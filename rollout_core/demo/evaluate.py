"""How well the demo model names a motion, and whether its maps point at what moved.

`python -m rollout_core.demo.evaluate` prints both for clips that the training never drew.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Generator, Tensor
from tqdm import trange

from rollout_core.demo.shapes import CLASSES
from rollout_core.demo.train import draw_clips
from rollout_core.model.checkpoints import MOVING_SHAPES_PATH, load_model
from rollout_core.model.specs import MOVING_SHAPES
from rollout_core.model.timesformer import TimeSformer
from rollout_core.relevance.explain import explain_clips, normalize

HELD_OUT_SEED = 2_000_003
"""Seeds of training are small."""

BATCH_CLIPS = 50

MAPS: dict[str, dict[str, Any]] = {
    "rollout": {},
    "rollout from the second layer": {"start_layer": 1},
    "last layer's raw attention": {"method": "attention"},
    "contributions, projection": {"method": "contribution_rollout"},
    "contributions, deviation": {"method": "contribution_rollout", "weighting": "deviation"},
}
"""The maps that are judged, and the options of `explain_clips` that make them."""


@dataclass(frozen=True)
class Report:
    """Figures over held-out clips.

    Attributes:
        confusion: `k k`, clips by true class and by answer.
        pointing: by kind of map, or "chance": mean pointing game, mean relevance on the object.
    """

    confusion: Tensor
    pointing: dict[str, tuple[float, float]]

    @property
    def top1(self) -> float:
        """Share of right answers."""
        return float(self.confusion.trace() / self.confusion.sum())

    def lines(self) -> Iterator[str]:
        """Yield the report, line by line."""
        yield f"top-1 on {int(self.confusion.sum())} held-out clips: {self.top1:.4f}"
        for name, row in zip(CLASSES, self.confusion, strict=True):
            yield f"  {name:<8}" + " ".join(f"{int(count):4d}" for count in row)
        yield "map                             pointing game   relevance on the object"
        for name, (hits, share) in self.pointing.items():
            yield f"{name:<32}{hits:<16.3f}{share:.3f}"


def evaluate(model: TimeSformer, *, clips: int, seed: int = HELD_OUT_SEED) -> Report:
    """Classify and explain `clips` fresh clips."""
    generator = Generator().manual_seed(seed)
    confusion = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.long)
    sums = {name: torch.zeros(2) for name in ("chance", *MAPS)}
    for first in trange(0, clips, BATCH_CLIPS, unit="batch", desc="evaluating"):
        batch = draw_clips(min(BATCH_CLIPS, clips - first), generator)
        maps, logits = relevance_maps(model, normalize(batch.frames, MOVING_SHAPES))
        for truth, answer in zip(batch.labels, logits.argmax(dim=1), strict=True):
            confusion[truth, answer] += 1
        a = model.architecture
        coverage = coverage_of(batch.evidence, (a.patch_height, a.patch_width))
        on_object = (coverage >= ON_OBJECT).float()
        maps["chance"] = torch.ones_like(coverage)
        for name, relevance in maps.items():
            scores = pointing_game(relevance, coverage), object_share(relevance, on_object)
            sums[name] += torch.stack([score.sum() for score in scores])
    means = {name: (scores / clips).tolist() for name, scores in sums.items()}
    return Report(confusion, {name: (hits, share) for name, (hits, share) in means.items()})


def relevance_maps(model: TimeSformer, clips: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return what is compared, maps `b t h w` by name, and the logits, `b k`."""
    explanations = {name: explain_clips(model, clips, **how) for name, how in MAPS.items()}
    maps = {name: explanation.relevance for name, explanation in explanations.items()}
    return maps, explanations["rollout"].logits


def main() -> None:
    """Read the command line, evaluate and print."""
    parser = argparse.ArgumentParser(
        prog="python -m rollout_core.demo.evaluate", description=__doc__
    )
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    parser.add_argument("--checkpoint", type=Path, default=MOVING_SHAPES_PATH)
    options = parser.parse_args()
    report = evaluate(load_model(options.checkpoint), clips=options.clips, seed=options.seed)
    print(*report.lines(), sep="\n")


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


if __name__ == "__main__":
    main()
