from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from einops import rearrange
from torch import Tensor

from rollout_core.model.timesformer import AttentionStep, TimeSformer, watch
from rollout_core.relevance.contributions import contribution_shares, raw_shares
from tests.rollout_core import dense
from tests.rollout_core.models import random_clips, random_model

ATTENTION_TYPES = ["divided_space_time", "joint_space_time", "space_only"]
WEIGHTINGS = ["projection", "deviation"]


def steps_of(model: TimeSformer, clips: Tensor) -> list[AttentionStep]:
    """Return every attention step of a forward."""
    seen: list[AttentionStep] = []
    with torch.inference_mode(), watch(model.layers, seen.append):
        model(clips)
    return seen


def hand_made(attention: Tensor, values: Tensor, inputs: Tensor) -> AttentionStep:
    """Return a step with one head, one sequence, and the identity as projection."""
    c = values.shape[-1]
    projection = torch.nn.Linear(c, c)
    torch.nn.init.eye_(projection.weight)
    torch.nn.init.zeros_(projection.bias)
    return AttentionStep(
        "group",
        attention[None, None, None],
        values[None, None, None],
        inputs[None, None],
        (inputs + attention @ values)[None, None],
        (projection.requires_grad_(False),),
    )


def two_tokens() -> AttentionStep:
    """y_0 = (1, 0) + (1, 1)/2 + (2, -1)/2 = (2.5, 0), y_1 = (0, 3) + (2, -1) = (2, 2)."""
    return hand_made(
        attention=torch.tensor([[0.5, 0.5], [0.0, 1.0]]),
        values=torch.tensor([[1.0, 1.0], [2.0, -1.0]]),
        inputs=torch.tensor([[1.0, 0.0], [0.0, 3.0]]),
    )


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        # T_00 = (1.5, .5), T_01 = (1, -.5); T_11 = y_1.
        ("projection", [[1.5 / 2.5, 1 / 2.5], [0, 1]]),
        # From x̄ = (.5, 1.5) and v̄ = (1.5, 0): T_00 = (.25, -1), T_01 = (.25, -.5) make
        # y_0 = (.5, -1.5); T_11 = (0, .5) makes y_1, and T_10 is 0.
        ("deviation", [[(0.125 + 1.5) / 2.5, (0.125 + 0.75) / 2.5], [0, 1]]),
    ],
)
def test_shares_worked_by_hand(weighting: str, expected: list[list[float]]):
    raw = raw_shares(two_tokens(), weighting)
    torch.testing.assert_close(raw, torch.tensor(expected)[None, None])
    rows = torch.tensor(expected) / torch.tensor(expected).sum(dim=1, keepdim=True)
    torch.testing.assert_close(contribution_shares(two_tokens(), weighting), rows[None, None])


def test_contribution_against_the_output_gets_no_share():
    # y_0 = (1, 0) + (-1, 0)/2 + (5, 0)/2.
    step = hand_made(
        attention=torch.full((2, 2), 0.5),
        values=torch.tensor([[5.0, 0.0], [-1.0, 0.0]]),
        inputs=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    )
    raw = raw_shares(step, "projection")[0, 0, 0]
    torch.testing.assert_close(raw, torch.tensor([3.5 / 3, -0.5 / 3]))
    shares = contribution_shares(step, "projection")[0, 0, 0]
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_zero_output_keeps_its_own_token(weighting: str):
    step = hand_made(torch.full((2, 2), 0.5), torch.zeros(2, 3), torch.zeros(2, 3))
    torch.testing.assert_close(contribution_shares(step, weighting)[0, 0], torch.eye(2))


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_vectors_sum_to_the_outputs(attention_type: str):
    model, clips = random_model(attention_type=attention_type), random_clips(batch=1)
    ours, obvious = steps_of(model, clips), dense.run(model, clips[0]).steps
    assert len(ours) == len(obvious)
    for step, other in zip(ours, obvious, strict=True):
        vectors = other.vectors.sum(dim=1)
        patches = vectors[-3 * 12 :]  # t p
        if step.axis == "time":
            outputs = rearrange(step.outputs, "1 p t c -> (t p) c")
        elif attention_type == "joint_space_time":
            outputs = step.outputs[0, 0, 1:]
        else:
            outputs = rearrange(step.outputs[:, :, 1:], "1 t p c -> (t p) c")
        torch.testing.assert_close(patches, outputs, atol=1e-5, rtol=0)
        if step.axis == "group":
            copies = len(vectors) - 3 * 12
            torch.testing.assert_close(
                vectors[:copies], step.outputs[0, :copies, 0], atol=1e-5, rtol=0
            )


@pytest.mark.parametrize("weighting", ["projection", "deviation"])
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_projection_shares_sum_to_one_before_the_clamp(attention_type: str, weighting: str):
    for step in steps_of(random_model(attention_type=attention_type), random_clips()):
        rows = raw_shares(step, weighting).sum(dim=-1)
        if step.shares_cls:
            rows[:, :, 0] = rows[:, :, 0].mean(dim=1, keepdim=True)
        torch.testing.assert_close(rows, torch.ones_like(rows), atol=1e-5, rtol=0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_rows_are_not_negative_and_sum_to_one(attention_type: str, weighting: str):
    for step in steps_of(random_model(attention_type=attention_type), random_clips()):
        shares = contribution_shares(step, weighting)
        assert shares.dtype == torch.float32
        assert shares.min() >= 0
        rows = shares.sum(dim=-1)
        if step.shares_cls:
            # Rows differ between frames; their mean is the row of the classification token.
            assert (rows[:, :, 0] - 1).abs().max() > 1e-3
            rows[:, :, 0] = rows[:, :, 0].mean(dim=1, keepdim=True)
        torch.testing.assert_close(rows, torch.ones_like(rows), atol=1e-5, rtol=0)


def test_deviation_ignores_what_all_tokens_share():
    step = two_tokens()
    plain = raw_shares(step, "deviation")
    shift = torch.tensor([10.0, -7.0])
    outputs = step.outputs + shift
    # Added to the values, to the residual, or to the bias of the projection.
    biased = deepcopy(step.projections[0])
    biased.bias.copy_(shift)
    for shifted in (
        replace(step, values=step.values + shift, outputs=outputs),
        replace(step, inputs=step.inputs + shift, outputs=outputs),
        replace(step, projections=(biased,), outputs=outputs),
    ):
        torch.testing.assert_close(raw_shares(shifted, "deviation"), plain)
        difference = raw_shares(shifted, "projection") - raw_shares(step, "projection")
        assert difference.abs().max() > 0.1


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_half_precision_is_computed_in_float32(weighting: str):
    model, clips = random_model(), random_clips()
    exact = [contribution_shares(step, weighting) for step in steps_of(model, clips)]
    halves = steps_of(model.bfloat16(), clips.bfloat16())
    for step, expected in zip(halves, exact, strict=True):
        half = contribution_shares(step, weighting)
        assert half.dtype == torch.float32
        assert 0 < (half - expected).norm() / expected.norm() < 0.05
