"""Evaluates the demo model: its accuracy, and whether a map finds the things that count.

The scores compare a map with the known evidence of a clip. `python -m rollout_core.demo.evaluate`
prints the accuracy on held-out clips, whose sprites and grounds training did not use.
"""

import argparse
import math
from pathlib import Path

import torch
from einops import rearrange, reduce
from torch import Generator, Tensor
from tqdm import trange

from rollout_core.demo.motions import CLASSES
from rollout_core.demo.scenes import ON_THING
from rollout_core.demo.train import Mix, draw_batch
from rollout_core.model.checkpoints import MOVING_THINGS_PATH, load_model
from rollout_core.model.specs import MOVING_THINGS
from rollout_core.model.timesformer import TimeSformer
from rollout_core.relevance.explain import normalize

HELD_OUT_SEED = 2_000_003
"""Larger than any seed used for training."""

BATCH_CLIPS = 16


@torch.inference_mode()
def confusion(
    model: TimeSformer,
    clips: int,
    *,
    both: bool,
    seed: int = HELD_OUT_SEED,
) -> Tensor:
    """Return how many clips of each class (row) were given each answer (column), int64 `k k`.

    Args:
        clips: how many to draw, rounded up to whole batches.
        both: whether both acts of a scene move, and a ring tells which one counts.
    """
    table = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.long)
    generator = Generator().manual_seed(seed)
    mix = Mix(both=float(both))
    size = model.architecture.height
    for _ in trange(math.ceil(clips / BATCH_CLIPS), unit="batch", desc="evaluating"):
        batch = draw_batch(BATCH_CLIPS, generator, size, "test", mix)
        answers = model(normalize(batch.frames, MOVING_THINGS)).argmax(dim=-1)
        table.index_put_((batch.labels, answers), torch.tensor(1), accumulate=True)
    return table


def top1(table: Tensor) -> float:
    """Return the share of correct answers in a table of `confusion`."""
    return float(table.trace() / table.sum())


def pointing_game(relevance: Tensor, coverage: Tensor) -> Tensor:
    """Return 1 for clips whose most relevant patch is on the object, else 0, `b`.

    Several equally relevant patches share the score.

    Args:
        relevance, coverage: `b t h w`.
    """
    flat, evidence = (rearrange(m, "b t h w -> b (t h w)") for m in (relevance, coverage))
    flat = flat.clamp(min=0)
    peak = (flat == flat.amax(dim=1, keepdim=True)).float()
    return (peak * (evidence >= ON_THING)).sum(dim=1) / peak.sum(dim=1)


def average_precision(relevance: Tensor, on_thing: Tensor) -> Tensor:
    """Return the average precision of each map as a ranking of patches, `b`.

    Equally relevant patches share their places. Unlike a share of the relevance, it does not change
    when a map is squared.

    Args:
        relevance: `b t h w`.
        on_thing: bool `b t h w`, the patches to be found; at least one in each clip.
    """
    scores, wanted = (rearrange(m, "b t h w -> b (t h w)") for m in (relevance, on_thing))
    ordered, order = scores.sort(dim=1, descending=True)
    found = wanted.gather(1, order).double().cumsum(dim=1)
    # The last place of each group of equal scores stands for all of the group.
    last = torch.searchsorted(-ordered, -ordered, side="right") - 1
    found_by_then = found.gather(1, last)
    precision = found_by_then / (last + 1)
    return (precision * wanted.gather(1, order)).sum(dim=1) / wanted.sum(dim=1)


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
    return correlation(*(_ranks(rearrange(m, "b t h w -> b (t h w)")) for m in (maps, others)))


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Pearson's correlation of each pair of rows, `b n`, as `b`; 0 with a constant row."""
    first, second = (part - part.mean(dim=1, keepdim=True) for part in (first, second))
    return torch.cosine_similarity(first, second, dim=1)


def main() -> None:
    """Read the command line, evaluate and print."""
    parser = argparse.ArgumentParser(
        prog="python -m rollout_core.demo.evaluate", description=__doc__
    )
    parser.add_argument("--clips", type=int, default=1024, help="of each kind")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    parser.add_argument("--checkpoint", type=Path, default=MOVING_THINGS_PATH)
    options = parser.parse_args()
    model = load_model(options.checkpoint)
    for name, both in (("both acts move", True), ("one act moves", False)):
        table = confusion(model, options.clips, both=both, seed=options.seed)
        print(f"{name}: top-1 on {int(table.sum())} held-out clips: {top1(table):.4f}")
        for label, row in zip(CLASSES, table, strict=True):
            print(f"  {label:<36}" + " ".join(f"{int(count):4d}" for count in row))


def _positive(relevance: Tensor) -> Tensor:
    """Clamp maps, `b t h w`, at 0; a map without positive values becomes constant."""
    positive = relevance.clamp(min=0)
    empty = reduce(positive, "b t h w -> b 1 1 1", "sum") == 0
    return torch.where(empty, torch.ones_like(positive), positive)


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each value in its row, `b n`; equal values share their mean rank."""
    values = values.contiguous()
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values, side="left")
    up_to = torch.searchsorted(ordered, values, side="right")
    return (below + up_to - 1).double() / 2


if __name__ == "__main__":
    main()
