"""The scores of a row of the table, one number for each scene.

Where a map is of the class of one act, that act should have the relevance. Relevance below 0 counts
as 0, but for the agreement with interventions.
"""

from dataclasses import dataclass
from timeit import timeit

import torch
from einops import rearrange, reduce
from torch import Tensor

from rollout_core.contract import Fill
from rollout_core.demo.evaluate import average_precision, correlation, leaning, pointing_game
from rollout_core.demo.layout import ACTS
from rollout_core.demo.scenes import ON_THING
from rollout_core.relevance.faithfulness import area, orders
from rollout_core.relevance.perturbation import perturbed_probabilities
from tests.benchmarks.evidence.cases import (
    Case,
    Scenes,
    losses_when_held,
    losses_without_a_patch,
)
from tests.benchmarks.evidence.maps import Row

FILLS: tuple[Fill, ...] = ("still", "blur")
STEPS = 16
"""Of a curve of deletion."""

RUNS = 5
"""Of a row that is timed; a dear one runs once."""

Scores = dict[str, Tensor]
"""For each metric, one number for each scene."""


@dataclass(frozen=True)
class Truth:
    """Scenes, and what the model does when something in them is held still.

    Attributes:
        held: `b r a`; see `losses_when_held`.
        single: `b t h w`; see `losses_without_a_patch`; of the first of each scene's clips, and of
            the first scenes alone.
    """

    scenes: Scenes
    held: Tensor
    single: Tensor

    @classmethod
    def find(cls, scenes: Scenes, *, single: int) -> "Truth":
        """Measure; hold single patches of the first `single` scenes."""
        case = scenes.case
        ringed_first = case.part(slice(0, ACTS * single, ACTS))
        losses = losses_without_a_patch(ringed_first) if single else torch.zeros(0, *case.grid)
        return cls(scenes, losses_when_held(scenes), losses)


def about_the_model(truth: Truth) -> Scores:
    """Return what is true of the model itself, whatever the map."""
    case = truth.scenes.case
    with torch.inference_mode():
        answers = case.model(case.clips).argmax(dim=1)
    own = truth.held.diagonal(dim1=1, dim2=2)  # b r, by the act whose class it is
    other = truth.held.flip(2).diagonal(dim1=1, dim2=2)
    return {
        "right": _by_scene((answers == case.classes[:, 0]).cpu()),
        "own counts": _by_scene(own[:, 0] > other[:, 0]),
        "other counts": _by_scene(own[:, 1] > other[:, 1]),
    }


def judge(row: Row, truth: Truth, *, curves: int, timed: bool) -> Scores:
    """Score a row.

    Args:
        curves: scenes to measure deletion and insertion on, the first clip of each.
        timed: whether to measure the time of one map, too.
    """
    scenes, case = truth.scenes, truth.scenes.case
    maps = _for_both_classes(row.explain(case))
    of_ringed, of_other = maps.unbind(dim=1)
    own = leaning(of_ringed, scenes.path)[:, 0] > 0.5
    scores = {
        "own": _by_scene(own),
        "both": rearrange(own, "(b m) -> b m", m=ACTS).all(dim=1).float(),
        "thing": _by_scene(pointing_game(of_ringed, scenes.things[:, 0])),
        "touched": _by_scene(pointing_game(of_ringed, scenes.touched[:, 0])),
        "path": _by_scene(pointing_game(of_ringed, scenes.path[:, 0])),
        "precision": _by_scene(average_precision(of_ringed, scenes.things[:, 0] >= ON_THING)),
        "other": _by_scene(leaning(of_other, scenes.path)[:, 1] > 0.5),
        "held": _by_scene(_agreement_when_held(maps, truth)),
    }
    if len(truth.single):
        single = of_ringed[: ACTS * len(truth.single) : ACTS]
        scores["single"] = correlation(single.flatten(1), truth.single.flatten(1))
    if curves:
        scores |= _curves(case.part(slice(0, ACTS * curves, ACTS)), of_ringed[::ACTS])
    if timed:
        scores["time"] = torch.full((1,), _forwards_in_time(row, case))
    return scores


def _agreement_when_held(maps: Tensor, truth: Truth) -> Tensor:
    """Return how a clip's relevance, signs kept, agrees with the losses, `b`.

    There are four numbers a clip: for each class, the relevance on the path of each act.
    """
    relevance = torch.einsum("b r t h w, b a t h w -> b r a", maps, truth.scenes.path)
    return correlation(relevance.flatten(1), truth.held.flatten(1))


def _curves(case: Case, maps: Tensor) -> Scores:
    """Return the areas under the curves of deletion and insertion, for each fill."""
    found: dict[str, list[float]] = {}
    for index, (target, *_) in enumerate(case.classes.tolist()):
        forth, back, *_ = orders(maps[index].numpy(), seed=case.seed + index)
        for fill in FILLS:
            # Inserting the most relevant patch first is deleting the least relevant first.
            for name, order in (("deletion", forth), ("insertion", back)):
                curve = perturbed_probabilities(
                    case.model,
                    case.clips[index : index + 1],
                    torch.from_numpy(order),
                    fill=fill,
                    target=target,
                    steps=STEPS,
                )
                found.setdefault(f"{name} {fill}", []).append(float(area(curve.numpy())))
    return {name: torch.tensor(areas) for name, areas in found.items()}


def _for_both_classes(maps: Tensor) -> Tensor:
    """Return maps `b 2 t h w`; without a class, one map is that of both."""
    return maps.expand(-1, ACTS, -1, -1, -1)


def _by_scene(values: Tensor) -> Tensor:
    """Return the mean over the two clips of each scene: `(b m)` to `b`."""
    return reduce(values.float(), "(b m) -> b", "mean", m=ACTS)


def _forwards_in_time(row: Row, case: Case) -> float:
    """Return the time of one map of one clip, in plain forwards of that clip; best of some runs."""
    one = case.part(slice(0, 1), slice(0, 1))
    runs = 1 if row.is_dear else RUNS

    @torch.inference_mode()
    def forward() -> None:
        case.model(one.clips).cpu()

    seconds = [
        min(timeit(run, number=1) for _ in range(count))
        for run, count in ((lambda: row.explain(one), runs), (forward, RUNS))
    ]
    return seconds[0] / seconds[1]
