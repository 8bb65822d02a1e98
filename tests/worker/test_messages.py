import pytest
from pydantic import ValidationError

from rollout_core.contract import MAX_QUERIES, MAX_TARGETS, ClipRequest, MethodOptions
from worker.messages import Explain, Opened

OPENED = {
    "clips": 2,
    "crop": [0, 0, 9, 9],
    "sampling": "uniform",
    "start_seconds": 0,
    "end_seconds": 2,
}


def test_default_options_equal_those_of_a_default_request():
    assert Explain(options=ClipRequest().method_options) == Explain()


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "rollout", "head_fusion": "max", "discard_ratio": 0.25, "start_layer": 2},
        {"method": "attention", "layer": 1, "per_layer": True},
        {"method": "contribution_rollout", "weighting": "deviation", "full_rollout": True},
    ],
)
def test_options_of_a_request_reach_the_engine_as_json(fields):
    sent = Explain(options=ClipRequest.model_validate(fields).method_options, first_clip=3)
    received = Explain.model_validate_json(sent.model_dump_json())
    assert received == sent
    assert type(received.options) is MethodOptions
    assert received.options.model_dump(include=fields.keys()) == fields


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": ("left",)},
        {"targets": (0,) * (MAX_TARGETS + 1)},
        {"against": "left"},
        {"queries": ()},
        {"queries": ("cls",) * (MAX_QUERIES + 1)},
        {"queries": ({"x": 1, "y": 2, "seconds": 3},)},
        {"options": {"method": "attention", "start_layer": 1}},
        {"options": {"discard_ratio": 1.0}},
        {"options": {"target": 1}},
    ],
)
def test_unresolved_or_invalid_order_is_refused(changes):
    with pytest.raises(ValidationError):
        Explain.model_validate(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": [0, 0, 0, 9]},
        {"crop": [-1, 0, 9, 9]},
        {"crop": [0, 0, 1 << 63, 9]},
        {"clips": 0},
        {"end_seconds": float("nan")},
        {"end_seconds": float("inf")},
        {"media_seconds": float("inf")},
    ],
)
def test_plan_with_impossible_values_is_refused(changes):
    assert Opened.model_validate(OPENED).clips == 2
    with pytest.raises(ValidationError):
        Opened.model_validate(OPENED | changes)
