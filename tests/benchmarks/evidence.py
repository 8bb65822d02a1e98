"""Compare maps with the known position of the moving object, and measure their cost.

    python -m tests.benchmarks.evidence [--clips 500] [--seed S] [--device cuda] [--json FILE]

The clips are held-out moving-shapes clips, explained for the class that the model predicts. With
`--json`, the scores of every clip are kept in a file, and an interrupted run continues there. The
report and the plot are written to `results/`.

Pointing scores are defined in `rollout_core/demo/evaluate.py`, deletion and insertion in
`rollout_core/relevance/faithfulness.py`. Time is that of making the map, in multiples of a plain
forward of the same clips in the same run.
"""

import argparse
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor
from tqdm import trange

from rollout_core.contract import Fill
from rollout_core.demo.evaluate import (
    HELD_OUT_SEED,
    ON_OBJECT,
    coverage_of,
    frame_hit_rate,
    leaning,
    object_share,
    pointing_game,
)
from rollout_core.demo.shapes import random_label_pairs, random_labels, render
from rollout_core.demo.train import new_model
from rollout_core.model.checkpoints import MOVING_SHAPES_PATH, load_model
from rollout_core.model.specs import MOVING_SHAPES
from rollout_core.model.timesformer import TimeSformer
from rollout_core.relevance.explain import normalize
from rollout_core.relevance.faithfulness import STEPS, area, orders
from rollout_core.relevance.perturbation import perturbed_probabilities
from tests.benchmarks.competitors import COMPETITORS, Case, Competitor, by_name
from tests.benchmarks.report import SENSITIVITY, plot, write_report
from tests.benchmarks.sanity import correlations
from tests.benchmarks.scores import Scores

BATCH_CLIPS = 10
"""Clips that are drawn, measured and saved together. The seed of batch `n` is `seed + n`."""

FILL: Fill = "still"
"""The class is the motion, so other fills do not remove it: blurred clips keep over half of the
class's probability, and holes of one colour that follow the object show its motion."""

SANITY_CLIPS = 50
SANITY_ROWS = (
    "attention, last layer",
    "rollout",
    "gradient_rollout",
    "contribution_rollout, projection",
    "contribution_rollout, deviation",
)

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Batch:
    """Clips to explain, with their objects' positions.

    Attributes:
        coverage: `b t h w`, or `b o t h w` for several objects; see `demo/evaluate.py`.
        labels: `b`, or `b o`.
        forward_seconds: duration of a plain forward of the clips.
    """

    case: Case
    coverage: Tensor
    labels: Tensor
    forward_seconds: float

    @classmethod
    def draw(cls, model: TimeSformer, number: int, *, seed: int, objects: int = 1) -> "Batch":
        """Draw clips of one or two moving objects; the targets are the model's predictions."""
        generator = Generator().manual_seed(seed + number)
        labels_of = random_labels if objects == 1 else random_label_pairs
        drawn = render(
            labels_of(BATCH_CLIPS, generator),
            generator,
            frames=MOVING_SHAPES.frames,
            height=MOVING_SHAPES.height,
            width=MOVING_SHAPES.width,
        )
        clips = normalize(drawn.frames, MOVING_SHAPES).to(model.cls_token.device)
        with torch.inference_mode():
            targets = model(clips).argmax(dim=1)
        case = Case(model, clips, targets.clone(), seed=(seed + number) * BATCH_CLIPS)
        seconds = min(_forward_seconds(case) for _ in range(3))
        return cls(case, coverage_of(drawn.evidence, case.patch), drawn.labels, seconds)


