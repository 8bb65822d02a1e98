from dataclasses import replace

import pytest
import torch
from torch import nn

from rollout_core.model.checkpoints import load_model
from rollout_core.model.timesformer import Attention
from tests.benchmarks.suite import models
from tests.benchmarks.suite.models import (
    BASE,
    KERNELS,
    TINY,
    on_device,
    plain_forwards,
    random_clips,
    random_model,
    shaped,
    using_kernel,
    write_checkpoint,
)


def test_shapes_are_those_of_the_published_models():
    assert shaped(8, 224) == BASE
    assert shaped(16, 448, depth=2).grid == (28, 28)
    assert shaped(16, 448, depth=2).depth == 2


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
def test_all_plain_forwards_give_the_same_logits(attention_type):
    model = random_model(replace(TINY, attention_type=attention_type))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    calls = plain_forwards(model, random_clips(model, batch=2))
    expected = calls["as it is"]()
    assert list(calls) == ["as it is", "explicit", "fused"]
    for call in calls.values():
        torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-4)


def test_kernel_is_used_in_every_attention_and_only_in_its_context():
    model, used = random_model(TINY), []

    def kernel(q, k, v):
        used.append(tuple(q.shape[-2:]))
        return KERNELS["explicit"](q, k, v)

    with using_kernel(model, kernel):
        model(random_clips(model))
    assert used == TINY.depth * [(8, 32), (7, 32)]
    model(random_clips(model))
    assert len(used) == 2 * TINY.depth
    assert all("forward" not in vars(m) for m in model.modules() if isinstance(m, Attention))


def test_model_and_clips_are_the_same_each_time():
    first, second = random_model(TINY), random_model(TINY)
    assert torch.equal(first(random_clips(first)), second(random_clips(second)))
    assert random_clips(random_model(TINY, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_checkpoint_is_read_as_a_published_one(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "BASE", replace(TINY, dim=64, heads=1))
    model = load_model(write_checkpoint(tmp_path / "base.pyth", depth=1))
    assert model.architecture.depth == 1
    assert model.architecture.frames == 8


def test_cpu_needs_no_waiting():
    calls = {"call": lambda: 1}
    assert on_device("cpu", calls) == calls
