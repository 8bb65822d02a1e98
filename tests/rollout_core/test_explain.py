from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange

from rollout_core.capture import capture_attention
from rollout_core.checkpoints import MOVING_SHAPES_PATH, load_model
from rollout_core.errors import InvalidRequest
from rollout_core.explain import explain_clips, prepare_clips
from rollout_core.specs import MOVING_SHAPES, spec_of
from tests.rollout_core import dense
from tests.rollout_core.models import random_clips, random_model

REFERENCE = Path(__file__).parent / "reference"
ATTENTION_TYPES = ["divided_space_time", "joint_space_time", "space_only"]


@pytest.fixture(params=["divided", "joint", "space_only"])
def name(request: pytest.FixtureRequest) -> str:
    """A checkpoint that the published code has answered for."""
    return request.param


def reference(name: str) -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / f"tiny_{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def test_logits_equal_the_published_code(name: str):
    published = reference(name)
    model = load_model(REFERENCE / f"tiny_{name}.pyth", num_heads=4)
    close(explain_clips(model, published["clips"]).logits, published["logits"])


def test_attention_equals_the_published_code(name: str):
    published = reference(name)
    model = load_model(REFERENCE / f"tiny_{name}.pyth", num_heads=4)
    with torch.inference_mode(), capture_attention(model) as captured:
        model(published["clips"])
    groups = torch.stack(captured.groups)
    if name == "joint":
        # The published order of tokens is (h w) t, ours is t (h w).
        cls, patches = torch.zeros(1, dtype=torch.long), torch.arange(1, 181)
        order = torch.cat([cls, rearrange(patches, "(p t) -> (t p)", t=5)])
        published["space_attention"] = published["space_attention"][:, :, order][:, :, :, order]
    close(rearrange(groups, "l b g q k -> l (b g) q k"), published["space_attention"])
    if name == "divided":
        time = rearrange(torch.stack(captured.time), "l b p q k -> l (b p) q k")
        close(time, published["time_attention"])


def test_relevance_equals_the_published_dense_rollout():
    published = reference("divided")
    model = load_model(REFERENCE / "tiny_divided.pyth", num_heads=4)
    relevance = explain_clips(model, published["clips"]).relevance
    assert relevance.shape == (2, 5, 6, 6)
    expected = rearrange(published["rollout_hwt"], "b h w t -> b t h w")
    close(relevance, expected, atol=1e-6)
    assert (expected[0] - expected[1]).abs().max() > 1e-4


@pytest.mark.parametrize("t", [1, 3, 5])
def test_divided_relevance_equals_the_dense_rollout(t: int):
    model, clips = random_model(), random_clips(t=t)
    with torch.inference_mode(), capture_attention(model) as captured:
        model(clips)
    expected = dense.divided_rollout(captured.groups, captured.time)
    expected = rearrange(expected, "b t (h w) -> b t h w", h=2, w=6)
    close(explain_clips(model, clips).relevance, expected, atol=1e-6)


def test_joint_relevance_equals_the_dense_rollout():
    model, clips = random_model(attention_type="joint_space_time"), random_clips()
    with torch.inference_mode(), capture_attention(model) as captured:
        model(clips)
    assert captured.groups[0].shape == (2, 1, 1 + 3 * 12, 1 + 3 * 12)
    expected = rearrange(
        dense.grouped_rollout(captured.groups), "b 1 (t h w) -> b t h w", t=3, h=2, w=6
    )
    close(explain_clips(model, clips).relevance, expected, atol=1e-6)


def test_space_only_relevance_is_each_frame_s_own():
    model, clips = random_model(attention_type="space_only"), random_clips()
    relevance = explain_clips(model, clips).relevance
    for frame in range(3):
        alone = explain_clips(model, clips[:, :, frame : frame + 1]).relevance
        close(relevance[:, frame : frame + 1], alone, atol=1e-6)


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_a_batch_gives_what_its_clips_give_alone(attention_type: str):
    model, clips = random_model(attention_type=attention_type), random_clips(batch=2)
    both = explain_clips(model, clips)
    for index in range(2):
        alone = explain_clips(model, clips[index : index + 1])
        close(both.relevance[index : index + 1], alone.relevance, atol=1e-6)
        close(both.logits[index : index + 1], alone.logits)


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
@pytest.mark.parametrize("head_fusion", ["mean", "max", "min"])
def test_relevance_is_a_share(attention_type: str, head_fusion: str):
    explanation = explain_clips(
        random_model(attention_type=attention_type),
        random_clips(),
        head_fusion=head_fusion,
        discard_ratio=0.3,
    )
    relevance = explanation.relevance
    assert relevance.dtype == torch.float32
    assert relevance.min() >= 0
    total = (
        relevance.sum(dim=(-2, -1)) if attention_type == "space_only" else relevance.sum((1, 2, 3))
    )
    assert (total > 0.05).all()
    assert (total < 1).all()


@pytest.mark.parametrize(
    "options",
    [{"head_fusion": "max"}, {"head_fusion": "min"}, {"discard_ratio": 0.5}, {"start_layer": 1}],
)
def test_every_option_has_an_effect(options: dict[str, object]):
    model, clips = random_model(), random_clips()
    plain, other = explain_clips(model, clips), explain_clips(model, clips, **options)
    assert (plain.relevance - other.relevance).abs().max() > 1e-4
    close(plain.logits, other.logits)


def test_from_the_last_layer_on_only_its_attention_counts():
    model, clips = random_model(), random_clips()
    with torch.inference_mode(), capture_attention(model) as captured:
        model(clips)
    expected = dense.divided_rollout(captured.groups[-1:], captured.time[-1:])
    actual = explain_clips(model, clips, start_layer=2).relevance
    close(rearrange(actual, "b t h w -> b t (h w)"), expected, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"start_layer": 3}, {"start_layer": -1}, {"discard_ratio": 1.0}, {"discard_ratio": -0.1}],
)
def test_options_out_of_range_are_refused(options: dict[str, float]):
    with pytest.raises(InvalidRequest):
        explain_clips(random_model(), random_clips(), **options)


def test_half_precision_moves_the_relevance_little():
    model = load_model(MOVING_SHAPES_PATH)
    clips = random_clips(batch=1, t=8, height=64, width=64)
    exact = explain_clips(model, clips).relevance
    half = explain_clips(model.bfloat16(), clips.bfloat16()).relevance
    assert half.dtype == torch.float32
    difference = (half - exact).norm() / exact.norm()
    assert 0 < difference < 0.02


def test_prepare_normalises_and_keeps_rgb():
    frames = np.zeros((1, 2, 4, 6, 3), dtype=np.uint8)
    frames[..., 0] = 255
    clips = prepare_clips(frames, MOVING_SHAPES, device=torch.device("cpu"), dtype=torch.float32)
    assert clips.shape == (1, 3, 2, 4, 6)
    close(clips[0, :, 0, 0, 0], torch.tensor([(1 - 0.45) / 0.225, -2.0, -2.0]))


def test_prepare_swaps_channels_for_bgr():
    frames = np.zeros((1, 1, 2, 2, 3), dtype=np.uint8)
    frames[..., 0] = 255
    spec = spec_of("timesformer-ssv2")
    clips = prepare_clips(frames, spec, device=torch.device("cpu"), dtype=torch.float32)
    close(clips[0, :, 0, 0, 0], torch.tensor([-2.0, -2.0, (1 - 0.45) / 0.225]))
