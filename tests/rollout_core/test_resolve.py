import subprocess
import sys
from typing import Any, get_args

import pytest

from rollout_core.contract import ExplainRequest, Method, PatchQuery
from rollout_core.errors import InvalidRequest
from rollout_core.model.specs import MOVING_THINGS, SPECS, ModelSpec
from rollout_core.resolve import (
    ResolvedRun,
    check_request,
    class_against,
    explained_classes,
    resolve_queries,
    with_method,
)

SPEC = ModelSpec(
    name="small",
    frames=3,
    clip_seconds=1.0,
    height=40,
    width=60,
    patch_height=10,
    patch_width=10,
    depth=2,
    classes=2,
    labels=("hop", "skip"),
)
GRADIENT: dict[str, Any] = {"method": "gradient_rollout"}
ATTENTION: dict[str, Any] = {"method": "attention"}
CONTRIBUTIONS: dict[str, Any] = {"method": "contribution_rollout"}
DIFFERENCE: dict[str, Any] = {"method": "difference"}
CROP = (100, 20, 300, 200)
TIMES = [[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]


def request(**fields: Any) -> ExplainRequest:
    return ExplainRequest.model_validate(fields)


def patch(frame: int = 0, row: int = 0, column: int = 0, clip: int = 0) -> dict[str, int]:
    return {"clip": clip, "frame": frame, "row": row, "column": column}


def point(x: float = 100, y: float = 20, seconds: float = 1) -> dict[str, float]:
    return {"x": x, "y": y, "seconds": seconds}


def resolved(*queries: Any, **fields: Any) -> tuple[Any, ...]:
    return resolve_queries(
        request(query=queries, **fields),
        times_seconds=TIMES,
        start_seconds=0.5,
        end_seconds=8.0,
        crop=CROP,
        spec=SPEC,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"start_layer": 1},
        ATTENTION | {"layer": 1},
        GRADIENT | {"target": 1},
        GRADIENT | {"target": "1"},
        GRADIENT | {"target": "skip"},
        {"query": patch(2, 3, 5)},
        {"query": patch(clip=99), "clips": "tile"},
        {"query": point(9999, 9999, 9999)},
        {"query": point(0, 0, 2), "start_seconds": 2, "end_seconds": 3},
        {"full_rollout": True},
    ],
)
def test_request_that_fits_the_model_is_accepted(fields: dict[str, Any]):
    check_request(request(**fields), SPEC)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"start_layer": 2}, "start_layer: there is no layer 2; the model has 2 layers"),
        (ATTENTION | {"layer": 2}, "layer: there is no layer 2; the model has 2 layers"),
        (GRADIENT | {"target": 2}, "small has no class 2"),
        (GRADIENT | {"target": "jump"}, "small has no class 'jump'"),
        ({"faithfulness": True, "target": "jump"}, "small has no class 'jump'"),
        (CONTRIBUTIONS | {"target": ["hop", "jump"]}, "target.1: small has no class 'jump'"),
        (CONTRIBUTIONS | {"target": 0, "against": "jump"}, "against: small has no class 'jump'"),
        (CONTRIBUTIONS | {"target": [1, 0], "against": "hop"}, "against: this class is a target"),
        ({"query": patch(frame=3)}, "frame is 3, but the last one is 2"),
        ({"query": patch(row=4)}, "row is 4, but the last one is 3"),
        ({"query": patch(column=6)}, "column is 6, but the last one is 5"),
        ({"query": patch(clip=1)}, "clip is 1, but the last one is 0"),
        ({"query": ["cls", patch(row=4)]}, "row is 4"),
        ({"query": point(0, 0, 1), "start_seconds": 2}, "1 s is outside the span, 2 s to inf s"),
        ({"query": point(0, 0, 2), "end_seconds": 2}, "2 s is outside the span, 0 s to 2 s"),
    ],
)
def test_request_that_does_not_fit_the_model_is_refused(fields: dict[str, Any], words: str):
    with pytest.raises(InvalidRequest, match=words):
        check_request(request(**fields), SPEC)


def test_full_rollout_of_too_many_tokens_is_refused():
    asked = request(full_rollout=True)
    check_request(asked, SPECS["timesformer-k400"])
    with pytest.raises(InvalidRequest, match="the clip has 12545 tokens, more than 4096"):
        check_request(asked, SPECS["timesformer-hr-k400"])


def test_full_rollout_is_allowed_up_to_the_limit():
    fitting = SPEC.model_copy(update={"frames": 5, "height": 90, "width": 910})  # 5 · 9 · 91
    check_request(request(full_rollout=True), fitting)
    with pytest.raises(InvalidRequest, match="4097"):
        larger = fitting.model_copy(update={"frames": 8, "height": 160, "width": 320})
        check_request(request(full_rollout=True), larger)


@pytest.mark.parametrize(
    ("fields", "classes"),
    [
        (GRADIENT | {"target": "skip"}, (1,)),
        (GRADIENT | {"target": 0}, (0,)),
        (GRADIENT, ()),
        ({"faithfulness": True, "target": 1}, ()),
        (GRADIENT | {"faithfulness": True, "target": "1"}, (1,)),
        (CONTRIBUTIONS, ()),
        (CONTRIBUTIONS | {"target": ["skip", "predicted", 0]}, (1, "predicted", 0)),
        (DIFFERENCE, ()),
        (DIFFERENCE | {"target": "predicted"}, ("predicted",)),
    ],
)
def test_classes_are_explained_only_by_methods_that_use_them(
    fields: dict[str, Any], classes: tuple[int | str, ...]
):
    assert explained_classes(request(**fields), SPEC) == classes


