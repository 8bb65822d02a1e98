import pytest
import torch

from rollout_core.capture import capture_attention
from tests.rollout_core.models import random_clips, random_model


def taps(model: torch.nn.Module) -> list[object]:
    return [module.tap for module in model.modules() if hasattr(module, "tap")]


def test_divided_attention_has_the_documented_shapes():
    model, clips = random_model(), random_clips()
    with torch.inference_mode(), capture_attention(model) as captured:
        model(clips)
    assert [tuple(layer.shape) for layer in captured.groups] == [(2, 3, 13, 13)] * 3
    assert [tuple(layer.shape) for layer in captured.time] == [(2, 12, 3, 3)] * 3


def test_rows_of_mean_attention_sum_to_one():
    model, clips = random_model(), random_clips()
    with torch.inference_mode(), capture_attention(model) as captured:
        model(clips)
    for layer in captured.groups + captured.time:
        rows = layer.sum(dim=-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))


def test_fusion_is_taken_over_heads():
    model, clips = random_model(), random_clips()
    maps = {}
    for fusion in ("min", "mean", "max"):
        with torch.inference_mode(), capture_attention(model, head_fusion=fusion) as captured:
            model(clips)
        maps[fusion] = captured.groups[0]
    assert (maps["min"] <= maps["mean"]).all()
    assert (maps["mean"] <= maps["max"]).all()
    # Two heads: their mean is that of their minimum and maximum.
    torch.testing.assert_close(maps["mean"], (maps["min"] + maps["max"]) / 2)


def test_later_layers_only():
    model, clips = random_model(), random_clips()
    with torch.inference_mode(), capture_attention(model) as every:
        model(clips)
    with torch.inference_mode(), capture_attention(model, start_layer=2) as last:
        model(clips)
    assert len(last.groups) == len(last.time) == 1
    torch.testing.assert_close(last.groups[0], every.groups[2])


def test_capturing_does_not_change_the_logits():
    model, clips = random_model(), random_clips()
    plain = model(clips)
    with capture_attention(model):
        torch.testing.assert_close(model(clips), plain)


def test_taps_are_released_also_after_an_error():
    model = random_model()
    with pytest.raises(ZeroDivisionError), capture_attention(model):
        assert all(tap is not None for tap in taps(model))
        raise ZeroDivisionError
    assert all(tap is None for tap in taps(model))


def test_half_precision_is_captured_in_float32():
    model, clips = random_model().bfloat16(), random_clips().bfloat16()
    with torch.inference_mode(), capture_attention(model) as captured:
        model(clips)
    assert {layer.dtype for layer in captured.groups + captured.time} == {torch.float32}
