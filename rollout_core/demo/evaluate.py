"""How well the demo model names a motion, and whether its maps point at what moved.

`python -m rollout_core.demo.evaluate` prints both for clips that the training never drew.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from einops import rearrange, reduce
from torch import Generator, Tensor
from tqdm import tqdm

from rollout_core.capture import capture_attention
from rollout_core.checkpoints import MOVING_SHAPES_PATH, load_model
from rollout_core.demo.shapes import CLASSES, ClipBatch
from rollout_core.demo.train import draw_clips
from rollout_core.explain import normalize
from rollout_core.rollout import divided_rollout
from rollout_core.specs import MOVING_SHAPES
from rollout_core.timesformer import TimeSformer

HELD_OUT_SEED = 2_000_003
"""Seeds of training are small."""

BATCH_CLIPS = 50

ON_OBJECT = 0.25
"""A patch is on the moving object when the object covers at least this share of it."""


@dataclass
class Pointing:
    """Sums over clips of how a kind of map treats the evidence."""

    hits: float = 0
    share: float = 0

    def add(self, relevance: Tensor, coverage: Tensor) -> None:
        """Count maps, `b t h w`, against the object's coverage of each patch, `b t h w`."""
        flat, evidence = (rearrange(m, "b t h w -> b (t h w)") for m in (relevance, coverage))
        best = flat.argmax(dim=1, keepdim=True)
        self.hits += float((evidence.gather(1, best) >= ON_OBJECT).sum())
        self.share += float(((flat * evidence).sum(1) / flat.sum(1)).sum())


@dataclass
class Report:
    """Figures over `clips` clips; `pointing` by kind of map."""

    clips: int = 0
    right: int = 0
    on_object: float = 0
    coverage: float = 0
    confusion: Tensor = field(
        default_factory=lambda: torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.long)
    )
    pointing: dict[str, Pointing] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Yield the report, line by line."""
        n = self.clips
        yield f"top-1 on {n} held-out clips: {self.right / n:.4f}"
        for name, row in zip(CLASSES, self.confusion, strict=True):
            yield f"  {name:<8}" + " ".join(f"{int(count):4d}" for count in row)
        yield "map                             pointing game   relevance on the object"
        yield f"{'chance':<32}{self.on_object / n:<16.3f}{self.coverage / n:.3f}"
        for name, pointing in self.pointing.items():
            yield f"{name:<32}{pointing.hits / n:<16.3f}{pointing.share / n:.3f}"


def evaluate(model: TimeSformer, *, clips: int, seed: int = HELD_OUT_SEED) -> Report:
    """Classify and explain `clips` fresh clips."""
    report = Report()
    generator = Generator().manual_seed(seed)
    with tqdm(total=clips, unit="clip", desc="evaluating") as progress:
        while report.clips < clips:
            count = min(BATCH_CLIPS, clips - report.clips)
            _add(report, model, draw_clips(count, generator))
            progress.update(count)
    return report


def _add(report: Report, model: TimeSformer, batch: ClipBatch) -> None:
    maps, logits = relevance_maps(model, normalize(batch.frames, MOVING_SHAPES))
    predicted = logits.argmax(dim=1)
    a = model.architecture
    coverage = reduce(
        batch.evidence, "b t (h y) (w x) -> b t h w", "mean", y=a.patch_height, x=a.patch_width
    )
    report.clips += len(batch.labels)
    report.right += int((predicted == batch.labels).sum())
    for truth, answer in zip(batch.labels, predicted, strict=True):
        report.confusion[truth, answer] += 1
    report.on_object += float((coverage >= ON_OBJECT).float().mean(dim=(1, 2, 3)).sum())
    report.coverage += float(coverage.mean(dim=(1, 2, 3)).sum())
    for name, relevance in maps.items():
        report.pointing.setdefault(name, Pointing()).add(relevance, coverage)


@torch.inference_mode()
def relevance_maps(model: TimeSformer, clips: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return what is compared, maps `b t h w` by name, and the logits, from one forward."""
    with capture_attention(model) as captured:
        logits = model(clips)
    space, time = captured.groups, captured.time
    maps = {
        "rollout": divided_rollout(space, time),
        "rollout from the second layer": divided_rollout(space[1:], time[1:]),
        "last layer's raw attention": space[-1][:, :, 0, 1:],
    }
    _, h, w = model.grid_of(clips)
    return {
        name: rearrange(relevance, "b t (h w) -> b t h w", h=h, w=w)
        for name, relevance in maps.items()
    }, logits


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
