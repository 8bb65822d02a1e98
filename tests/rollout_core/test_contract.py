import pytest
from pydantic import ValidationError

from rollout_core.contract import ExplainRequest, Overlay, job_key, queue_name


def test_every_field_has_a_default():
    request = ExplainRequest()
    assert (request.method, request.head_fusion, request.clips) == ("rollout", "mean", "one")
    assert request.overlay == Overlay()
    assert ExplainRequest.model_validate_json("{}") == request


@pytest.mark.parametrize(
    "fields",
    [
        {"unknown": 1},
        {"overlay": {"unknown": 1}},
        {"method": "raw"},
        {"head_fusion": "sum"},
        {"discard_ratio": 1.0},
        {"discard_ratio": -0.1},
        {"start_layer": -1},
        {"sampling": "random"},
        {"clips": "all"},
        {"start_seconds": -1},
        {"end_seconds": float("inf")},
        {"start_seconds": 2, "end_seconds": 2},
        {"end_seconds": 0},
        {"overlay": {"opacity": 1.5}},
        {"overlay": {"layout": "stacked"}},
        {"model": "../etc"},
        {"model": ""},
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object]):
    with pytest.raises(ValidationError):
        ExplainRequest.model_validate(fields)


def test_no_overlay_is_null():
    assert ExplainRequest.model_validate_json('{"overlay": null}').overlay is None


def test_a_request_survives_the_wire():
    request = ExplainRequest(model="a-model", start_seconds=1.5, end_seconds=2, discard_ratio=0.25)
    assert ExplainRequest.model_validate_json(request.model_dump_json()) == request


def test_names_in_redis():
    assert queue_name("timesformer-k400") == "rollout-timesformer-k400"
    assert job_key("00ff") == "rollout:job:00ff"
