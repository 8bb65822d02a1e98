"""How well the demo model names a motion, and whether its maps point at what moved.

`python -m rollout_core.demo.evaluate` prints both for clips that the training never drew.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from tqdm import trange

from rollout_core.checkpoints import MOVING_SHAPES_PATH, load_model
from rollout_core.demo.metrics import ON_OBJECT, coverage_of, object_share, pointing_game
from rollout_core.demo.shapes import CLASSES
from rollout_core.demo.train import draw_clips
from rollout_core.explain import explain_clips, normalize
from rollout_core.specs import MOVING_SHAPES
from rollout_core.timesformer import TimeSformer

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


if __name__ == "__main__":
    main()
