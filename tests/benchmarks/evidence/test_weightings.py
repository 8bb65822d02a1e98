import pytest
import torch

from rollout_core.model.timesformer import AttentionStep, watch
from rollout_core.relevance.contributions import positive_shares
from tests.benchmarks.evidence.weightings import WEIGHTINGS, contribution_map, raw_shares
from tests.rollout_core import dense
from tests.rollout_core.models import random_clips, random_model
from tests.rollout_core.relevance.test_contributions import hand_made, two_tokens

ATTENTION_TYPES = ["divided_space_time", "joint_space_time", "space_only"]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        # T_00 = (1.5, .5), T_01 = (1, -.5); T_11 = y_1.
        ("alti", [[2.5 - 1.5, 2.5 - 2], [0, 4]]),
        ("l2", [[2.5**0.5, 1.25**0.5], [0, 8**0.5]]),
    ],
)
def test_shares_worked_by_hand(weighting, expected):
    raw = raw_shares(two_tokens(), WEIGHTINGS[weighting])
    torch.testing.assert_close(raw, torch.tensor(expected)[None, None])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_zero_output_keeps_its_own_token(weighting):
    step = hand_made(torch.full((2, 2), 0.5), torch.zeros(2, 3), torch.zeros(2, 3))
    shares = positive_shares(raw_shares(step, WEIGHTINGS[weighting]), shares_cls=False)
    torch.testing.assert_close(shares[0, 0], torch.eye(2))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("kind", ATTENTION_TYPES)
def test_map_equals_a_dense_reference(kind, weighting):
    model, clips = random_model(attention_type=kind), random_clips()
    maps = contribution_map(model, clips, WEIGHTINGS[weighting])
    assert maps.shape == (2, 3, 2, 6)
    for clip, relevance in zip(clips, maps, strict=True):
        run = dense.run(model, clip)
        full = dense.product(run, dense.contribution_matrix(weighting))
        expected = full[: run.copies].mean(dim=0)[run.copies :]
        torch.testing.assert_close(relevance.flatten(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_rows_sum_to_one(weighting):
    steps: list[AttentionStep] = []
    model = random_model()
    with watch(model.layers, steps.append):
        model(random_clips())
    for step in steps:
        raw = raw_shares(step, WEIGHTINGS[weighting])
        rows = positive_shares(raw, shares_cls=step.shares_cls).sum(dim=-1)
        if step.shares_cls:
            rows[:, :, 0] = rows[:, :, 0].mean(dim=1, keepdim=True)
        torch.testing.assert_close(rows, torch.ones_like(rows), atol=1e-5, rtol=0)
