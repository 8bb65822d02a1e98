import pytest

from tests.benchmarks.suite.service import Done, Served
from tests.benchmarks.suite.timing import Seconds


@pytest.mark.parametrize(
    ("result", "precision"),
    [
        ({"model": "a"}, "float32"),
        ({"precision": "bfloat16"}, "bfloat16"),
        ({"engine": {"device": "cpu", "dtype": "bfloat16"}}, "bfloat16"),
        ({"precision": None, "request": {"tag": "bfloat16"}}, "float32"),
    ],
)
def test_precision_is_what_the_result_tells(result, precision):
    assert Done(Seconds(1, 1), result).precision == precision


def test_fake_models_need_no_checkpoint():
    assert Served("fake").is_fake
    assert not Served("timesformer-k400", "base.pyth").is_fake
