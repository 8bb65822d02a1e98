import pytest
import torch
from torch import Tensor

from rollout_core.model.timesformer import TimeSformer
from rollout_core.relevance.class_contributions import ClassContributions, class_contributions
from rollout_core.relevance.rollout import patches_of, roll_out
from tests.rollout_core import dense
from tests.rollout_core.models import random_clips, random_model

ATTENTION_TYPES = ["divided_space_time", "joint_space_time", "space_only"]
TARGETS = [[0, 4, 2], [3, 1, 0]]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def rolled(found: ClassContributions) -> Tensor:
    """Return the patches' relevance, `b r (t p)`."""
    *_, rows = roll_out(torch.zeros_like(found.direct[0]), found.flow, found.direct)
    return patches_of(rows)


@pytest.mark.parametrize("kind", ATTENTION_TYPES)
def test_pieces_sum_to_the_logit(kind):
    """The direct parts and what stays with the token, each computed from the token itself."""
    model, clips = random_model(attention_type=kind), random_clips(batch=1)
    found = class_contributions(model, clips, TARGETS[:1])
    torch.testing.assert_close(found.logits, model(clips))
    run, u = dense.run(model, clips[0]), direction(model, clips, TARGETS[0])
    of_patches = sum(
        step.vectors[: run.copies, run.copies :].mean(dim=0).sum(dim=0) for step in groups(run)
    )
    added = sum(rows.sum(dim=(2, 3)) for rows in found.direct)
    torch.testing.assert_close(added[0], u @ of_patches, rtol=1e-4, atol=1e-6)
    logits = found.logits[0]
    torch.testing.assert_close(
        added[0] + found.kept[0], logits[TARGETS[0]] - logits.mean(), rtol=1e-4, atol=1e-6
    )
    token = final_token(model, clips) - of_patches
    weight, bias = model.head.weight, model.head.bias
    constant = (weight - weight.mean(dim=0))[TARGETS[0]] @ model.norm.bias
    constant = constant + (bias - bias.mean())[TARGETS[0]]
    torch.testing.assert_close(found.kept[0], u @ token + constant, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize("kind", ATTENTION_TYPES)
def test_relevance_equals_a_dense_reference(kind, is_signed):
    model, clips = random_model(attention_type=kind), random_clips()
    found = class_contributions(model, clips, TARGETS, is_signed=is_signed)
    for clip, targets, relevance in zip(clips, TARGETS, rolled(found), strict=True):
        run, u = dense.run(model, clip), direction(model, clip[None], targets)
        matrix_of = signed_matrix if is_signed else dense.contribution_matrix("projection")
        total, below = torch.zeros(3, len(run.steps[0].outputs)), torch.eye(1)
        for step in run.steps:
            matrix = matrix_of(step)
            if any(step is each for each in groups(run)):
                sent = step.vectors[: run.copies].mean(dim=0) @ u.T  # n r
                sent[: run.copies] = 0
                total += sent.T @ (below if len(below) > 1 else torch.eye(len(sent)))
            below = matrix @ below if len(below) > 1 else matrix
        expected = total[:, run.copies :]
        torch.testing.assert_close(relevance, expected, rtol=1e-4, atol=1e-5)
        assert expected.abs().max() > 1e-3


def test_without_targets_the_predicted_class_is_explained():
    model, clips = random_model(), random_clips()
    found = class_contributions(model, clips, None)
    best = model(clips).argmax(dim=1, keepdim=True)
    assert found.targets.tolist() == best.tolist()
    again = class_contributions(model, clips, best.tolist())
    torch.testing.assert_close(rolled(found), rolled(again))


def test_several_classes_at_once_equal_each_alone():
    model, clips = random_model(), random_clips()
    together = rolled(class_contributions(model, clips, TARGETS))
    for place in range(3):
        alone = class_contributions(model, clips, [[row[place]] for row in TARGETS])
        torch.testing.assert_close(rolled(alone)[:, 0], together[:, place])


def test_relevance_of_all_classes_cancels():
    """Logits are explained relative to their mean, so the sum over all classes is 0."""
    model, clips = random_model(), random_clips()
    relevance = rolled(class_contributions(model, clips, [[*range(5)]] * 2))
    assert relevance.sum(dim=1).abs().max() < 1e-5 < relevance.abs().max()


def test_against_a_class_is_the_difference_of_both():
    """Maps are linear in the row of the head, so the mean of all classes cancels."""
    model, clips = random_model(), random_clips()
    both = class_contributions(model, clips, [[0, 3], [2, 3]])
    against = class_contributions(model, clips, [[0], [2]], against=3)
    torch.testing.assert_close(rolled(against)[:, 0], rolled(both)[:, 0] - rolled(both)[:, 1])
    torch.testing.assert_close(against.kept[:, 0], both.kept[:, 0] - both.kept[:, 1])
    predicted = class_contributions(model, clips, [["predicted"]] * 2, against="predicted")
    assert not rolled(predicted).any()


def test_start_layer_leaves_the_earlier_layers_out():
    model, clips = random_model(), random_clips()
    found = class_contributions(model, clips, TARGETS, start_layer=2)
    every = class_contributions(model, clips, TARGETS)
    assert len(found.direct) == len(found.flow.groups) == 1
    torch.testing.assert_close(found.direct[0], every.direct[2])


def groups(run: dense.DenseRun) -> list[dense.DenseStep]:
    """Return the attention steps in which the classification token takes part."""
    return [step for step in run.steps if step.attention[:, 0].any()]


def signed_matrix(step: dense.DenseStep) -> Tensor:
    """Return the projection of each vector onto the output; negative shares are kept."""
    dots = torch.einsum("i j c, i c -> i j", step.vectors, step.outputs)
    return dots / step.outputs.square().sum(dim=1, keepdim=True)


def final_token(model: TimeSformer, clips: Tensor) -> Tensor:
    """Return the classification token after the last layer, `c`."""
    return model.encode(clips)[0, :, 0].mean(dim=0)


def direction(model: TimeSformer, clips: Tensor, targets: list[int]) -> Tensor:
    """Return u, `r c`: by how much each channel of the token moves each logit above the mean."""
    token = final_token(model, clips)
    weight = (model.head.weight - model.head.weight.mean(dim=0))[targets] * model.norm.weight
    centred = weight - weight.mean(dim=1, keepdim=True)
    return centred / (token.var(correction=0) + model.norm.eps).sqrt()
