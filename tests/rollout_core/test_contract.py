from typing import Any, get_args

import pytest
from pydantic import ValidationError

from rollout_core.contract import (
    MAX_QUERIES,
    METHOD_OPTIONS,
    ClipRequest,
    ExplainRequest,
    Method,
    Overlay,
    PatchQuery,
    PointQuery,
    Query,
    check_method,
)
from rollout_core.jobs.redis_records import job_key, queue_name

PATCH = {"frame": 1, "row": 2, "column": 3}
POINT = {"x": 10.5, "y": 20, "seconds": 1.25}


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
        {"method": "gradient_rollout", "target": -1},
        {"method": "gradient_rollout", "target": True},
        {"method": "gradient_rollout", "target": 1.5},
        {"method": "gradient_rollout", "target": ""},
        {"method": "gradient_rollout", "target": "x" * 257},
        {"method": "gradient_rollout", "target": 10**5000},
        {"method": "attention", "layer": -1},
        {"weighting": "norm"},
        {"query": "patch"},
        {"query": []},
        {"query": ["cls"] * (MAX_QUERIES + 1)},
        {"query": [["cls"]]},
        {"query": {"frame": 1, "row": 2}},
        {"query": PATCH | {"clip": -1}},
        {"query": PATCH | POINT},
        {"query": POINT | {"seconds": -1}},
        {"query": POINT | {"x": float("inf")}},
        {"query": None},
        {"query": 3},
        {"faithfulness": True, "query": PATCH},
        {"faithfulness": True, "query": [PATCH, "cls"]},
        {"faithfulness": True, "clips": "tile"},
        {"full_rollout": True, "clips": "tile"},
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
    request = ExplainRequest(
        model="a-model",
        method="gradient_rollout",
        target="zumba",
        start_layer=2,
        per_layer=True,
        start_seconds=1.5,
        end_seconds=2,
    )
    assert ExplainRequest.model_validate_json(request.model_dump_json()) == request


NOT_DEFAULT: dict[str, Any] = {
    "weighting": "l2",
    "head_fusion": "min",
    "discard_ratio": 0.1,
    "start_layer": 1,
    "layer": 0,
    "target": 0,
    "full_rollout": True,
}


@pytest.mark.parametrize("option", NOT_DEFAULT)
@pytest.mark.parametrize("method", get_args(Method))
def test_a_method_takes_its_own_options_and_refuses_every_other(method: Method, option: str):
    fields = {"method": method, option: NOT_DEFAULT[option]}
    if option in METHOD_OPTIONS[method]:
        assert getattr(ExplainRequest.model_validate(fields), option) == NOT_DEFAULT[option]
    else:
        with pytest.raises(ValidationError, match=f"{option} is for .*, not for {method}"):
            ExplainRequest.model_validate(fields)


def test_options_are_known_for_every_method_and_no_other():
    options = {option for options in METHOD_OPTIONS.values() for option in options}
    assert set(METHOD_OPTIONS) == set(get_args(Method))
    assert options == set(NOT_DEFAULT) <= set(ClipRequest.model_fields)


def test_the_same_is_refused_in_python():
    options = NOT_DEFAULT | {"weighting": "projection", "layer": None, "target": None}
    check_method("rollout", **options)
    with pytest.raises(ValueError, match="target is for gradient_rollout, not for rollout"):
        check_method("rollout", **(options | {"target": 0}))


@pytest.mark.parametrize("method", get_args(Method))
def test_faithfulness_takes_a_class_for_any_method(method: Method):
    request = ExplainRequest(method=method, faithfulness=True, target="left")
    assert request.target == "left"


@pytest.mark.parametrize(
    ("query", "queries"),
    [
        ("cls", ("cls",)),
        (PATCH, (PatchQuery(clip=0, frame=1, row=2, column=3),)),
        (POINT, (PointQuery(x=10.5, y=20, seconds=1.25),)),
        (["cls", PATCH | {"clip": 4}], ("cls", PatchQuery(clip=4, frame=1, row=2, column=3))),
        (["cls"] * MAX_QUERIES, ("cls",) * MAX_QUERIES),
    ],
)
def test_a_query_is_a_token_or_several(query: Any, queries: tuple[Query, ...]):
    request = ExplainRequest.model_validate({"query": query})
    assert request.queries == queries
    assert ExplainRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ({"frame": 1, "row": 2}, "query.one.patch.column"),
        (["cls", {"x": 1, "y": 2}], "query.several.1.point.seconds"),
        ("patch", "query.one.cls"),
    ],
)
def test_what_is_wrong_with_a_query_is_told_without_guesses(query: Any, place: str):
    with pytest.raises(ValidationError) as raised:
        ExplainRequest.model_validate({"query": query})
    (error,) = raised.value.errors()
    assert ".".join(map(str, error["loc"])) == place


def test_names_in_redis():
    assert queue_name("timesformer-k400") == "rollout-timesformer-k400"
    assert job_key("00ff") == "rollout:job:00ff"
