import numpy as np
import pytest

from rollout_core.contract import Target
from rollout_core.errors import InvalidRequest
from rollout_core.predictions import target_of, top_predictions
from rollout_core.specs import MOVING_SHAPES


def test_probabilities_are_the_softmax():
    logits = np.log(np.array([[1, 2, 3, 4, 0.5, 0.5, 0.5, 0.5]], dtype=np.float32))
    top = top_predictions(logits, MOVING_SHAPES)
    assert [prediction.index for prediction in top] == [3, 2, 1, 0, 4]
    assert [prediction.label for prediction in top][:2] == ["down", "up"]
    assert top[0].probability == pytest.approx(4 / 12)


def test_clips_are_averaged_as_probabilities_and_not_as_logits():
    # One certain clip and one that says nothing: (1 + 1/8) / 2, not softmax of the mean logits.
    logits = np.zeros((2, 8), dtype=np.float32)
    logits[0, 6] = 100
    top = top_predictions(logits, MOVING_SHAPES)
    assert top[0].index == 6
    assert top[0].probability == pytest.approx((1 + 1 / 8) / 2)


def test_all_classes_sum_to_one():
    logits = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32) * 10
    top = top_predictions(logits, MOVING_SHAPES, count=8)
    assert sum(prediction.probability for prediction in top) == pytest.approx(1)
    assert sorted(prediction.index for prediction in top) == list(range(8))


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4] + [-1e4] * 7], dtype=np.float32)
    assert top_predictions(logits, MOVING_SHAPES)[0].probability == 1


@pytest.mark.parametrize("target", [7, "7", "blink"])
def test_a_class_is_named_however_it_is_given(target: int | str):
    assert target_of(target, MOVING_SHAPES) == Target(label="blink", index=7)


def test_a_class_that_the_model_does_not_have_is_refused():
    with pytest.raises(InvalidRequest, match="no class 'jump'"):
        target_of("jump", MOVING_SHAPES)
