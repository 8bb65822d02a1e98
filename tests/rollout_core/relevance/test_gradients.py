import gc
import weakref

import pytest
import torch

from rollout_core.model.timesformer import AttentionStep
from rollout_core.relevance import gradients
from rollout_core.relevance.gradients import gradient_flow
from rollout_core.relevance.rollout import Flow
from tests.rollout_core.models import random_clips, random_model


def test_shapes_and_the_predicted_class():
    model, clips = random_model(), random_clips()
    flow, logits, targets = gradient_flow(model, clips, None)
    assert [tuple(layer.shape) for layer in flow.groups] == [(2, 3, 13, 13)] * 3
    assert [tuple(layer.shape) for layer in flow.time] == [(2, 12, 3, 3)] * 3
    torch.testing.assert_close(logits, model(clips))
    assert targets.tolist() == logits.argmax(dim=1).tolist()


def test_an_attention_s_gradient_is_that_of_a_small_change():
    """A̅ of one head is α · ∂y/∂α: nudge one entry of the last attention and see the logit move."""
    model, clips = random_model(heads=1, depth=1).double(), random_clips(batch=1).double()
    target, frame, key, nudge = 2, 1, 5, 1e-6
    flow, logits, _ = gradient_flow(model, clips, [target])
    attention = []

    def watched(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        update, seen, values = self.watched(x)
        attention.append(seen)
        moved = torch.zeros_like(update)
        moved[0, frame, 0] = nudge * torch.nn.functional.linear(
            values[0, frame, 0, key], self.proj.weight
        )
        return update + moved

    space = model.layers[0].attn
    space.forward = watched.__get__(space)
    slope = (model(clips)[0, target] - logits[0, target]) / nudge
    share = attention[0][0, frame, 0, 0, key] * slope  # of one frame; the flow averages frames
    expected = max(0.0, share.item()) * 3
    assert flow.groups[0][0, frame, 0, key].item() == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_another_target_gives_another_flow():
    model, clips = random_model(), random_clips()
    first, _, targets = gradient_flow(model, clips, [0, 1])
    second, _, _ = gradient_flow(model, clips, [3, 1])
    assert targets.tolist() == [0, 1]
    difference = (first.groups[0] - second.groups[0]).abs()
    assert difference[0].max() > 1e-5
    assert difference[1].max() < 1e-7


def test_later_layers_only():
    model, clips = random_model(), random_clips()
    every, _, _ = gradient_flow(model, clips, None)
    last, _, _ = gradient_flow(model, clips, None, start_layer=1)
    assert len(last.groups) == len(last.time) == 2
    for expected, actual in zip(every.groups[1:], last.groups, strict=True):
        torch.testing.assert_close(actual, expected)


def test_it_works_within_inference_mode_and_leaves_nothing_behind():
    model = random_model()
    with torch.inference_mode():
        flow, _, _ = gradient_flow(model, random_clips(), None)
    assert not any(layer.requires_grad for layer in flow.groups + flow.time)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(block.tap is None for block in model.layers)


def test_one_layer_s_graph_at_a_time(monkeypatch: pytest.MonkeyPatch):
    """The forward keeps no graph, and each layer's is released before the next one's is built."""
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


def test_no_attention_outlives_its_layer(monkeypatch: pytest.MonkeyPatch):
    seen: list[weakref.ref[torch.Tensor]] = []
    collect = gradients._collect

    def watched(step: AttentionStep, flow: Flow) -> None:
        assert not any(other() is not None for other in seen[:-1])  # time and space of a layer
        seen.append(weakref.ref(step.attention))
        collect(step, flow)

    monkeypatch.setattr(gradients, "_collect", watched)
    gc.disable()  # a cycle would be freed by luck
    try:
        gradient_flow(random_model(), random_clips(), None)
        assert [other() for other in seen] == [None] * 6
    finally:
        gc.enable()


def test_every_map_holds_the_skip_connection():
    flow, _, _ = gradient_flow(random_model(), random_clips(), None)
    for layer in flow.groups + flow.time:
        diagonal = layer.diagonal(dim1=-2, dim2=-1)
        assert diagonal.min() >= 1
        assert layer.min() >= 0