def measure(
    model: TimeSformer, scores: Scores, rows: Sequence[str], *, clips: int, areas: int, seed: int
) -> None:
    """Measure rows on `clips` clips, rounded up to whole batches; skip what `scores` has already.

    Insertion and deletion are measured only on the first `areas` clips of each row.
    """
    for number in trange(-(-clips // BATCH_CLIPS), unit="batch", desc="measuring"):
        missing = [row for row in rows if scores.clips(row) <= number * BATCH_CLIPS]
        if not missing:
            continue
        batch = Batch.draw(model, number, seed=seed)
        for row in missing:
            if row == SENSITIVITY:
                pairs = Batch.draw(model, number, seed=seed, objects=2)
                scores.add(row, class_sensitivity(pairs))
            else:
                with_areas = number * BATCH_CLIPS < areas
                scores.add(row, judge(by_name(row), batch, areas=with_areas))
            scores.save()


def judge(competitor: Competitor, batch: Batch, *, areas: bool = True) -> dict[str, Tensor]:
    """Score a competitor's maps of a batch, `b` for each metric.

    Args:
        areas: whether to measure deletion and insertion, too.
    """
    case, coverage = batch.case, batch.coverage
    began = time.perf_counter()
    maps = competitor.explain(case)
    seconds = time.perf_counter() - began
    path = coverage.amax(dim=1, keepdim=True).expand_as(coverage)
    scores = {
        "pointing": pointing_game(maps, coverage),
        "path": pointing_game(maps, path),
        "share": object_share(maps, (coverage >= ON_OBJECT).float()),
        "covered": object_share(maps, coverage),
        "frames": frame_hit_rate(maps, coverage),
        "time": torch.full((len(maps),), seconds / batch.forward_seconds),
    }
    if areas:
        scores["deletion"], scores["insertion"] = _perturb(case, maps)
    return scores


def class_sensitivity(batch: Batch) -> dict[str, Tensor]:
    """Explain the class of each of two objects: is the map on that object? `b` for each metric.

    A class-blind map is the same for both classes. It leans to the wrong object as often as to the
    right one, and never to the right one for both classes.
    """
    case, coverages = batch.case, batch.coverage
    blind = leaning(by_name("rollout").explain(case), coverages)  # b o
    own = torch.stack(
        [
            leaning(by_name("gradient_rollout").explain(case.aimed_at(labels)), coverages)[:, index]
            for index, labels in enumerate(batch.labels.unbind(dim=1))
        ],
        dim=1,
    )  # b o: leaning of the map for an object's class to that object
    return {
        "blind": (own > blind).float().mean(dim=1),
        "other": (own.sum(dim=1) > 1).float(),
        "own": (own > 0.5).float().mean(dim=1),
        "both": (own > 0.5).all(dim=1).float(),
    }


def sanity(model: TimeSformer, *, seed: int) -> dict[str, dict[str, float]]:
    """Return for each method how its maps correlate with those of partly untrained models."""
    untrained = new_model(seed).to(model.cls_token.device)
    numbers = range(SANITY_CLIPS // BATCH_CLIPS)
    cases = [Batch.draw(model, number, seed=seed).case for number in numbers]
    return {
        row: correlations(
            model,
            untrained,
            lambda changed, row=row: torch.cat(
                [by_name(row).explain(case.seen_by(changed)) for case in cases]
            ),
        )
        for row in SANITY_ROWS
    }


def _perturb(case: Case, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the areas under the deletion and the insertion curve of each map, `b` and `b`."""
    areas = []
    for index, (relevance, target) in enumerate(zip(maps, case.targets.tolist(), strict=True)):
        most_first, least_first, *_ = orders(relevance.numpy(), seed=case.seed + index)
        curves = [
            perturbed_probabilities(
                case.model,
                case.clips[index : index + 1],
                torch.from_numpy(order),
                fill=FILL,
                target=target,
                steps=STEPS,
            )
            for order in (most_first, least_first)
        ]
        areas.append(torch.from_numpy(area(torch.stack(curves).numpy())))
    # Inserting the most relevant patch first is deleting the least relevant first, backwards.
    deletion, insertion = torch.stack(areas, dim=1)
    return deletion, insertion


@torch.inference_mode()
def _forward_seconds(case: Case) -> float:
    began = time.perf_counter()
    case.model(case.clips).cpu()
    return time.perf_counter() - began


def main() -> None:
    names = [competitor.name for competitor in COMPETITORS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument(
        "--areas",
        type=int,
        metavar="N",
        help=f"measure insertion and deletion, {2 * (STEPS + 1)} forwards a map, on the first N "
        "clips of each row; default: all",
    )
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="of the clips")
    parser.add_argument("--checkpoint", type=Path, default=MOVING_SHAPES_PATH)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the scores of every clip")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of report and plot")
    parser.add_argument(
        "--row",
        action="append",
        choices=[*names, SENSITIVITY],
        help="measure only this row; may be repeated",
    )
    parser.add_argument(
        "--again", action="store_true", help="measure these rows again, also if the file has them"
    )
    options = parser.parse_args()
    rows = options.row or [*names, SENSITIVITY]
    digest = hashlib.sha256(options.checkpoint.read_bytes()).hexdigest()
    scores = Scores.open(options.json, {"checkpoint": digest, "seed": options.seed, "fill": FILL})
    if options.again:
        for row in rows:
            scores.forget(row)
    model = load_model(options.checkpoint).to(options.device)
    areas = options.clips if options.areas is None else options.areas
    measure(model, scores, rows, clips=options.clips, areas=areas, seed=options.seed)
    write_report(options.out / "evidence.md", scores, sanity(model, seed=options.seed))
    plot(scores, options.out / "evidence.png")


if __name__ == "__main__":
    main()
