from typing import Any, get_args

import pytest
from pydantic import ValidationError

from rollout_core import contract
from rollout_core.contract import (
    ARTIFACT_NAMES,
    MAX_QUERIES,
    MAX_TARGETS,
    OPTIONS_BY_METHOD,
    ClipRequest,
    ExplainRequest,
    Method,
    MethodOptions,
    Overlay,
    PatchQuery,
    PointQuery,
    Query,
    check_option,
)
from rollout_core.jobs.redis_records import job_key, queue_name
from rollout_core.patterns import WORDS

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
def test_invalid_request_is_refused(fields: dict[str, object]):
    with pytest.raises(ValidationError):
        ExplainRequest.model_validate(fields)


def test_null_overlay_requests_no_overlay():
    assert ExplainRequest.model_validate_json('{"overlay": null}').overlay is None


def test_request_is_unchanged_by_json():
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
    "weighting": "deviation",
    "head_fusion": "min",
    "discard_ratio": 0.1,
    "start_layer": 1,
    "layer": 0,
    "reference": "blur",
    "target": 0,
    "against": 1,
    "full_rollout": True,
}


@pytest.mark.parametrize("option", NOT_DEFAULT)
@pytest.mark.parametrize("method", get_args(Method))
def test_method_takes_its_own_options_and_refuses_others(method: Method, option: str):
    fields = {"method": method, option: NOT_DEFAULT[option]}
    if option in OPTIONS_BY_METHOD[method]:
        needed = {"target": 0} if option == "against" else {}
        asked = ExplainRequest.model_validate(fields | needed)
        assert getattr(asked, option) == NOT_DEFAULT[option]
    else:
        with pytest.raises(ValidationError, match=f"{option} is for .*, not for {method}"):
            ExplainRequest.model_validate(fields)


def test_table_of_options_covers_every_method_and_only_fields_of_a_request():
    options = {option for options in OPTIONS_BY_METHOD.values() for option in options}
    assert set(OPTIONS_BY_METHOD) == set(get_args(Method))
    assert options == set(NOT_DEFAULT) <= set(ClipRequest.model_fields)


@pytest.mark.parametrize("option", sorted(NOT_DEFAULT.keys() - {"target", "against"}))
@pytest.mark.parametrize("method", get_args(Method))
def test_method_options_alone_are_checked_like_a_request(method: Method, option: str):
    fields = {"method": method, option: NOT_DEFAULT[option]}
    if option in OPTIONS_BY_METHOD[method]:
        assert getattr(MethodOptions.model_validate(fields), option) == NOT_DEFAULT[option]
    else:
        with pytest.raises(ValidationError, match=f"{option} is for .*, not for {method}"):
            MethodOptions.model_validate(fields)


@pytest.mark.parametrize(
    "fields",
    [{"discard_ratio": 1.0}, {"discard_ratio": -0.1}, {"start_layer": -1}, {"target": 1}],
)
def test_method_options_out_of_range_are_refused(fields: dict[str, Any]):
    with pytest.raises(ValidationError):
        MethodOptions.model_validate(fields)


def test_method_takes_several_of_its_options_at_once():
    options = MethodOptions(
        head_fusion="min", discard_ratio=0.1, start_layer=1, per_layer=True, full_rollout=True
    )
    assert options.method == "rollout"


@pytest.mark.parametrize("method", get_args(Method))
def test_option_that_no_method_names_is_for_all(method: Method):
    check_option(method, "per_layer")
    assert MethodOptions(method=method, per_layer=True).per_layer


def test_check_option_names_the_methods_that_use_it():
    check_option("gradient_rollout", "target")
    with pytest.raises(ValueError, match="reference is for difference, not for rollout"):
        check_option("rollout", "reference")


def test_method_options_of_a_request_leave_out_its_other_fields():
    fields = {"head_fusion": "max", "discard_ratio": 0.5, "per_layer": True}
    request = ExplainRequest.model_validate(fields | {"query": PATCH, "start_seconds": 1})
    assert request.method_options == MethodOptions.model_validate(fields)
    assert type(request.method_options) is MethodOptions


