from itertools import groupby

import pytest
import torch
from torch import Tensor

from tests.benchmarks import competitors
from tests.benchmarks.competitors import COMPETITORS, Case, Competitor, by_name
from tests.rollout_core.models import random_clips, random_model

GRID = (3, 2, 6)


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    """Two clips for a model with as many layers as the demo's."""
    monkeypatch.setattr(competitors, "LIME_FORWARDS", 40)
    monkeypatch.setattr(competitors, "LIME_SEGMENTS", 6)
    return Case(random_model(depth=4), random_clips(), torch.tensor([1, 3]), seed=5)


@pytest.mark.parametrize("competitor", COMPETITORS, ids=lambda row: row.name)
def test_every_row_makes_a_map_of_each_clip(competitor: Competitor, case: Case):
    maps = competitor.explain(case)
    assert maps.shape == (2, *GRID)
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    torch.testing.assert_close(maps, competitor.explain(case))  # deterministic


INPUT_BLIND = ("uniform", "centre prior")


@pytest.mark.parametrize(
    "competitor", [row for row in COMPETITORS if row.name not in INPUT_BLIND], ids=lambda r: r.name
)
def test_every_row_but_the_priors_depends_on_the_clip(competitor: Competitor, case: Case):
    first, second = competitor.explain(case)
    assert not torch.allclose(first, second, rtol=1e-3, atol=0)


def test_rows_are_grouped_and_have_unique_names():
    groups = [group for group, _ in groupby(COMPETITORS, key=lambda row: row.group)]
    assert groups == ["baselines", "published", "ours", "black boxes"]
    names = [row.name for row in COMPETITORS]
    assert len(set(names)) == len(names)


def test_the_rows_are_different_maps(case: Case):
    maps = {row.name: row.explain(case) for row in COMPETITORS}
    names = list(maps)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert not torch.allclose(maps[name], maps[other], rtol=1e-4), (name, other)


def test_gradient_times_input_by_finite_differences(case: Case):
    relevance = by_name("gradient × input").explain(case)
    model, clips = case.model.double(), case.clips.double()

    def logit(clips: Tensor) -> float:
        return model(clips)[1, 3].item()

    small = 1e-5
    patch = (1, slice(None), 2, slice(8, 16), slice(4, 8))  # clip 1, frame 2, row 1, column 1
    more, less = clips.clone(), clips.clone()
    more[patch] *= 1 + small
    less[patch] *= 1 - small
    slope = (logit(more) - logit(less)) / (2 * small)
    assert relevance[1, 2, 1, 1].item() == pytest.approx(slope, rel=1e-3)


def test_the_centre_prior_is_highest_in_the_middle_and_equal_in_all_frames(case: Case):
    prior = by_name("centre prior").explain(case)
    assert (prior == prior[:1, :1]).all()
    frame = prior[0, 0]
    torch.testing.assert_close(frame, frame.flip(0, 1))
    assert (frame[0].diff()[:2] > 0).all()


def test_black_boxes_explain_the_class_of_each_clip(case: Case):
    for name in ("occlusion, 2×2×2 patches", "Video-LIME"):
        explain = by_name(name).explain
        swapped = explain(case.aimed_at(torch.tensor([1, 4])))
        maps = explain(case)
        torch.testing.assert_close(maps[0], swapped[0])
        assert not torch.allclose(maps[1], swapped[1], rtol=1e-3)


@pytest.mark.parametrize("name", ["gradient × input", "rollout", "occlusion, 2×2×2 patches"])
def test_forwards_equal_those_that_the_model_ran(name: str, case: Case):
    # The table states the forwards for the demo's grid.
    model = random_model(frames=8, height=64, width=32, depth=4)
    clips = random_clips(1, t=8, height=64, width=32)
    row, ran = by_name(name), []
    model.register_forward_hook(lambda _model, args, _output: ran.append(len(args[0])))
    row.explain(Case(model, clips, torch.tensor([0]), seed=0))
    backward = competitors.BACKWARD if "gradient" in name else 0
    assert sum(ran) + backward == row.forwards
