import pytest
import torch
from torch import Tensor

from rollout_core.contract import MethodOptions
from rollout_core.model.timesformer import AttentionStep, watch
from rollout_core.relevance.methods import capture_flow, fuse_heads, watch_forward
from tests.rollout_core.models import random_clips, random_model


def test_heads_are_fused_by_minimum_mean_or_maximum():
    steps: list[AttentionStep] = []
    model = random_model()
    with torch.inference_mode(), watch(model.layers, steps.append):
        model(random_clips())
    lowest, mean, highest = (fuse_heads(steps[0], f) for f in ("min", "mean", "max"))
    assert (lowest <= mean).all()
    assert (mean <= highest).all()
    assert (highest - lowest).max() > 1e-3
    # Two heads: their mean is that of their minimum and maximum.
    torch.testing.assert_close(mean, (lowest + highest) / 2)


def test_only_gradient_rollout_has_targets():
    model, clips = random_model(), random_clips()
    for method in ("rollout", "attention", "contribution_rollout"):
        assert watch_forward(model, clips, MethodOptions(method=method)).targets is None
    seen = watch_forward(model, clips, MethodOptions(method="gradient_rollout"))
    assert seen.targets.tolist() == seen.logits.argmax(dim=1).tolist()


def test_rows_of_rollout_sum_to_one_and_attention_has_no_skip_connection():
    model, clips = random_model(), random_clips()
    rollout = watch_forward(model, clips, MethodOptions(head_fusion="max"))
    attention = watch_forward(model, clips, MethodOptions(method="attention"))
    for mixed, raw in zip(rollout.flow.time, attention.flow.time, strict=True):
        ones = torch.ones_like(raw.sum(dim=-1))
        torch.testing.assert_close(raw.sum(dim=-1), ones)
        torch.testing.assert_close(mixed.sum(dim=-1), ones)
        assert (mixed.diagonal(dim1=-2, dim2=-1) >= 0.3).all()


def mean_head(step: AttentionStep) -> Tensor:
    return step.attention.mean(dim=2)


def test_divided_attention_has_the_documented_shapes():
    model, clips = random_model(), random_clips()
    with torch.inference_mode(), capture_flow(model, mean_head) as flow:
        model(clips)
    assert [tuple(layer.shape) for layer in flow.groups] == [(2, 3, 13, 13)] * 3
    assert [tuple(layer.shape) for layer in flow.time] == [(2, 12, 3, 3)] * 3


@pytest.mark.parametrize(
    ("attention_type", "shape"),
    [("joint_space_time", (2, 1, 37, 37)), ("space_only", (2, 3, 13, 13))],
)
def test_joint_and_space_only_attention_have_no_time_maps(
    attention_type: str, shape: tuple[int, ...]
):
    model, clips = random_model(attention_type=attention_type), random_clips()
    with torch.inference_mode(), capture_flow(model, mean_head) as flow:
        model(clips)
    assert [tuple(layer.shape) for layer in flow.groups] == [shape] * 3
    assert flow.time == []


def test_outputs_of_a_step_follow_from_its_parts():
    model = random_model()
    seen: list[AttentionStep] = []
    with torch.inference_mode(), watch(model.layers, seen.append):
        model(random_clips())
    assert [step.axis for step in seen] == ["time", "group"] * 3
    assert [step.shares_cls for step in seen] == [False, True] * 3
    for step in seen:
        update = (step.attention @ step.values).transpose(2, 3).flatten(3)
        for layer in step.projections:
            update = layer(update)
        if step.shares_cls:
            update[:, :, 0] = update[:, :, 0].mean(dim=1, keepdim=True)
        torch.testing.assert_close(step.inputs + update, step.outputs)
        rows = step.attention.sum(dim=-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))


def test_start_layer_leaves_out_earlier_layers():
    model, clips = random_model(), random_clips()
    with torch.inference_mode(), capture_flow(model, mean_head) as every:
        model(clips)
    with torch.inference_mode(), capture_flow(model, mean_head, start_layer=2) as last:
        model(clips)
    assert len(last.groups) == len(last.time) == 1
    torch.testing.assert_close(last.groups[0], every.groups[2])
    torch.testing.assert_close(every.layer(2).time[0], last.time[0])


def test_maps_have_no_gradient():
    model = random_model().requires_grad_(True)
    with capture_flow(model, mean_head) as flow:
        logits = model(random_clips())
    assert logits.requires_grad
    assert not any(layer.requires_grad for layer in flow.groups + flow.time)


def test_capture_does_not_change_the_logits():
    model, clips = random_model(), random_clips()
    plain = model(clips)
    with capture_flow(model, mean_head):
        torch.testing.assert_close(model(clips), plain)


def test_taps_are_released_after_an_error():
    model = random_model()
    with pytest.raises(ZeroDivisionError), capture_flow(model, mean_head):
        assert all(block.tap is not None for block in model.layers)
        raise ZeroDivisionError
    assert all(block.tap is None for block in model.layers)
