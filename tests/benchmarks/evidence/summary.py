"""The figures of the table from the scores of every scene: means, intervals, differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from tests.benchmarks.evidence.maps import ROWS
from tests.benchmarks.evidence.scores import Scores

MODEL = "the model"
"""Row of what is true of the model itself."""

LEAST_IS_BEST = ("deletion still", "deletion blur")
COMPARED = ("both", "path", "thing", "precision", "other", "held", "single", "deletion still")
"""Scores for which the differences to the best row are told."""

CONFIDENCE = 0.95
RESAMPLES = 2000
DECIMALS = 4

Summary = dict[str, Any]


def summarize(found: Mapping[str, Scores]) -> Summary:
    """Return all figures.

    Every model counts the same, and scenes are resampled within each model.

    Args:
        found: the scores by the model's name.
    """
    names = [row.name for row in ROWS if any(scores.scenes(row.name) for scores in found.values())]
    rows = {name: _figures(name, found) for name in (MODEL, *names)}
    return {
        "part": next(iter(found.values())).about["part"],
        "torch": torch.__version__,
        "models": {name: scores.about["sha256"] for name, scores in found.items()},
        "rows": rows,
        "behind": {metric: _behind(metric, names, rows, found) for metric in COMPARED},
    }


def interval(values: Sequence[Tensor], *, seed: int = 0) -> dict[str, float]:
    """Return mean and interval over models, `scenes` for each."""
    generator = Generator().manual_seed(seed)
    means = torch.stack([_resampled(of_model.double(), generator) for of_model in values]).mean(0)
    tail = (1 - CONFIDENCE) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail]).double()).tolist()
    mean = torch.stack([of_model.double().mean() for of_model in values]).mean().item()
    return {
        name: round(value, DECIMALS)
        for name, value in (("mean", mean), ("low", low), ("high", high))
    }


def best_of(metric: str, rows: Mapping[str, Any]) -> str | None:
    """Return the row with the best mean, of those that were measured on the most scenes."""
    measured = {
        name: figures[metric]
        for name, figures in rows.items()
        if name != MODEL and metric in figures
    }
    most = max((figure["scenes"] for figure in measured.values()), default=0)
    means = {name: figure["mean"] for name, figure in measured.items() if figure["scenes"] == most}
    pick = min if metric in LEAST_IS_BEST else max
    return pick(means, key=means.__getitem__, default=None)


def _figures(row: str, found: Mapping[str, Scores]) -> dict[str, Any]:
    of_models = {name: scores.rows[row] for name, scores in found.items() if row in scores.rows}
    metrics = dict.fromkeys(metric for measured in of_models.values() for metric in measured)
    return {
        metric: interval(
            [
                torch.tensor(measured[metric])
                for measured in of_models.values()
                if metric in measured
            ]
        )
        | {
            "scenes": sum(len(measured.get(metric, ())) for measured in of_models.values()),
            "models": {
                name: round(sum(measured[metric]) / len(measured[metric]), DECIMALS)
                for name, measured in of_models.items()
                if metric in measured
            },
        }
        for metric in metrics
    }


def _behind(
    metric: str, names: Sequence[str], rows: Mapping[str, Any], found: Mapping[str, Scores]
) -> dict[str, Any]:
    """Return by how much each row is behind the best one, on the scenes that both have."""
    best = best_of(metric, rows)
    if best is None:
        return {}
    sign = -1 if metric in LEAST_IS_BEST else 1
    behind = {}
    for name in names:
        pairs = [
            (torch.tensor(scores.rows[best][metric]), torch.tensor(scores.rows[name][metric]))
            for scores in found.values()
            if metric in scores.rows.get(name, {}) and metric in scores.rows.get(best, {})
        ]
        if pairs and name != best:
            behind[name] = interval([sign * (first - other) for first, other in _cut(pairs)])
    return {"best": best, "rows": behind}


def _cut(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    return [(a[: len(b)], b[: len(a)]) for a, b in pairs]


def _resampled(values: Tensor, generator: Generator) -> Tensor:
    """Return means of resampled scenes, `RESAMPLES`."""
    drawn = torch.randint(len(values), (RESAMPLES, len(values)), generator=generator)
    return values[drawn].mean(dim=1)