def test_public_fields_keep_their_order():
    """Results list the fields of a request in this order."""
    assert list(ClipRequest().model_dump()) == [
        *("method", "weighting", "head_fusion", "discard_ratio", "start_layer", "layer"),
        *("reference", "target", "against", "query", "per_layer", "full_rollout", "faithfulness"),
    ]


def test_records_of_the_version_before_can_be_read():
    """They name the default that the weighting had, for every method."""
    for method in get_args(Method):
        expected = "projection" if method == "contribution_rollout" else None
        assert ExplainRequest(method=method, weighting="projection").weighting == expected


CONTRIBUTIONS = {"method": "contribution_rollout"}
DIFFERENCE = {"method": "difference"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"method": "gradient_rollout", "target": ["a", "b"]},
            "several targets are for contribution_rollout, difference, not for gradient_rollout",
        ),
        (
            {"faithfulness": True, "target": ["a", "b"]},
            "several targets are for contribution_rollout, difference, not for rollout",
        ),
        (CONTRIBUTIONS | {"against": "a"}, "against needs a target"),
        (DIFFERENCE | {"against": "a"}, "against is for contribution_rollout, not for difference"),
        (DIFFERENCE | {"query": PATCH}, "difference is for the query 'cls'"),
        (
            CONTRIBUTIONS | {"target": 1, "query": ["cls", PATCH]},
            "contribution_rollout with a target is for the query 'cls'",
        ),
        (
            CONTRIBUTIONS | {"target": 1, "full_rollout": True},
            "full_rollout is not for contribution_rollout with a target",
        ),
        (CONTRIBUTIONS | {"target": []}, "at least 1"),
        (CONTRIBUTIONS | {"target": ["a"] * (MAX_TARGETS + 1)}, "at most 8"),
    ],
)
def test_classes_that_do_not_go_with_the_rest_are_refused(fields: dict[str, Any], words: str):
    with pytest.raises(ValidationError, match=words):
        ExplainRequest.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "targets", "are_classes"),
    [
        ({}, (), False),
        ({"faithfulness": True, "target": "a"}, ("a",), False),
        (CONTRIBUTIONS, (), False),
        (CONTRIBUTIONS | {"target": "predicted"}, ("predicted",), True),
        (CONTRIBUTIONS | {"target": ["a", 3], "against": 0}, ("a", 3), True),
        (DIFFERENCE, (), True),
        (DIFFERENCE | {"target": [1], "reference": "mean"}, (1,), True),
        ({"method": "gradient_rollout", "target": [1]}, (1,), False),
    ],
)
def test_classes_that_a_request_explains(
    fields: dict[str, Any], targets: tuple[Any, ...], are_classes: bool
):
    request = ExplainRequest.model_validate(fields)
    assert request.targets == targets
    assert request.explains_classes == are_classes
    assert ExplainRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize("method", get_args(Method))
def test_faithfulness_takes_a_target_for_any_method(method: Method):
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
def test_query_is_one_token_or_several(query: Any, queries: tuple[Query, ...]):
    request = ExplainRequest.model_validate({"query": query})
    assert request.queries == queries
    assert ExplainRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ({"frame": 1, "row": 2}, "query.one.patch.column"),
        (["cls", {"x": 1, "y": 2}], "query.several.1.point.seconds"),
        ("patch", "query.one"),
    ],
)
def test_query_error_names_only_the_intended_kind(query: Any, place: str):
    with pytest.raises(ValidationError) as raised:
        ExplainRequest.model_validate({"query": query})
    (error,) = raised.value.errors()
    assert ".".join(map(str, error["loc"])) == place


def test_redis_names():
    assert queue_name("timesformer-k400") == "rollout-timesformer-k400"
    assert job_key("00ff") == "rollout:job:00ff"


def test_every_file_of_a_result_is_listed():
    names = {value for name, value in vars(contract).items() if name.endswith("_NAME")}
    assert names - WORDS.keys() == set(ARTIFACT_NAMES)
