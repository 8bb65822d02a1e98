import pytest
import torch
from torch import Tensor

from rollout_core.model.checkpoints import MOVING_SHAPES_PATH, load_model
from rollout_core.model.timesformer import TimeSformer
from tests.benchmarks import evidence
from tests.benchmarks.sanity import cascade, correlations
from tests.rollout_core.models import random_clips, random_model

MAX_CORRELATION = 0.5
"""Limit for the rank correlation of a map once all layers are untrained."""


def test_the_cascade_starts_at_the_head():
    parts = [name for name, _ in cascade(random_model(0), random_model(1))]
    assert parts == ["head", "layer 2", "layer 1", "layer 0"]


def test_each_step_makes_one_more_part_untrained():
    model, untrained = random_model(0), random_model(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = untrained.state_dict()
    gone: list[str] = ["norm.", "head."]
    for name, changed in cascade(model, untrained):
        gone += [name.replace("layer ", "blocks.") + "."]
        for key, value in changed.state_dict().items():
            source = fresh if key.startswith(tuple(gone)) else before
            assert torch.equal(value, source[key]), key
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_map_of_the_picture_alone_never_changes():
    clips = random_clips()

    def brightness(model: TimeSformer) -> Tensor:
        return clips.mean(dim=1)

    by_part = correlations(random_model(0), random_model(1), brightness)
    assert list(by_part.values()) == pytest.approx([1] * 4)


@pytest.fixture(scope="module")
def by_row() -> dict[str, dict[str, float]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "SANITY_CLIPS", 10)
        return evidence.sanity(load_model(MOVING_SHAPES_PATH), seed=evidence.HELD_OUT_SEED)


@pytest.mark.parametrize("row", evidence.SANITY_ROWS)
def test_maps_depend_on_what_was_learned(by_row: dict[str, dict[str, float]], row: str):
    values = list(by_row[row].values())
    assert values[-1] < MAX_CORRELATION
    assert values[-1] < values[0]


def test_the_head_affects_only_the_class_specific_map(by_row: dict[str, dict[str, float]]):
    assert by_row["gradient_rollout"]["head"] < 0.99
    for row in evidence.SANITY_ROWS:
        if row != "gradient_rollout":
            assert by_row[row]["head"] == pytest.approx(1)
