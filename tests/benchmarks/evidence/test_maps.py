from dataclasses import replace
from itertools import groupby

import pytest
import torch
from torch import Tensor

from rollout_core.contract import MethodOptions
from rollout_core.relevance.explain import explain_clips
from tests.benchmarks.evidence import maps
from tests.benchmarks.evidence.cases import Case
from tests.benchmarks.evidence.maps import ROWS, Row, by_name
from tests.benchmarks.evidence.propagation import linear_forward
from tests.rollout_core.models import random_clips, random_model

GRID = (3, 2, 6)


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    """Two clips, with two classes each."""
    monkeypatch.setattr(maps, "BLACK_BOX_FORWARDS", 40)
    monkeypatch.setattr(maps, "LIME_SEGMENTS", 6)
    monkeypatch.setattr(maps, "GRADIENT_STEPS", 4)
    return Case(random_model(depth=4), random_clips(), torch.tensor([[1, 0], [3, 2]]), seed=5)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_makes_a_map_of_each_clip_and_class(row: Row, case: Case):
    found = row.explain(case)
    assert found.shape == (2, 2 if row.knows_class else 1, *GRID)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    torch.testing.assert_close(found, row.explain(case))  # deterministic


@pytest.mark.parametrize("row", [row for row in ROWS if row.knows_class], ids=lambda row: row.name)
def test_maps_are_of_the_class_that_is_asked_for(row: Row, case: Case):
    found = row.explain(case)
    assert not torch.allclose(found[:, 0], found[:, 1], rtol=1e-3)
    swapped = row.explain(replace(case, classes=case.classes.flip(1)))
    torch.testing.assert_close(swapped, found.flip(1), rtol=1e-3, atol=1e-6)


INPUT_BLIND = ("uniform", "centre prior")


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.name not in INPUT_BLIND], ids=lambda r: r.name
)
def test_every_row_but_the_priors_depends_on_the_clip(row: Row, case: Case):
    first, second = row.explain(case)
    assert not torch.allclose(first, second, rtol=1e-3, atol=0)


def test_rows_are_grouped_and_have_unique_names():
    groups = [group for group, _ in groupby(ROWS, key=lambda row: row.group)]
    assert groups == ["baselines", "published", "ours", "black boxes"]
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_the_rows_are_different_maps(case: Case):
    found = {row.name: row.explain(case)[:, 0] for row in ROWS}
    names = list(found)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert not torch.allclose(found[name], found[other], rtol=1e-4), (name, other)


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
    assert relevance[1, 0, 2, 1, 1].item() == pytest.approx(slope, rel=1e-3)


def test_integrated_gradients_sum_to_the_difference_from_a_grey_clip(
    case: Case, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(maps, "GRADIENT_STEPS", 64)
    found = by_name("integrated gradients").explain(case)
    with torch.inference_mode():
        differences = case.model(case.clips) - case.model(torch.zeros_like(case.clips))
    expected = differences.gather(1, case.classes)
    torch.testing.assert_close(found.sum(dim=(2, 3, 4)), expected, rtol=0.05, atol=0.01)


def test_relevance_propagation_runs_the_same_model(case: Case):
    model, tokens = case.model, case.model.embed(case.clips)
    torch.testing.assert_close(linear_forward(model, tokens), model(case.clips))


def test_relevance_propagation_is_linear_in_the_tokens(case: Case):
    # Relevance of all tokens and of the biases is the logit; without biases, nothing is missing.
    model = case.model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    tokens = model.embed(case.clips).detach().requires_grad_()
    logits = linear_forward(model, tokens)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), tokens)
    total = (gradient * tokens).sum(dim=(1, 2, 3))
    torch.testing.assert_close(total, logits[:, 1], rtol=1e-3, atol=1e-4)


def test_class_contributions_are_those_of_the_service(case: Case):
    found = by_name("class contributions, projection").explain(case)
    how = MethodOptions(method="contribution_rollout")
    for index in range(2):
        alone = explain_clips(case.model, case.clips, how, target=case.classes[:, index].tolist())
        torch.testing.assert_close(found[:, index], alone.relevance, rtol=1e-4, atol=1e-6)


def test_the_centre_prior_is_highest_in_the_middle_and_equal_in_all_frames(case: Case):
    prior = by_name("centre prior").explain(case)
    assert (prior == prior[:1, :, :1]).all()
    frame = prior[0, 0, 0]
    torch.testing.assert_close(frame, frame.flip(0, 1))
    assert (frame[0].diff()[:2] > 0).all()


def test_frame_differences_find_what_changes(case: Case):
    clips = torch.zeros(1, 3, 3, 16, 24)
    clips[:, :, 1, 8:, :4] = 1  # the second frame alone
    found = by_name("frame differences").explain(replace(case, clips=clips))
    assert found[0, 0, :, 1, 0].tolist() == [3 * 32, 2 * 3 * 32, 3 * 32]
    assert found.sum() == 4 * 3 * 32


@pytest.mark.parametrize(
    "name",
    ["gradient × input", "rollout", "occlusion", "Video-LIME"],
)
def test_forwards_are_those_that_the_model_ran(name: str):
    model = random_model(frames=8, height=112, width=56, depth=1)  # the usual grid, but fast
    clips = random_clips(1, t=8, height=112, width=56)
    row, ran = by_name(name), []
    model.register_forward_hook(lambda _model, args, _output: ran.append(len(args[0])))
    row.explain(Case(model, clips, torch.tensor([[0]]), seed=0))
    backward = maps.BACKWARD if "gradient" in name else 0
    assert sum(ran) + backward == row.forwards
