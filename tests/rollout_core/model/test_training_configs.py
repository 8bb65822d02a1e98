import pytest

from rollout_core.errors import CheckpointError
from rollout_core.model.training_configs import mmaction_input, published_frames, published_input

BLOCK = """\
DATA:
  MEAN:
  - 0.5
  - 0.25
  - 1.0e-1
  NUM_FRAMES: 16
  STD: [0.1, 0.2, 0.3]
  TEST_CROP_SIZE: 224
"""


def test_published_configuration_states_frames_and_normalisation():
    content = {"cfg": BLOCK}
    assert published_frames(content, 8) == 16
    assert published_input(content) == {"mean": (0.5, 0.25, 0.1), "std": (0.1, 0.2, 0.3)}


def test_without_a_configuration_nothing_is_stated():
    assert published_frames({}, 8) == 8
    assert published_input({"cfg": "DATA:\n  PATH: /x\n"}) == {}


@pytest.mark.parametrize("mean", ["[0.5, 0.5]", "", "0.5", "\n  - 0.5"])
def test_mean_of_other_than_three_numbers_is_refused(mean: str):
    with pytest.raises(CheckpointError, match="no single MEAN of three numbers"):
        published_input({"cfg": f"DATA:\n  MEAN: {mean}\n  STD: [1, 1, 1]\n"})


def test_mmaction_scales_bytes_by_half_their_range():
    assert mmaction_input({}) == {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert mmaction_input({"meta": None}) == mmaction_input({})


@pytest.mark.parametrize("key", ["cfg", "config"])
def test_stored_configuration_of_mmaction_counts(key: str):
    text = "data_preprocessor = dict(mean=[51, 102.0, 153], std=[255, 25.5, 51])\n" * 2
    assert mmaction_input({"meta": {key: text}}) == {
        "mean": pytest.approx((0.2, 0.4, 0.6)),
        "std": pytest.approx((1, 0.1, 0.2)),
    }


def test_several_means_are_refused():
    text = "a = dict(mean=[1, 1, 1]); b = dict(mean=[2, 2, 2])"
    with pytest.raises(CheckpointError, match="no single mean"):
        mmaction_input({"meta": {"cfg": text}})
