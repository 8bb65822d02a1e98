import math

import numpy as np
import pytest
import torch
from torch import Generator

from rollout_core.contract import Fill
from rollout_core.demo.motions import random_labels
from rollout_core.demo.scenes import coverage_of, render
from rollout_core.model.checkpoints import MOVING_THINGS_PATH, load_model
from rollout_core.model.specs import MOVING_THINGS
from rollout_core.relevance import perturbation
from rollout_core.relevance.explain import normalize
from rollout_core.relevance.faithfulness import area, orders
from rollout_core.relevance.perturbation import fill_of, perturbed_probabilities
from tests.rollout_core.models import random_clips, random_model

GRID = 3, 2, 6
PATCHES = math.prod(GRID)
PATCH = 8, 4
FILLS: tuple[Fill, ...] = ("blur", "mean", "still")


def random_order(seed=3):
    return torch.randperm(PATCHES, generator=Generator().manual_seed(seed))


def replaced(clip, replacement, patches):
    """Return the clip with the given patches taken from `replacement`."""
    clip, replacement = clip.clone(), replacement.expand_as(clip)
    height, width = PATCH
    for index in patches.tolist():
        t, h, w = np.unravel_index(index, GRID)
        place = (
            ...,
            int(t),
            slice(h * height, (h + 1) * height),
            slice(w * width, (w + 1) * width),
        )
        clip[place] = replacement[place]
    return clip


def probability(model, clip, target):
    return float(model(clip).softmax(dim=1)[0, target])


@pytest.fixture(scope="module")
def areas():
    """Return areas of deletion curves, `clip order` by fill, for orders by the true evidence."""
    model = load_model(MOVING_THINGS_PATH)
    generator = Generator().manual_seed(2_000_003)
    labels = random_labels(12, generator)
    batch = render(labels, generator, frames=8, height=112, width=112, split="test")
    clips = normalize(batch.frames, MOVING_THINGS)
    coverage = coverage_of(batch.evidence, (8, 8))

    def area_of(clip, label, order, fill):
        order = torch.from_numpy(order)
        curve = perturbed_probabilities(model, clip, order, fill=fill, target=label, steps=4)
        return area(curve.numpy())

    return {
        fill: np.array(
            [
                [area_of(clip[None], int(label), order, fill) for order in orders(truth)[:3]]
                for clip, label, truth in zip(clips, labels, coverage.numpy(), strict=True)
            ]
        )
        for fill in FILLS
    }


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("steps", [4, 7])
def test_patches_are_replaced_in_order(fill, steps):
    model, clip, order = random_model(), random_clips(batch=1), random_order()
    found = perturbed_probabilities(model, clip, order, fill=fill, target=2, steps=steps)
    replacement = fill_of(clip, fill, PATCH)
    expected = [
        probability(model, replaced(clip, replacement, order[: round(k * PATCHES / steps)]), 2)
        for k in range(steps + 1)
    ]
    assert found.shape == (steps + 1,)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("attention_type", ["joint_space_time", "space_only"])
def test_every_attention_type_is_supported(attention_type):
    model, clip = random_model(attention_type=attention_type), random_clips(batch=1)
    found = perturbed_probabilities(
        model, clip, random_order(), fill="mean", target=1, steps=2
    ).tolist()
    colour = fill_of(clip, "mean", PATCH).expand_as(clip)
    ends = [probability(model, clip, 1), probability(model, colour, 1)]
    assert [found[0], found[-1]] == pytest.approx(ends, abs=1e-5)
    assert found[1] not in ends


def test_inserting_is_deleting_in_the_reverse_order_read_backwards():
    model, clip, order = random_model(), random_clips(batch=1), random_order()
    colour = fill_of(clip, "mean", PATCH)
    inserted = [
        probability(model, replaced(colour.expand_as(clip), clip, order[:count]), 0)
        for count in (0, 9, 18, 27, 36)
    ]
    deleted = perturbed_probabilities(
        model, clip, order.flip(0), fill="mean", target=0, steps=4
    ).flip(0)
    np.testing.assert_allclose(deleted.numpy(), inserted, atol=1e-5)


