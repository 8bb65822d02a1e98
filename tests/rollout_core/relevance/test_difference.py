import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from rollout_core.model.timesformer import Attention, Block, TimeSformer
from rollout_core.relevance.difference import explain_difference
from rollout_core.relevance.perturbation import fill_of
from tests.rollout_core.models import random_clips, random_model

ATTENTION_TYPES = ["divided_space_time", "joint_space_time", "space_only"]
FILLS = ["still", "blur", "mean"]
PATCH = (8, 4)

Both = tuple[Tensor, Tensor, Tensor]
"""Values of the clip, those of the reference, and `p` parts of the difference, `p ...`."""


def reference_of(clips: Tensor, fill: str) -> Tensor:
    return fill_of(clips, fill, PATCH).expand_as(clips)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("kind", ATTENTION_TYPES)
def test_relevance_sums_to_the_difference_of_the_logits(kind, fill):
    model, clips = random_model(attention_type=kind), 3 * random_clips()
    references = reference_of(clips, fill)
    found = explain_difference(model, clips, references, [[1, 0], [4, 2]])
    torch.testing.assert_close(found.logits, model(clips))
    torch.testing.assert_close(found.reference_logits, model(references))
    expected = (found.logits - found.reference_logits).gather(1, torch.tensor([[1, 0], [4, 2]]))
    torch.testing.assert_close(found.relevance.sum((2, 3, 4)), expected, rtol=0, atol=1e-5)
    assert expected.abs().amax(dim=1).min() > 1e-3


@pytest.mark.parametrize("kind", ATTENTION_TYPES)
def test_relevance_equals_that_of_each_patch_pushed_forward(kind):
    model = random_model(attention_type=kind).double()
    clips = 3 * random_clips(batch=1).double()
    references = reference_of(clips, "still")
    expected = push_each_patch(model, clips, references)[:, 2]
    single = random_model(attention_type=kind)
    found = explain_difference(single, clips.float(), references.float(), [[2]])
    torch.testing.assert_close(found.relevance.flatten().double(), expected, rtol=0, atol=1e-5)


def test_without_a_target_the_predicted_class_is_explained():
    model, clips = random_model(), random_clips()
    found = explain_difference(model, clips, reference_of(clips, "mean"))
    assert found.targets.tolist() == model(clips).argmax(dim=1, keepdim=True).tolist()
    assert found.relevance.shape == (2, 1, 3, 2, 6)


@pytest.mark.parametrize("kind", ATTENTION_TYPES)
def test_several_classes_at_once_equal_each_alone(kind):
    model, clips = random_model(attention_type=kind), random_clips()
    references = reference_of(clips, "still")
    targets = [[0, 4, 2], [3, 1, 0]]
    together = explain_difference(model, clips, references, targets).relevance
    for place in range(3):
        alone = explain_difference(model, clips, references, [[row[place]] for row in targets])
        torch.testing.assert_close(alone.relevance[:, 0], together[:, place])


@pytest.mark.parametrize("kind", ATTENTION_TYPES)
def test_relevance_at_a_layer_is_that_of_a_model_without_the_layers_below(kind):
    model, clips = random_model(attention_type=kind), random_clips()
    references = reference_of(clips, "still")
    whole = explain_difference(model, clips, references, [[1], [2]])
    assert whole.layer_relevance.shape == (2, 3, 3, 2, 6)
    torch.testing.assert_close(whole.layer_relevance[:, 0], whole.relevance[:, 0])
    embed, first = model.embed, model.layers[0]
    model.embed = lambda clips: first(embed(clips))
    model.layers = model.layers[1:]
    above = explain_difference(model, clips, references, [[1], [2]])
    torch.testing.assert_close(above.layer_relevance, whole.layer_relevance[:, 1:])


def test_a_clip_that_is_its_own_reference_has_no_relevance():
    model, clips = random_model(), random_clips()
    assert not explain_difference(model, clips, clips).relevance.any()


def test_patches_that_never_change_have_no_relevance_for_a_still_reference():
    model, clips = random_model(), random_clips()
    clips[:, :, :, :8, :4] = clips[:, :, :1, :8, :4]
    found = explain_difference(model, clips, reference_of(clips, "still"))
    assert found.relevance[:, 0, :, 0, 0].abs().max() < 1e-6 < found.relevance.abs().max()


