"""Whether a map tells what its model goes by: deletion and insertion.

Patches are deleted, most relevant first, least relevant first and at random, and the model is
asked again after every step. If the map is faithful, the class is lost early in the first case
and late in the second; the random orders say what any order would do.

A deleted patch is blurred, has the clip's mean colour, or is held still (the mean over the
frames). What the model then says is not only for want of the patch: such pictures are strange to
it, and holes that follow an object show its motion, which only stillness takes away. A score means
little but beside those of the other orders; and the orders differ most in insertion.

Only deletion is measured. Inserting patches, best first, into a clip that has none shows the same
pictures as deleting them, worst first, in the reverse order of time: the insertion curve of an
order is the deletion curve of its reverse, read backwards.

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
"""Of probabilities and areas in the result."""

Order = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Follow = Callable[[Fill, Order], Floats]
"""Returns a class's probability, `steps+1`, while patches are replaced in an order."""


def measure(
    relevance: Floats,
    target: Target,
    follow: Follow,
    *,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Faithfulness:
    """Measure how faithful a clip's map, `t h w`, is to a class.

    It takes a curve a fill and order, and `STEPS + 1` forwards a curve: 693 for all 21.

    Args:
        follow: asks the model.
        progress: called with the curves done, and how many there are.
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

    Patches of equal relevance go in an order drawn at random. By their index they would go frame
    by frame from the first, and a map that says nothing would be scored for that.

    Returns:
        Permutations of the patches, counted `(t h w)`: most relevant first, its reverse, and
        `RANDOM_ORDERS` that know nothing of the map.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(relevance.size)
    most_first = shuffled[np.argsort(-relevance.ravel()[shuffled], kind="stable")]
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
    """Return the area under each curve, `... steps+1`, over 0 to 1, by the trapezoid rule."""
    return np.asarray((curves[..., 1:] + curves[..., :-1]).mean(axis=-1) / 2)


def _summarize_fill(fill: Fill, curves: Floats) -> FillFaithfulness:
    """Score the curves of one fill, `order steps+1`."""
    most_first, least_first, *at_random = area(curves)
    most_curve, least_curve, *random_curves = (_rounded(curve) for curve in curves)
    return FillFaithfulness(
        fill=fill,
        deletion=_scores(most_first, least_first, at_random),
        # An area does not change when its curve is read backwards, and the reverse of a random
        # order is another one.
        insertion=_scores(least_first, most_first, at_random),
        most_first_deleted=most_curve,
        least_first_deleted=least_curve,
        random_deleted=tuple(random_curves),
    )


def _scores(most_first: float, least_first: float, at_random: Sequence[float]) -> OrderScores:
    spread = np.std(at_random, ddof=1)
    values = most_first, least_first, np.mean(at_random), spread
    most, least, mean, std = _rounded(np.array(values))
    return OrderScores(most_first=most, least_first=least, random_mean=mean, random_std=std)


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), DECIMALS) for value in values)