@pytest.mark.parametrize(("tokens", "largest"), [(PATCHES, 1), (4 * PATCHES + 5, 3), (10**6, 9)])
def test_tokens_per_forward_are_limited(tokens, largest, monkeypatch):
    model, clip = random_model(), random_clips(batch=1)
    sizes = []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))

    def measure():
        return perturbed_probabilities(model, clip, random_order(), fill="blur", target=0, steps=8)

    whole = measure()
    sizes.clear()
    monkeypatch.setattr(perturbation, "FORWARD_TOKENS", tokens)
    torch.testing.assert_close(measure(), whole)
    assert max(sizes) == largest
    assert sum(sizes) == 9


def test_half_precision_model_gives_float32_probabilities():
    model, clip = random_model().bfloat16(), random_clips(batch=1).bfloat16()
    for fill in FILLS:
        found = perturbed_probabilities(model, clip, random_order(), fill=fill, target=0, steps=2)
        assert found.dtype == torch.float32


@pytest.mark.parametrize(
    "order", [torch.arange(PATCHES - 1), torch.arange(PATCHES) // 2, torch.arange(1, PATCHES + 1)]
)
def test_order_that_is_not_a_permutation_is_refused(order):
    with pytest.raises(ValueError, match="not a permutation of the 36 patches of 3×2×6"):
        perturbed_probabilities(
            random_model(), random_clips(batch=1), order, fill="mean", target=0, steps=2
        )


def test_mean_fill_is_the_mean_colour_of_each_clip():
    clips = random_clips()
    fill = fill_of(clips, "mean", PATCH)
    torch.testing.assert_close(fill[1, 2].squeeze(), clips[1, 2].mean())
    assert fill.expand_as(clips).std(dim=(2, 3, 4)).max() == 0


def test_still_fill_is_the_mean_over_the_frames():
    clips = random_clips()
    fill = fill_of(clips, "still", PATCH).expand_as(clips)
    torch.testing.assert_close(fill[1, 2, 0, 5, 7], clips[1, 2, :, 5, 7].mean())
    assert fill.std(dim=2).max() == 0


def test_blur_fill_is_a_gaussian_of_the_patch_size_within_a_frame():
    clip = torch.zeros(1, 1, 3, 101, 81)
    clip[0, 0, 1, 50, 40] = 1
    fill = fill_of(clip, "blur", (8, 4))[0, 0]
    assert fill[0].abs().max() == fill[2].abs().max() == 0
    spread = fill[1] / fill[1, 50, 40]
    for rows, columns in ((8, 0), (0, 4), (16, 0), (-8, 4)):
        distance = (rows / 8) ** 2 + (columns / 4) ** 2
        found = float(spread[50 + rows, 40 + columns])
        assert found == pytest.approx(math.exp(-distance / 2), rel=1e-3)
    assert float(fill.sum()) == pytest.approx(1, abs=1e-4)


def test_blur_keeps_a_constant_clip_up_to_its_edges():
    clip = torch.full((1, 3, 2, 16, 24), 0.7)
    torch.testing.assert_close(fill_of(clip, "blur", PATCH), clip)


@pytest.mark.parametrize("fill", FILLS)
def test_insertion_ranks_the_true_evidence_above_random_and_inverse(areas, fill):
    # Insertion in an order is deletion in its reverse.
    inverted, evidence, at_random = areas[fill].T
    assert evidence.mean() > at_random.mean() + 0.05
    assert evidence.mean() > inverted.mean() + 0.05
    assert (evidence > at_random).mean() >= 0.7


@pytest.mark.parametrize("fill", FILLS)
def test_deletion_ranks_the_true_evidence_above_random_and_inverse(areas, fill):
    evidence, inverted, at_random = areas[fill].T
    assert evidence.mean() < inverted.mean() - 0.1
    # Of one colour, the class is soon lost in any order, so that the means are near each other.
    assert evidence.mean() < at_random.mean()
    assert (evidence < at_random).mean() >= 0.7
