import pytest
import torch
from torch import Tensor

from rollout_core.model import timesformer
from rollout_core.model.timesformer import FUSED_ON_CPU_FROM_TOKENS, AttentionStep, watch
from tests.rollout_core.models import random_clips, random_model

ATTENTION_TYPES = ["divided_space_time", "joint_space_time", "space_only"]


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_logits_have_one_row_per_clip(attention_type: str):
    logits = random_model(attention_type=attention_type)(random_clips())
    assert logits.shape == (2, 5)
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
def test_order_of_frames_matters(attention_type: str):
    model, clips = random_model(attention_type=attention_type), random_clips()
    assert (model(clips) - model(clips.flip(2))).abs().max() > 1e-3


def test_order_of_frames_does_not_matter_to_space_only_attention():
    model, clips = random_model(attention_type="space_only"), random_clips()
    torch.testing.assert_close(model(clips), model(clips.flip(2)), atol=1e-5, rtol=1e-5)


def test_rows_and_columns_are_not_swapped():
    model, clips = random_model(height=24, patch_width=8), random_clips(height=24)
    assert (model(clips) - model(clips.transpose(-1, -2))).abs().max() > 1e-3


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
def test_other_frame_counts_use_the_nearest_time_embedding(attention_type: str):
    model, clips = random_model(attention_type=attention_type), random_clips(t=6)
    longer = random_model(attention_type=attention_type, frames=6)
    state_dict = dict(model.state_dict())
    state_dict["time_embed"] = model.time_embed[:, [0, 0, 1, 1, 2, 2]]
    longer.load_state_dict(state_dict)
    torch.testing.assert_close(model(clips), longer(clips))


def test_other_sizes_use_the_nearest_position_embedding():
    model, clips = random_model(), random_clips(height=32, width=24)
    taller = random_model(height=32)
    grid = model.pos_embed[:, 1:].reshape(1, 2, 6, 16)[:, [0, 0, 1, 1]].reshape(1, 24, 16)
    state_dict = dict(model.state_dict())
    state_dict["pos_embed"] = torch.cat([model.pos_embed[:, :1], grid], dim=1)
    taller.load_state_dict(state_dict)
    torch.testing.assert_close(model(clips), taller(clips))


def test_fused_kernel_equals_the_explicit_product():
    model = random_model(attention_type="joint_space_time", depth=1)
    clips = random_clips(batch=1, t=22, height=32, width=24)
    assert FUSED_ON_CPU_FROM_TOKENS <= 22 * 4 * 6
    fused = model(clips)
    with watch(model.layers, lambda step: None):  # forces the explicit product
        torch.testing.assert_close(model(clips), fused, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2 * 13 * 5, 1 << 19])
def test_heads_fused_in_chunks_equal_the_heads_fused_at_once(
    chunk: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(timesformer, "CPU_CHUNK", chunk)
    model, clips = random_model(), random_clips()
    whole: list[AttentionStep] = []
    chunked: list[AttentionStep] = []
    with watch(model.layers, whole.append):
        logits = model(clips)
    with watch(model.layers, chunked.append, fuse=lambda attention: attention.mean(dim=1)):
        torch.testing.assert_close(model(clips), logits)
    assert model.layers[0].fuse is None
    for one, other in zip(whole, chunked, strict=True):
        fused = one.attention.mean(dim=2, keepdim=True)
        torch.testing.assert_close(other.attention, fused)
        torch.testing.assert_close(other.values, one.values)


def test_heads_fused_in_chunks_never_exist_as_a_whole():
    model = random_model(attention_type="joint_space_time", depth=1)
    clips = random_clips(batch=1, t=60, height=32, width=24)
    largest: list[int] = []

    def fuse(attention: Tensor) -> Tensor:
        largest.append(attention.numel())
        return attention.mean(dim=1)

    with watch(model.layers, lambda step: None, fuse=fuse):
        model(clips)
    tokens = 1 + 60 * 4 * 6
    assert sum(largest) == 2 * tokens**2
    assert max(largest) <= timesformer.CPU_CHUNK < sum(largest)


def test_frame_size_that_the_patches_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="20×24 pixels do not divide into patches of 8×4"):
        random_model()(random_clips(height=20))


def test_grid_is_rows_by_columns():
    model = random_model()
    assert model.architecture.grid == (2, 6)
    assert model.grid_of(random_clips(t=4, height=32)) == (4, 4, 6)


def test_parameters_have_their_published_names():
    names = set(random_model(depth=1).state_dict())
    assert {"cls_token", "pos_embed", "time_embed", "patch_embed.proj.weight"} <= names
    assert {"blocks.0.temporal_attn.qkv.bias", "blocks.0.temporal_fc.weight"} <= names
    assert {
        "blocks.0.attn.proj.weight",
        "blocks.0.mlp.fc2.bias",
        "norm.weight",
        "head.bias",
    } <= names
    assert not any(
        "temporal" in name for name in random_model(attention_type="space_only").state_dict()
    )