@pytest.mark.parametrize(("against", "expected"), [(None, None), ("skip", 1), ("predicted",) * 2])
def test_class_against_is_resolved(against: str | None, expected: int | str | None):
    asked = request(**CONTRIBUTIONS, target=0, against=against)
    check_request(asked, SPEC)
    assert class_against(asked, SPEC) == expected


@pytest.mark.parametrize(
    ("fields", "weighting"),
    [
        (CONTRIBUTIONS, "deviation"),
        (CONTRIBUTIONS | {"target": 0}, "projection"),
        (CONTRIBUTIONS | {"target": 0, "weighting": "deviation"}, "deviation"),
        ({}, None),
    ],
)
def test_weighting_depends_on_the_target(fields: dict[str, Any], weighting: str | None):
    run = ResolvedRun(SPEC, None, request(**fields), CROP, "uniform", 0, 1, ("cls",))
    assert run.resolved_request.weighting == weighting


def test_tokens_are_already_resolved():
    first, second, third = resolved(patch(2, 3, 5, clip=1), "cls", patch())
    assert first == PatchQuery(clip=1, frame=2, row=3, column=5)
    assert second == "cls"
    assert third == PatchQuery(frame=0, row=0, column=0)
    assert resolve_queries(
        request(), times_seconds=TIMES, start_seconds=0, end_seconds=8, crop=CROP, spec=SPEC
    ) == ("cls",)


@pytest.mark.parametrize(
    ("place", "row", "column"),
    [
        ((100, 20), 0, 0),
        ((149.9, 69.9), 0, 0),
        ((150, 70), 1, 1),
        ((399.99, 219.99), 3, 5),
        ((400 - 1e-12, 220 - 1e-13), 3, 5),
        ((320, 30), 0, 4),
        ((110, 200), 3, 0),
    ],
)
def test_point_resolves_to_the_patch_that_contains_it(
    place: tuple[float, float], row: int, column: int
):
    (found,) = resolved(point(*place))
    assert (found.row, found.column) == (row, column)


@pytest.mark.parametrize(
    ("seconds", "clip", "frame"),
    [
        (0.5, 0, 0),
        (1.49, 0, 0),
        (1.5, 0, 0),
        (1.51, 0, 1),
        (3.9, 0, 2),
        (4.1, 1, 0),
        (6.6, 1, 2),
        (7.99, 1, 2),
    ],
)
def test_time_resolves_to_the_nearest_sampled_frame_of_any_clip(
    seconds: float, clip: int, frame: int
):
    (found,) = resolved(point(seconds=seconds), clips="tile")
    assert (found.clip, found.frame) == (clip, frame)


@pytest.mark.parametrize("place", [(99.9, 50), (400, 50), (150, 19.9), (150, 220)])
def test_point_outside_the_crop_is_refused(place: tuple[float, float]):
    with pytest.raises(InvalidRequest, match="outside what the model sees, 300×200"):
        resolved(point(*place))


@pytest.mark.parametrize("seconds", [0.49, 8.0, 100])
def test_time_outside_the_span_is_refused(seconds: float):
    with pytest.raises(InvalidRequest, match=r"outside the span, 0\.5 s to 8 s"):
        resolved(point(seconds=seconds))


def test_clip_out_of_range_is_refused():
    with pytest.raises(InvalidRequest, match="clip is 2, but the last one is 1"):
        resolved("cls", patch(clip=2), clips="tile")


def test_other_method_keeps_the_options_that_it_uses():
    asked = request(head_fusion="max", discard_ratio=0.5, start_layer=1, query=patch(1))
    other = with_method(asked, "attention")
    assert (other.method, other.head_fusion, other.discard_ratio) == ("attention", "max", 0)
    assert other.start_layer == 0
    assert other.query == asked.query
    assert with_method(asked, "contribution_rollout").start_layer == 1


def test_other_method_is_requested_without_extra_outputs():
    asked = request(**GRADIENT, target=1, faithfulness=True, per_layer=True, full_rollout=True)
    assert with_method(asked, "rollout") == request(method="rollout")
    assert with_method(asked, "gradient_rollout").target == 1


def test_each_method_can_replace_each_other():
    for first in get_args(Method):
        for second in get_args(Method):
            assert with_method(request(method=first), second).method == second


def test_method_for_one_class_gets_the_first_target():
    asked = request(**CONTRIBUTIONS, target=["skip", "hop"], against="predicted")
    assert with_method(asked, "gradient_rollout") == request(**GRADIENT, target="skip")
    assert with_method(asked, "difference") == request(**DIFFERENCE, target=["skip", "hop"])
    assert with_method(asked, "rollout") == request()


def test_method_for_classes_cannot_replace_one_for_a_patch():
    with pytest.raises(InvalidRequest, match="difference is for the query 'cls'"):
        with_method(request(query=patch(1)), "difference")


def test_request_is_checked_against_the_size_of_the_demo_model():
    check_request(request(query=patch(7, 13, 13), start_layer=3), MOVING_THINGS)
    with pytest.raises(InvalidRequest, match="row is 14"):
        check_request(request(query=patch(7, 14, 7)), MOVING_THINGS)


def test_import_loads_neither_numpy_nor_torch():
    code = "import rollout_core.resolve, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"numpy", "torch", "av"}.isdisjoint(run.stdout.split())
