"""Evaluates the demo model: its accuracy, and whether its relevance maps find the moving object.

The metrics compare a map with the known evidence of a clip. `python -m rollout_core.demo.evaluate`
prints accuracy and metrics on held-out clips.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange, reduce
from torch import Generator, Tensor
from tqdm import trange

from rollout_core.contract import MethodOptions
from rollout_core.demo.shapes import CLASSES
from rollout_core.demo.train import draw_clips
from rollout_core.model.checkpoints import MOVING_SHAPES_PATH, load_model
from rollout_core.model.specs import MOVING_SHAPES
from rollout_core.model.timesformer import TimeSformer
from rollout_core.relevance.explain import explain_clips, normalize

HELD_OUT_SEED = 2_000_003
"""Larger than any seed used for training."""

BATCH_CLIPS = 50

MAPS = {
    "rollout": MethodOptions(),
    "rollout from the second layer": MethodOptions(start_layer=1),
    "last layer's raw attention": MethodOptions(method="attention"),
    "contributions, projection": MethodOptions(method="contribution_rollout"),
    "contributions, deviation": MethodOptions(method="contribution_rollout", weighting="deviation"),
}
"""The maps to evaluate, and the options of `explain_clips` that produce them."""

ON_OBJECT = 0.25
"""A patch is on the moving object if the object covers at least this share of it."""

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Report:
    """Results on held-out clips.

    Attributes:
        confusion: int64 `k k`, number of clips by true class (row) and predicted class (column).
        pointing: for each map in `MAPS` and for "chance": the means of `pointing_game` and of
            the relevance on patches of the object.
    """

    confusion: Tensor
    pointing: dict[str, tuple[float, float]]

    @property
    def top1(self) -> float:
        """Share of correct predictions, 0 to 1."""
        return float(self.confusion.trace() / self.confusion.sum())

    def lines(self) -> Iterator[str]:
        """Yield the report, line by line."""
        yield f"top-1 on {int(self.confusion.sum())} held-out clips: {self.top1:.4f}"
        for name, row in zip(CLASSES, self.confusion, strict=True):
            yield f"  {name:<8}" + " ".join(f"{int(count):4d}" for count in row)
        yield "map                             pointing game   relevance on the object"
        for name, (hits, share) in self.pointing.items():
            yield f"{name:<32}{hits:<16.3f}{share:.3f}"


@dataclass(frozen=True)
class Interval:
    """A mean over clips with its bootstrap confidence interval."""

    mean: float
    low: float
    high: float


def evaluate(model: TimeSformer, *, clips: int, seed: int = HELD_OUT_SEED) -> Report:
    """Classify and explain `clips` generated clips."""
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
    """Return the maps in `MAPS`, `b t h w` by name, and the logits, `b k`."""
    explanations = {name: explain_clips(model, clips, how) for name, how in MAPS.items()}
    maps = {name: explanation.relevance for name, explanation in explanations.items()}
    return maps, explanations["rollout"].logits


def coverage_of(evidence: Tensor, patch: tuple[int, int]) -> Tensor:
    """Return the covered share of each patch, `... t h w`.

    Args:
        evidence: `... t H W`, 0 to 1 per pixel.
        patch: height and width of a patch, in pixels.
    """
    y, x = patch
    return reduce(evidence, "... t (h y) (w x) -> ... t h w", "mean", y=y, x=x)


def pointing_game(relevance: Tensor, coverage: Tensor) -> Tensor:
    """Return 1 for clips whose most relevant patch is on the object, else 0, `b`.

    Several equally relevant patches share the score.

    Args:
        relevance, coverage: `b t h w`.
    """
    flat, evidence = (rearrange(m, "b t h w -> b (t h w)") for m in (relevance, coverage))
    return _peak_on_object(flat, evidence)


def frame_hit_rate(relevance: Tensor, coverage: Tensor) -> Tensor:
    """Return the share of frames whose most relevant patch is on the object, `b`.

    Every frame with a patch on the object counts, however relevant the frame is: the score shows
    whether the map follows the object along its motion.
    """
    flat, evidence = (rearrange(m, "b t h w -> b t (h w)") for m in (relevance, coverage))
    counts = (evidence >= ON_OBJECT).any(dim=-1).float()  # b t
    return (_peak_on_object(flat, evidence) * counts).sum(dim=1) / counts.sum(dim=1)


def object_share(relevance: Tensor, coverage: Tensor) -> Tensor:
    """Return the share of a clip's positive relevance that is on the object, `b`.

    The relevance of a patch is weighted by its coverage.
    """
    flat, evidence = (
        rearrange(m, "b t h w -> b (t h w)") for m in (_positive(relevance), coverage)
    )
    return (flat * evidence).sum(dim=1) / flat.sum(dim=1)


def leaning(relevance: Tensor, coverages: Tensor) -> Tensor:
    """Return each object's part of the relevance that is on any object.

    Args:
        relevance: `b t h w`.
        coverages: `b o t h w`, of each object.
    Returns:
        `b o`, sums to 1 over the objects; equal parts if no relevance is on an object.
    """
    shares = torch.stack([object_share(relevance, each) for each in coverages.unbind(1)], dim=1)
    total = shares.sum(dim=1, keepdim=True)
    return torch.where(total > 0, shares / total, 1 / shares.shape[1])


def rank_correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Return Spearman's rank correlation between paired maps, `b t h w`, as `b`.

    The correlation with a constant map is 0.
    """
    ranks = [_ranks(rearrange(m, "b t h w -> b (t h w)")) for m in (maps, others)]
    first, second = (r - r.mean(dim=1, keepdim=True) for r in ranks)
    return torch.cosine_similarity(first, second, dim=1)


def bootstrap(values: Tensor, *, seed: int = 0) -> Interval:
    """Return the mean of `values`, `b`, and its interval at `CONFIDENCE` from resampled clips."""
    values = values.double()
    generator = Generator().manual_seed(seed)
    drawn = torch.randint(len(values), (RESAMPLES, len(values)), generator=generator)
    tail = (1 - CONFIDENCE) / 2
    low, high = values[drawn].mean(dim=1).quantile(torch.tensor([tail, 1 - tail]).double()).tolist()
    return Interval(values.mean().item(), low, high)


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


def _peak_on_object(relevance: Tensor, evidence: Tensor) -> Tensor:
    """Return the share of the most relevant patches that is on the object: `... p` → `...`."""
    relevance = relevance.clamp(min=0)
    peak = (relevance == relevance.amax(dim=-1, keepdim=True)).float()
    return (peak * (evidence >= ON_OBJECT)).sum(dim=-1) / peak.sum(dim=-1)


def _positive(relevance: Tensor) -> Tensor:
    """Clamp maps, `b t h w`, at 0; a map without positive values becomes constant."""
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