def test_swapping_clip_and_reference_swaps_the_sign():
    model, clips = random_model(), random_clips()
    references = reference_of(clips, "blur")
    there = explain_difference(model, clips, references, [[0], [1]]).relevance
    back = explain_difference(model, references, clips, [[0], [1]]).relevance
    torch.testing.assert_close(there, -back, rtol=1e-4, atol=1e-6)


def push_each_patch(model: TimeSformer, clip: Tensor, reference: Tensor) -> Tensor:
    """Return how far each patch moves each logit, `p k`: the secants, from the input to the output.

    This is slow and obvious: the difference of each patch is pushed through every operation by
    itself, together with both values.
    """
    ours, theirs = model.embed(clip)[0], model.embed(reference)[0]  # g n c
    g, n, c = ours.shape
    places = [(group, token) for group in range(g) for token in range(1, n)]
    parts = ours.new_zeros(len(places), g, n, c)
    for part, (group, token) in zip(parts, places, strict=True):
        part[group, token] = (ours - theirs)[group, token]
    both: Both = ours, theirs, parts
    for block in model.layers:
        both = _layer(block, both)
    cls = tuple(value[..., 0, :].mean(dim=-2) for value in both)
    return _linear(model.head, _norm(model.norm, cls))[2]


def _layer(block: Block, both: Both) -> Both:
    if block.divided:
        patches = tuple(value[..., 1:, :].transpose(-3, -2) for value in both)
        update = _attend(block.temporal_attn, _norm(block.temporal_norm1, patches))
        patches = _add(patches, _linear(block.temporal_fc, update))
        both = tuple(
            torch.cat([value[..., :1, :], moved.transpose(-3, -2)], dim=-2)
            for value, moved in zip(both, patches, strict=True)
        )
    update = _attend(block.attn, _norm(block.norm1, both))
    if block.divided:
        for value in update:
            value[..., 0, :] = value[..., 0, :].mean(dim=-2, keepdim=True)
    both = _add(both, update)
    hidden = _linear(block.mlp.fc1, _norm(block.norm2, both))
    active = tuple(nn.functional.gelu(value) for value in hidden[:2])
    slope = (active[0] - active[1]) / (hidden[0] - hidden[1])
    return _add(both, _linear(block.mlp.fc2, (*active, slope.nan_to_num(0) * hidden[2])))


def _add(both: Both, more: Both) -> Both:
    return tuple(one + other for one, other in zip(both, more, strict=True))


def _linear(layer: nn.Linear, both: Both) -> Both:
    return layer(both[0]), layer(both[1]), both[2] @ layer.weight.T


def _product(one: Both, other: Both, times) -> Both:
    """Return the product of two values: D(a b) = ā Db + Da b̄."""
    a, a_ref, a_part = one
    b, b_ref, b_part = other
    part = times((a + a_ref) / 2, b_part) + times(a_part, (b + b_ref) / 2)
    return times(a, b), times(a_ref, b_ref), part


def _norm(norm: nn.LayerNorm, both: Both) -> Both:
    centred = tuple(value - value.mean(dim=-1, keepdim=True) for value in both)
    squares = _product(centred, centred, torch.mul)
    variance = tuple(value.mean(dim=-1, keepdim=True) for value in squares)
    roots = [(value + norm.eps) ** -0.5 for value in variance[:2]]
    slope = -roots[0] * roots[1] / (1 / roots[0] + 1 / roots[1])
    scaled = _product(centred, (*roots, slope * variance[2]), torch.mul)
    gain, bias = norm.weight, norm.bias
    return scaled[0] * gain + bias, scaled[1] * gain + bias, scaled[2] * gain


def _attend(attention: Attention, both: Both) -> Both:
    pattern = "... n (three head c) -> three ... head n c"
    joined = [
        rearrange(value, pattern, three=3, head=attention.heads)
        for value in _linear(attention.qkv, both)
    ]
    q, k, v = (tuple(value[index] for value in joined) for index in range(3))
    scores = _product(q, tuple(value.transpose(-2, -1) for value in k), torch.matmul)
    scores = tuple(value * q[0].shape[-1] ** -0.5 for value in scores)
    ours, theirs = (value.softmax(dim=-1) for value in scores[:2])
    mean = (ours - theirs) / (ours.log() - theirs.log())
    mean = torch.where(ours == theirs, ours, mean)
    centre = (mean * scores[2]).sum(-1, keepdim=True) / mean.sum(-1, keepdim=True)
    mixed = _product((ours, theirs, mean * (scores[2] - centre)), v, torch.matmul)
    return _linear(
        attention.proj, tuple(rearrange(value, "... head n c -> ... n (head c)") for value in mixed)
    )
