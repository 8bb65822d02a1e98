import gc
import weakref

import pytest
import torch

from rollout_core.model.timesformer import AttentionStep
from rollout_core.relevance import gradients
from rollout_core.relevance.gradients import gradient_flow
from rollout_core.relevance.rollout import Flow
from tests.rollout_core.models import random_clips, random_model


def test_shapes_and_predicted_class():
    model, clips = random_model(), random_clips()
    flow, logits, targets = gradient_flow(model, clips, None)
    assert [tuple(layer.shape) for layer in flow.groups] == [(2, 3, 13, 13)] * 3
    assert [tuple(layer.shape) for layer in flow.time] == [(2, 12, 3, 3)] * 3
    torch.testing.assert_close(logits, model(clips))
    assert targets.tolist() == logits.argmax(dim=1).tolist()


def test_gradient_equals_a_finite_difference():
    """A̅ of one head is α · ∂y/∂α: change one entry of the last attention and compare the logits."""
    model, clips = random_model(heads=1, depth=1).double(), random_clips(batch=1).double()
    target, frame, key, nudge = 2, 1, 5, 1e-6
    flow, logits, _ = gradient_flow(model, clips, [target])
    attention = []

    def watched(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        update, softmax, values = self.forward_with_attention(x)
        attention.append(softmax)
        moved = torch.zeros_like(update)
        moved[0, frame, 0] = nudge * torch.nn.functional.linear(
            values[0, frame, 0, key], self.proj.weight
        )
        return update + moved

    space = model.layers[0].attn
    space.forward = watched.__get__(space)
    slope = (model(clips)[0, target] - logits[0, target]) / nudge
    share = (
        attention[0][0, frame, 0, 0, key] * slope
    )  # of one frame; the flow takes the mean over frames
    expected = max(0.0, share.item()) * 3
    assert flow.groups[0][0, frame, 0, key].item() == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_flow_depends_on_the_target():
    model, clips = random_model(), random_clips()
    first, _, targets = gradient_flow(model, clips, [0, 1])
    second, _, _ = gradient_flow(model, clips, [3, 1])
    assert targets.tolist() == [0, 1]
    difference = (first.groups[0] - second.groups[0]).abs()
    assert difference[0].max() > 1e-5
    assert difference[1].max() < 1e-7


def test_start_layer_selects_the_later_layers():
    model, clips = random_model(), random_clips()
    every, _, _ = gradient_flow(model, clips, None)
    last, _, _ = gradient_flow(model, clips, None, start_layer=1)
    assert len(last.groups) == len(last.time) == 2
    for expected, actual in zip(every.groups[1:], last.groups, strict=True):
        torch.testing.assert_close(actual, expected)


def test_inference_mode_is_supported_and_the_model_is_unchanged():
    model = random_model()
    with torch.inference_mode():
        flow, _, _ = gradient_flow(model, random_clips(), None)
    assert not any(layer.requires_grad for layer in flow.groups + flow.time)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(block.tap is None for block in model.layers)


def test_graph_holds_one_layer_at_a_time(monkeypatch: pytest.MonkeyPatch):
    """The forward builds no graph, and each layer's graph is released before the next is built."""
    model = random_model()
    alive: list[bool] = []
    block = type(model.layers[0])
    forward = block.forward

    def recorded(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = forward(self, x)
        alive.append(out.requires_grad)
        assert x.grad_fn is None
        return out

    monkeypatch.setattr(block, "forward", recorded)
    gradient_flow(model, random_clips(), None)
    assert alive == [False] * 3 + [True] * 3


def test_attention_is_released_with_its_layer(monkeypatch: pytest.MonkeyPatch):
    seen: list[weakref.ref[torch.Tensor]] = []
    collect = gradients._collect

    def watched(step: AttentionStep, flow: Flow) -> None:
        assert not any(
            other() is not None for other in seen[:-1]
        )  # time and space attention of a layer may coexist
        seen.append(weakref.ref(step.attention))
        collect(step, flow)

    monkeypatch.setattr(gradients, "_collect", watched)
    gc.disable()  # so that a reference cycle is not freed by chance
    try:
        gradient_flow(random_model(), random_clips(), None)
        assert [other() for other in seen] == [None] * 6
    finally:
        gc.enable()


def test_every_map_includes_the_skip_connection():
    flow, _, _ = gradient_flow(random_model(), random_clips(), None)
    for layer in flow.groups + flow.time:
        diagonal = layer.diagonal(dim1=-2, dim2=-1)
        assert diagonal.min() >= 1
        assert layer.min() >= 0
