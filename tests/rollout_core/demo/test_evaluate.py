import math

import pytest
import torch
from torch import Generator, Tensor

from rollout_core.demo.evaluate import (
    BATCH_CLIPS,
    average_precision,
    confusion,
    leaning,
    object_share,
    pointing_game,
    rank_correlation,
    top1,
)
from rollout_core.demo.train import start

SCORES = [pointing_game, object_share]
T, H, W = 3, 4, 5


def moving_coverage(batch: int = 64) -> Tensor:
    """Return the coverage, `b t h w`, of an object that moves down by one patch per frame."""
    coverage = torch.zeros(batch, T, H, W)
    for t in range(T):
        coverage[:, t, t, 1] = 0.5
        coverage[:, t, t, 2] = 1.0
        coverage[:, t, t, 3] = 0.5
    return coverage


def noise(batch: int = 4000) -> Tensor:
    """Return random maps, `b t h w`."""
    return torch.rand(batch, T, H, W, generator=Generator().manual_seed(0))


def test_scores_worked_by_hand():
    coverage = torch.zeros(2, 1, 2, 2)
    coverage[:, 0, 0, 0], coverage[:, 0, 0, 1] = 1.0, 0.2
    relevance = torch.tensor([[[[0.6, 0.2], [0.1, 0.1]]], [[[0.1, 0.5], [0.2, 0.2]]]])
    # Only a fifth of the second map's best patch is covered.
    assert pointing_game(relevance, coverage).tolist() == [1, 0]
    torch.testing.assert_close(object_share(relevance, coverage), torch.tensor([0.64, 0.2]))


@pytest.mark.parametrize("score", SCORES)
def test_coverage_itself_scores_best(score):
    coverage = moving_coverage()
    best = score(coverage, coverage)
    assert (best >= score(noise(64), coverage)).all()
    if score is not object_share:
        assert (best == 1).all()


@pytest.mark.parametrize("score", SCORES)
def test_inverted_map_scores_zero(score):
    coverage = moving_coverage()
    inverted = (coverage == 0).float()
    assert (score(inverted, coverage) == 0).all()


@pytest.mark.parametrize("value", [0.0, 0.3, -1.0])
def test_constant_map_points_by_chance(value: float):
    coverage = moving_coverage()
    chance = torch.full((64,), 3 / (H * W))
    torch.testing.assert_close(pointing_game(torch.full_like(coverage, value), coverage), chance)


@pytest.mark.parametrize("value", [0.0, 0.3, -1.0])
def test_constant_map_is_shared_by_area(value: float):
    coverage = moving_coverage()
    area = coverage.mean(dim=(1, 2, 3))
    torch.testing.assert_close(object_share(torch.full_like(coverage, value), coverage), area)


@pytest.mark.parametrize(
    ("score", "chance"),
    [(pointing_game, 3 / 20), (object_share, 2 / 20)],
)
def test_random_map_scores_by_chance(score, chance: float):
    mean = score(noise(), moving_coverage(4000)).mean().item()
    assert mean == pytest.approx(chance, abs=0.02)


@pytest.mark.parametrize("score", SCORES)
def test_negative_relevance_is_ignored(score):
    coverage = moving_coverage()
    relevance = coverage - 5 * (coverage == 0).float()
    torch.testing.assert_close(score(relevance, coverage), score(coverage, coverage))


@pytest.mark.parametrize("score", SCORES)
def test_scores_do_not_depend_on_the_scale(score):
    relevance, coverage = noise(64), moving_coverage()
    torch.testing.assert_close(score(1e-3 * relevance, coverage), score(relevance, coverage))


def test_average_precision_worked_by_hand():
    relevance = torch.tensor([[[[0.9, 0.5], [0.7, 0.1]]]])
    on_thing = torch.tensor([[[[True, True], [False, False]]]])
    # Found in the first and in the third place.
    assert average_precision(relevance, on_thing).item() == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(relevance.square(), on_thing).item() == pytest.approx(5 / 6)
    assert average_precision(-relevance, on_thing).item() == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_average_precision_of_equal_and_random_maps_is_by_chance():
    on_thing = moving_coverage(4000) >= 0.5
    chance = on_thing.float().mean().item()
    assert average_precision(torch.ones(4000, T, H, W), on_thing).mean() == pytest.approx(chance)
    # Of a ranking at random: a little more than the share, as the first places count.
    assert average_precision(noise(), on_thing).mean() == pytest.approx(chance, abs=0.1)
    assert average_precision(on_thing.float(), on_thing).min() == 1


def test_leaning_divides_the_relevance_on_both_objects():
    coverages = torch.zeros(1, 2, 1, 1, 4)
    coverages[0, 0, 0, 0, 0], coverages[0, 1, 0, 0, 1:3] = 1, 0.5
    relevance = torch.tensor([[[[0.3, 0.2, 0.0, 0.5]]]])
    torch.testing.assert_close(leaning(relevance, coverages), torch.tensor([[0.75, 0.25]]))


def test_leaning_of_constant_random_and_wrong_maps():
    own, other = moving_coverage(4000), moving_coverage(4000).flip(-1).roll(1, dims=1)
    coverages = torch.stack([own, other], dim=1)
    even = torch.full((4000, 2), 0.5)
    for value in (0.0, 0.3, -1.0):
        torch.testing.assert_close(leaning(torch.full_like(own, value), coverages), even)
    torch.testing.assert_close(leaning((coverages.sum(1) == 0).float(), coverages), even)
    torch.testing.assert_close(leaning(noise(), coverages).mean(dim=0), even[0], atol=0.01, rtol=0)
    assert (leaning(other * (own == 0), coverages)[:, 0] == 0).all()


def test_rank_correlation_of_known_orders():
    # 1 - 6 Σd² / (n³ - n) with d = (1, 1, 0, 0).
    first = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    other = torch.tensor([[[[20.0, 10.0], [30.0, 400.0]]]])
    assert rank_correlation(first, other).item() == pytest.approx(0.8)
    assert rank_correlation(first, first.exp()).item() == pytest.approx(1)
    assert rank_correlation(first, -first).item() == pytest.approx(-1)


def test_rank_correlation_gives_equal_values_the_same_rank():
    tied = torch.tensor([[[[1.0, 1.0], [2.0, 3.0]]]])
    other = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    # Pearson of the ranks (.5, .5, 2, 3) and (0, 1, 2, 3).
    assert rank_correlation(tied, other).item() == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_rank_correlation_of_noise_is_near_zero():
    first, second = noise(4000).chunk(2)
    assert abs(rank_correlation(first, second).mean().item()) < 0.02


def test_rank_correlation_with_a_constant_is_zero():
    assert (rank_correlation(noise(64), torch.ones(64, T, H, W)) == 0).all()


@pytest.mark.parametrize("both", [True, False])
def test_confusion_counts_every_held_out_clip(both: bool):
    table = confusion(start(16, 0).model.eval(), BATCH_CLIPS + 1, both=both)
    assert table.sum() == 2 * BATCH_CLIPS
    assert top1(table) == pytest.approx(table.diagonal().sum().item() / table.sum().item())
