import pytest
from pydantic import ValidationError

from rollout_core.contract import MAX_QUERIES, ClipRequest, PatchQuery, PointQuery
from worker.messages import Explain, Opened

PATCH = PatchQuery(clip=1, frame=2, row=3, column=4)
OPENED = {
    "clips": 2,
    "crop": [0, 0, 9, 9],
    "sampling": "uniform",
    "start_seconds": 0,
    "end_seconds": 2,
    "seconds": 0,
}


def of(request: ClipRequest, **changes: object) -> Explain:
    return Explain.of(request, **{"target": None, "queries": ("cls",), "first_clip": 0} | changes)


def test_by_default_a_clip_is_explained_as_by_default_a_request_is():
    assert of(ClipRequest()) == Explain()


@pytest.mark.parametrize(
    "wanted",
    [
        {"method": "rollout", "head_fusion": "max", "discard_ratio": 0.25, "start_layer": 2},
        {"method": "attention", "layer": 1, "per_layer": True},
        {"method": "contribution_rollout", "weighting": "alti", "full_rollout": True},
    ],
)
def test_what_a_request_says_of_clips_reaches_the_engine(wanted):
    order = of(ClipRequest.model_validate(wanted), first_clip=3)
    assert order.model_dump(include=wanted.keys()) == wanted
    assert order.first_clip == 3


def test_labels_and_points_arrive_resolved():
    asked = ClipRequest(
        method="gradient_rollout", target="left", query=PointQuery(x=1, y=2, seconds=3)
    )
    order = of(asked, target=5, queries=(PATCH,))
    assert (order.target, order.queries) == (5, (PATCH,))


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "left"},
        {"queries": ()},
        {"queries": ("cls",) * (MAX_QUERIES + 1)},
        {"queries": ({"x": 1, "y": 2, "seconds": 3},)},
    ],
)
def test_what_is_not_resolved_is_no_message(changes):
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
        {"seconds": float("inf")},
    ],
)
def test_a_plan_that_cannot_be_is_no_message(changes):
    assert Opened.model_validate(OPENED).clips == 2
    with pytest.raises(ValidationError):
        Opened.model_validate(OPENED | changes)
