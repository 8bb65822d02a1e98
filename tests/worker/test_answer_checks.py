import numpy as np
import pytest

from rollout_core.contract import ExplainRequest, PatchQuery, VideoWarning
from rollout_core.resolve import ResolvedRun, explained_classes
from rollout_core.video import sampling
from tests.rollout_core.sources import SOURCE
from worker import fake_engine
from worker.answer_checks import is_clip, is_curve, is_explanation, is_plan, is_source
from worker.messages import Decoded, Explain, Opened

SPEC = fake_engine.SPECS["fake"]
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 8, 64, 64, 3), np.uint8)
PATCH = PatchQuery(frame=1, row=2, column=3)
WHOLE = {"method": "gradient_rollout", "per_layer": True, "full_rollout": True}
OPENED = Opened(clips=1, crop=(0, 0, 80, 80), sampling="uniform", start_seconds=1, end_seconds=2)


def run(**request: object) -> ResolvedRun:
    asked = ExplainRequest.model_validate(request)
    return ResolvedRun(SPEC, None, asked, (0, 0, 80, 80), "uniform", 0, 1, asked.queries)


def answer(**request: object) -> dict[str, np.ndarray]:
    """Return what the fake engine answers."""
    asked = run(**request)
    order = Explain(
        options=asked.request.method_options,
        targets=explained_classes(asked.request, SPEC),
        queries=asked.queries,
    )
    return fake_engine.explain(FRAMES, order, SPEC)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"query": ("cls", PATCH)},
        {"method": "attention", "per_layer": True},
        {"method": "contribution_rollout", "full_rollout": True},
        {"method": "contribution_rollout", "target": "growing", "per_layer": True},
        {"method": "contribution_rollout", "target": ("growing", 0, "predicted")},
        {"method": "difference"},
        {"method": "difference", "target": (0, 1)},
        WHOLE,
    ],
)
def test_explanation_has_exactly_the_requested_arrays(request_):
    found = answer(**request_)
    assert is_explanation(found, run(**request_), 2)
    assert not is_explanation(found, run(**request_), 1)
    assert not is_explanation(found | {"more": np.zeros(1)}, run(**request_), 2)
    for name in found:
        less = {other: array for other, array in found.items() if other != name}
        assert not is_explanation(less, run(**request_), 2)


def test_answer_to_another_request_is_refused():
    assert not is_explanation(answer(), run(**WHOLE), 2)
    assert not is_explanation(answer(**WHOLE), run(), 2)
    assert not is_explanation(answer(), run(query=("cls", PATCH)), 2)
    difference = {"method": "difference"}
    assert not is_explanation(answer(**difference), run(**difference, target=(0, 1)), 2)


@pytest.mark.parametrize("name", ["logits", "query_relevance", "layer_relevance", "full_rollout"])
def test_wrong_dtype_shape_or_infinite_value_is_refused(name):
    found, asked = answer(**WHOLE), run(**WHOLE)
    array = found[name]
    for bad in (array.astype(np.float64), array[..., 1:], np.full_like(array, np.inf)):
        assert not is_explanation(found | {name: bad}, asked, 2)


def test_clip_needs_frames_of_the_model_size_and_finite_times():
    times = np.linspace(0, 1, 8)
    clip = {"frames": FRAMES[0], "pts_seconds": times, "frame_index": np.arange(8)}
    assert is_clip(clip, SPEC)
    assert not is_clip(clip | {"frames": FRAMES[0, 1:]}, SPEC)
    assert not is_clip(clip | {"pts_seconds": times.astype(np.float32)}, SPEC)
    assert not is_clip(clip | {"pts_seconds": times * np.nan}, SPEC)
    assert not is_clip(clip | {"frame_index": np.arange(9)}, SPEC)
    assert not is_clip({"frames": FRAMES[0], "pts_seconds": times}, SPEC)


def test_curve_needs_a_finite_value_for_each_step():
    curve = np.linspace(1, 0, 5, dtype=np.float32)
    assert is_curve({"probabilities": curve}, 4)
    assert not is_curve({"probabilities": curve}, 5)
    assert not is_curve({"probabilities": curve * np.nan}, 4)
    assert not is_curve({}, 4)


class TestSource:
    """Descriptions of an upload of seven bytes."""

    @staticmethod
    def accepts(*warnings: VideoWarning, **changes: object) -> bool:
        source = SOURCE.model_copy(update=changes)
        return is_source(Decoded(source=source, warnings=warnings), 7)

    def test_true_description_is_accepted(self):
        assert self.accepts()
        assert self.accepts(VideoWarning(code="several_streams", detail="0 (h264, 64×48), 1"))
        assert self.accepts(promised_seconds=None, frames_promised=None, hdr="pq")

    @pytest.mark.parametrize(
        "changes",
        [
            {"bytes": 8},
            {"width": 0},
            {"stored_height": -1},
            {"frames_decoded": -1},
            {"duration_seconds": float("nan")},
            {"frame_rate_hz": float("inf")},
            {"frames_promised": 1 << 60},
            {"codec": "x" * 20_000},
            {"container": "\x1b[2J"},
            {"color": SOURCE.color.model_copy(update={"assumed": ("matrix\n",)})},
        ],
    )
    def test_false_description_is_refused(self, changes):
        assert not self.accepts(**changes)

    def test_warnings_are_checked_too(self):
        assert not self.accepts(VideoWarning(code="x", detail="x" * 20_000))
        assert not self.accepts(VideoWarning(code="x", detail="a\nb"))


class TestPlan:
    """Plans for a video of 9 seconds from second 1 on; the limit is 10 seconds."""

    @staticmethod
    def accepts(
        asked: str = "one", times: np.ndarray | None = None, **changes: object
    ) -> tuple[bool, int]:
        """Return whether a plan is accepted, and how many clips the true plan has."""
        request = ExplainRequest(start_seconds=1, clips=asked)
        plan = sampling.plan(9.0, request, SPEC)
        true = {"clips": len(plan.times_seconds), "start_seconds": 1.0, "end_seconds": 9.0}
        opened = OPENED.model_copy(update=true | changes)
        arrays = {"times_seconds": plan.times_seconds if times is None else times}
        return is_plan(arrays, opened, request, SPEC, max_seconds=10.0), len(plan.times_seconds)

    def test_true_plan_is_accepted(self):
        assert self.accepts() == (True, 1)
        is_accepted, clips = self.accepts("tile")
        assert is_accepted
        assert clips > 1

    @pytest.mark.parametrize(
        "changes",
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
    def test_false_plan_is_refused(self, changes):
        assert not self.accepts(**changes)[0]
