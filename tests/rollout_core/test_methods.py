import torch

from rollout_core.capture import watch
from rollout_core.methods import fuse_heads, see
from rollout_core.timesformer import Mixing
from tests.rollout_core.models import random_clips, random_model

DEFAULTS = {
    "weighting": "projection",
    "head_fusion": "mean",
    "discard_ratio": 0.0,
    "start_layer": 0,
    "target": None,
}


def test_fusion_is_taken_over_heads():
    mixings: list[Mixing] = []
    model = random_model()
    with torch.inference_mode(), watch(model.layers, mixings.append):
        model(random_clips())
    lowest, mean, highest = (fuse_heads(mixings[0], f) for f in ("min", "mean", "max"))
    assert (lowest <= mean).all()
    assert (mean <= highest).all()
    assert (highest - lowest).max() > 1e-3
    # Two heads: their mean is that of their minimum and maximum.
    torch.testing.assert_close(mean, (lowest + highest) / 2)


def test_only_gradients_know_a_class():
    model, clips = random_model(), random_clips()
    for method in ("rollout", "attention", "contribution_rollout"):
        assert see(model, clips, method=method, **DEFAULTS).targets is None
    seen = see(model, clips, method="gradient_rollout", **DEFAULTS)
    assert seen.targets.tolist() == seen.logits.argmax(dim=1).tolist()


def test_rows_of_rollouts_are_shares_and_attention_has_no_skip_connection():
    model, clips = random_model(), random_clips()
    rollout = see(model, clips, method="rollout", **DEFAULTS | {"head_fusion": "max"})
    attention = see(model, clips, method="attention", **DEFAULTS)
    for halved, raw in zip(rollout.flow.time, attention.flow.time, strict=True):
        ones = torch.ones_like(raw.sum(dim=-1))
        torch.testing.assert_close(raw.sum(dim=-1), ones)
        torch.testing.assert_close(halved.sum(dim=-1), ones)
        assert (halved.diagonal(dim1=-2, dim2=-1) >= 0.3).all()
