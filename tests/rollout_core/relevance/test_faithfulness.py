import numpy as np
import pytest

from rollout_core.contract import Faithfulness, Fill, Target
from rollout_core.relevance.faithfulness import (
    FILLS,
    RANDOM_ORDERS,
    STEPS,
    Floats,
    Order,
    area,
    measure,
    orders,
    summarize,
)

LEFT = Target(label="left", index=0)
EVIDENCE = np.random.default_rng(7).permutation(64).reshape(4, 2, 8) ** 4.0


def judge(relevance: Floats) -> Faithfulness:
    """Score a map for a model whose probability is the share of `EVIDENCE` that is left."""
    evidence = EVIDENCE.ravel() / EVIDENCE.sum()

    def follow(fill: Fill, order: Order) -> Floats:
        lost = np.concatenate([[0], np.cumsum(evidence[order])])
        return 1 - lost[:: len(order) // STEPS]

    return measure(relevance, LEFT, follow)


def test_orders_are_most_relevant_first_its_reverse_and_random():
    relevance = np.random.default_rng(1).random((2, 3, 4))
    most, least, *at_random = found = orders(relevance)
    assert all(sorted(order) == list(range(24)) for order in found)
    assert all(order.dtype == np.int64 for order in found)
    assert (np.diff(relevance.ravel()[most]) <= 0).all()
    assert least.tolist() == most[::-1].tolist()
    assert len({tuple(order) for order in at_random}) == RANDOM_ORDERS


def test_orders_depend_on_the_seed():
    relevance = np.zeros((2, 3, 4))
    first, same, other = (np.stack(orders(relevance, seed=seed)) for seed in (1, 1, 2))
    assert (first == same).all()
    assert (first != other).any(axis=1).all()


def test_random_orders_do_not_depend_on_the_map():
    one, another = orders(np.arange(24.0).reshape(2, 3, 4)), orders(np.zeros((2, 3, 4)))
    assert np.array_equal(one[2:], another[2:])


def test_ties_are_ordered_at_random_and_not_frame_by_frame():
    relevance = np.zeros((8, 8, 8))
    relevance[3, 4, 5] = 1
    most, *_ = orders(relevance)
    assert most[0] == np.ravel_multi_index((3, 4, 5), relevance.shape)
    frames_of_first_half = np.bincount(most[:256] // 64, minlength=8)
    assert (
        frames_of_first_half.min() >= 20
    )  # of 64; index order would give 64 for four frames, then 0


def test_measuring_takes_693_forwards_and_reports_progress():
    asked, reported = [], []

    def follow(fill: Fill, order: Order) -> Floats:
        asked.append((fill, order.tolist()))
        return np.linspace(1, 0, STEPS + 1)

    found = measure(EVIDENCE, LEFT, follow, progress=lambda *step: reported.append(step))
    assert [fill for fill, _ in asked] == ["blur"] * 7 + ["mean"] * 7 + ["still"] * 7
    by_order = [order.tolist() for order in orders(EVIDENCE)]
    assert [order for _, order in asked] == by_order * 3
    assert reported == [(done, 21) for done in range(21)]
    assert found.forwards == len(asked) * (STEPS + 1) == 693
    assert [scores.fill for scores in found.fills] == list(FILLS)


def test_area_worked_by_hand():
    curves = np.array([[1, 0.5, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0]])
    assert area(curves).tolist() == [0.5, 1, 0.25, 0.5]


def test_summary_worked_by_hand():
    falling, staying = [1.0, 0.2, 0.0], [1.0, 0.9, 0.0]
    at_random = [[1.0, middle, 0.0] for middle in (0.4, 0.5, 0.6, 0.5, 0.5)]
    blurred = np.array([falling, staying, *at_random])
    found = summarize(np.stack([blurred, blurred * 0.5, blurred]), LEFT)
    assert (found.target, found.steps, found.forwards) == (LEFT, 2, 63)
    blur, mean, still = found.fills
    assert (blur.fill, mean.fill, still.fill) == ("blur", "mean", "still")
    assert still.deletion == blur.deletion
    assert blur.most_first_deleted == tuple(falling)
    assert blur.least_first_deleted == tuple(staying)
    assert blur.random_deleted == tuple(map(tuple, at_random))
    assert blur.deletion.most_first == pytest.approx(0.35)
    assert blur.deletion.least_first == pytest.approx(0.7)
    assert blur.insertion.most_first == pytest.approx(0.7)
    assert blur.insertion.least_first == pytest.approx(0.35)
    for scores in (blur.deletion, blur.insertion):
        assert scores.random_mean == pytest.approx(0.5)
        # Two middles are off by 0.1, and areas by half of it; four degrees of freedom.
        assert scores.random_std == pytest.approx(0.05 * (2 / 4) ** 0.5, abs=1e-6)
    assert mean.deletion.most_first == pytest.approx(0.175)


def test_wrong_number_of_fills_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        summarize(np.ones((1, 7, 3)), LEFT)


def test_negative_relevance_counts_as_none():
    assert judge(EVIDENCE - (EVIDENCE == 0)) == judge(EVIDENCE)


def test_perfect_map_beats_random_and_its_inverse_loses_alike():
    perfect, inverted = judge(EVIDENCE).fills[0], judge(EVIDENCE.max() - EVIDENCE).fills[0]
    best, worst = perfect.deletion, inverted.deletion
    margin = 5 * best.random_std
    assert best.most_first < best.random_mean - margin
    assert best.least_first > best.random_mean + margin
    assert (worst.most_first, worst.least_first) == (best.least_first, best.most_first)
    assert perfect.insertion.most_first > perfect.insertion.random_mean + margin
    assert inverted.insertion.most_first < inverted.insertion.random_mean - margin
    assert worst.random_mean == best.random_mean


@pytest.mark.parametrize(
    "relevance",
    [np.zeros(EVIDENCE.shape), np.random.default_rng(3).random(EVIDENCE.shape)],
    ids=["constant", "random"],
)
def test_uninformative_map_scores_like_a_random_order(relevance):
    for fill in judge(relevance).fills:
        for scores in (fill.deletion, fill.insertion):
            margin = 3 * scores.random_std
            assert scores.most_first == pytest.approx(scores.random_mean, abs=margin)
            assert scores.least_first == pytest.approx(scores.random_mean, abs=margin)
