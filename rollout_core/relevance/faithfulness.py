"""Faithfulness of a relevance map: deletion and insertion curves.

Patches are deleted in steps, and the model is run after each step. This is done for three kinds of
order: most relevant first, least relevant first, and random. If the map is faithful, the class
probability falls early in the first case and late in the second. Random orders are the baseline.

A deleted patch is blurred, filled with the clip's mean colour, or held still (filled with its mean
over the frames). The probability changes not only because the patch is missing: such clips are
outside the training distribution, and holes that follow an object still show its motion, unless
they are held still. Compare a score only with those of the other orders. The orders differ most in
insertion.

Only deletion is computed. Inserting patches most relevant first into a clip without patches gives
the same clips as deleting them least relevant first, in reverse sequence. The insertion curve of an
order is thus the deletion curve of the reverse order, read backwards.

Source: Petsiuk, Das & Saenko 2018, "RISE", arXiv:1806.07421, for whole patches of a clip.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout_core.contract import Faithfulness, Fill, FillFaithfulness, OrderScores, Target

STEPS = 32
FILLS: tuple[Fill, ...] = ("blur", "mean", "still")
RANDOM_ORDERS = 5
DECIMALS = 6
"""Precision of the probabilities and areas in the result."""

Order = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Follow = Callable[[Fill, Order], Floats]
"""Returns the probability of a class, `steps+1`, while patches are replaced in an order."""


def measure(
    relevance: Floats,
    target: Target,
    follow: Follow,
    *,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Faithfulness:
    """Measure how faithful a clip's map, `t h w`, is to a class.

    Computes one curve per fill and order with `STEPS + 1` forwards each: 693 for all 21.

    Args:
        follow: runs the model along one curve.
        progress: called before each curve with the number done and the total.
    """
    wanted = orders(relevance)
    total = len(FILLS) * len(wanted)
    curves = []
    for done, (fill, order) in enumerate(product(FILLS, wanted)):
        progress(done, total)
        curves.append(follow(fill, order))
    return summarize(np.reshape(curves, (len(FILLS), len(wanted), -1)), target)


def orders(relevance: Floats, *, seed: int = 0) -> list[Order]:
    """Return the orders in which the patches of a map, `t h w`, are deleted.

    Negative relevance counts as 0. Patches of equal relevance are ordered at random: in index order
    they would be deleted frame by frame, which would affect the score of a constant map.

    Returns:
        Permutations of the patch indices, `(t h w)`: most relevant first, its reverse, and
        `RANDOM_ORDERS` random ones that do not depend on the map.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(relevance.size)
    positive = relevance.clip(min=0).ravel()
    most_first = shuffled[np.argsort(-positive[shuffled], kind="stable")]
    at_random = [generator.permutation(relevance.size) for _ in range(RANDOM_ORDERS)]
    return [most_first, most_first[::-1].copy(), *at_random]


def summarize(curves: Floats, target: Target) -> Faithfulness:
    """Score the curves of a clip.

    Args:
        curves: `fill order steps+1`, the probability of `target` along each of the `orders`.
    """
    return Faithfulness(
        target=target,
        steps=curves.shape[-1] - 1,
        forwards=curves.size,
        fills=tuple(
            _summarize_fill(fill, of_fill) for fill, of_fill in zip(FILLS, curves, strict=True)
        ),
    )


def area(curves: Floats) -> Floats:
    """Return the area under each curve, `... steps+1`, on 0 to 1, by the trapezoidal rule."""
    return np.asarray((curves[..., 1:] + curves[..., :-1]).mean(axis=-1) / 2)


def _summarize_fill(fill: Fill, curves: Floats) -> FillFaithfulness:
    """Score the curves of one fill, `order steps+1`."""
    most_first, least_first, *at_random = area(curves)
    most_curve, least_curve, *random_curves = (_rounded(curve) for curve in curves)
    return FillFaithfulness(
        fill=fill,
        deletion=_scores(most_first, least_first, at_random),
        # Reading a curve backwards does not change its area, and the reverse of a random order is
        # a random order.
        insertion=_scores(least_first, most_first, at_random),
        most_first_deleted=most_curve,
        least_first_deleted=least_curve,
        random_deleted=tuple(random_curves),
    )


def _scores(most_first: float, least_first: float, at_random: Sequence[float]) -> OrderScores:
    """Return the areas, with mean and standard deviation of the random ones."""
    spread = np.std(at_random, ddof=1)
    values = most_first, least_first, np.mean(at_random), spread
    most, least, mean, std = _rounded(np.array(values))
    return OrderScores(most_first=most, least_first=least, random_mean=mean, random_std=std)


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), DECIMALS) for value in values)
