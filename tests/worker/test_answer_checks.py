"""What is believed of a child's answer."""

import numpy as np
import pytest

from rollout_core.contract import ExplainRequest, PatchQuery
from rollout_core.resolve import ResolvedRun
from rollout_core.video import sampling
from worker import fake_engine
from worker.answer_checks import is_curve, is_explanation, is_plan
from worker.messages import Explain, Opened

SPEC = fake_engine.SPECS["fake"]
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 8, 64, 64, 3), np.uint8)
PATCH = PatchQuery(frame=1, row=2, column=3)
WHOLE = {"method": "gradient_rollout", "per_layer": True, "full_rollout": True}
OPENED = Opened(
    clips=1, crop=(0, 0, 80, 80), sampling="uniform", start_seconds=1, end_seconds=2, seconds=0
)


def run(**request: object) -> ResolvedRun:
    asked = ExplainRequest.model_validate(request)
    return ResolvedRun(SPEC, None, asked, (0, 0, 80, 80), "uniform", 0, 1, asked.queries)


def answer(**request: object) -> dict[str, np.ndarray]:
    """Return what the fake engine answers."""
    asked = run(**request)
    order = Explain.of(asked.request, target=None, queries=asked.queries, first_clip=0)
    return fake_engine.explain(FRAMES, order, SPEC)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"query": ("cls", PATCH)},
        {"method": "attention", "per_layer": True},
        {"method": "contribution_rollout", "full_rollout": True},
        WHOLE,
    ],
)
def test_what_was_asked_for_is_an_explanation_and_only_that(request_):
    wanted = answer(**request_)
    assert is_explanation(wanted, run(**request_), 2)
    assert not is_explanation(wanted, run(**request_), 1)
    assert not is_explanation(wanted | {"more": np.zeros(1)}, run(**request_), 2)
    for name in wanted:
        less = {other: array for other, array in wanted.items() if other != name}
        assert not is_explanation(less, run(**request_), 2)


def test_what_answers_another_request_is_no_explanation():
    assert not is_explanation(answer(), run(**WHOLE), 2)
    assert not is_explanation(answer(**WHOLE), run(), 2)
    assert not is_explanation(answer(), run(query=("cls", PATCH)), 2)


@pytest.mark.parametrize("name", ["logits", "query_relevance", "layer_relevance", "full_rollout"])
def test_an_explanation_has_numbers_of_the_right_type_and_shape(name):
    wanted, asked = answer(**WHOLE), run(**WHOLE)
    array = wanted[name]
    for bad in (array.astype(np.float64), array[..., 1:], np.full_like(array, np.inf)):
        assert not is_explanation(wanted | {name: bad}, asked, 2)


def test_a_curve_has_a_number_for_each_step():
    curve = np.linspace(1, 0, 5, dtype=np.float32)
    assert is_curve({"probabilities": curve}, 4)
    assert not is_curve({"probabilities": curve}, 5)
    assert not is_curve({"probabilities": curve * np.nan}, 4)
    assert not is_curve({}, 4)


class TestPlan:
    """Of a video of 9 seconds, from the first on; such a video may have 10."""

    @staticmethod
    def believes(
        asked: str = "one", times: np.ndarray | None = None, **lies: object
    ) -> tuple[bool, int]:
        """Return whether a plan is believed, and how many clips the true one has."""
        request = ExplainRequest(start_seconds=1, clips=asked)
        plan = sampling.plan(9.0, request, SPEC)
        told = {"clips": len(plan.times_seconds), "start_seconds": 1.0, "end_seconds": 9.0}
        opened = OPENED.model_copy(update=told | lies)
        arrays = {"times_seconds": plan.times_seconds if times is None else times}
        return is_plan(arrays, opened, request, SPEC, max_seconds=10.0), len(plan.times_seconds)

    def test_the_true_one_is_believed(self):
        assert self.believes() == (True, 1)
        is_believed, clips = self.believes("tile")
        assert is_believed
        assert clips > 1

    @pytest.mark.parametrize(
        "lies",
        [
            {"end_seconds": 1.0},
            {"end_seconds": 10.1},
            {"end_seconds": 1e300},
            {"start_seconds": 0.0},
            {"clips": 100_000},
            {"clips": 2, "times": np.linspace(1, 9, 16).reshape(2, 8)},
            {"times": np.full((1, 8), np.nan)},
            {"times": np.ones(8)},
        ],
    )
    def test_another_is_not(self, lies):
        assert not self.believes(**lies)[0]
