import numpy as np
import pytest

from rollout_core.errors import InvalidRequest, OutOfMemory, UnknownModel
from rollout_core.specs import ModelSpec
from worker.fake import CLS_SHARE, DEPTH, PATCH, SPECS, FakeEngine, load, relevance_of
from worker.messages import EngineOptions, Explain

SPEC = SPECS["fake"]


@pytest.fixture
def frames() -> np.ndarray:
    shape = (2, SPEC.frames, SPEC.height, SPEC.width, 3)
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


def request(**changes: object) -> Explain:
    return Explain.model_validate(
        {"head_fusion": "mean", "discard_ratio": 0.0, "start_layer": 0} | changes
    )


def test_its_answers_have_the_shapes_and_types_of_the_real_one(frames):
    relevance, logits = load(EngineOptions(model="fake")).explain(frames, request())
    assert relevance.shape == (2, SPEC.frames, SPEC.height // PATCH, SPEC.width // PATCH)
    assert logits.shape == (2, SPEC.classes)
    assert relevance.dtype == logits.dtype == np.float32


def test_the_same_frames_give_the_same_answer_in_every_process(frames):
    first, second = FakeEngine(SPEC), FakeEngine(SPEC)
    for one, other in zip(
        first.explain(frames, request()), second.explain(frames, request()), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_other_frames_give_another_answer(frames):
    engine = FakeEngine(SPEC)
    relevance, logits = engine.explain(frames, request())
    assert not np.array_equal(relevance[0], relevance[1])
    assert not np.array_equal(logits[0], logits[1])


def test_a_clips_answer_does_not_depend_on_its_batch(frames):
    engine = FakeEngine(SPEC)
    for together, alone in zip(
        engine.explain(frames, request()), engine.explain(frames[1:], request()), strict=True
    ):
        np.testing.assert_array_equal(together[1:], alone)


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_a_clips_map_sums_to_one_less_the_tokens_share(frames, fusion, ratio):
    relevance = relevance_of(frames, request(head_fusion=fusion, discard_ratio=ratio))
    np.testing.assert_allclose(relevance.sum(axis=(1, 2, 3)), 1 - CLS_SHARE, rtol=1e-5)
    assert relevance.min() >= 0


def test_what_moves_is_relevant():
    frames = np.full((1, SPEC.frames, SPEC.height, SPEC.width, 3), 90, np.uint8)
    for t in range(SPEC.frames):
        frames[0, t, 16:24, 8 * t : 8 * t + 8] = 250
    relevance = relevance_of(frames, request())[0]
    for t in range(SPEC.frames):
        row, column = np.unravel_index(relevance[t].argmax(), relevance[t].shape)
        assert abs(row - 2) <= 1
        assert abs(column - t) <= 1


def test_a_still_clip_is_relevant_everywhere_alike():
    frames = np.full((1, SPEC.frames, SPEC.height, SPEC.width, 3), 90, np.uint8)
    relevance = relevance_of(frames, request())
    np.testing.assert_allclose(relevance, (1 - CLS_SHARE) / relevance[0].size, rtol=1e-5)


def test_discarding_leaves_the_asked_share_at_zero(frames):
    relevance = relevance_of(frames, request(discard_ratio=0.5))
    assert (relevance == 0).mean() == pytest.approx(0.5, abs=0.01)


def test_a_layer_that_does_not_exist_is_refused(frames):
    engine = FakeEngine(SPEC)
    engine.explain(frames, request(start_layer=DEPTH - 1))
    with pytest.raises(InvalidRequest, match="start_layer"):
        engine.explain(frames, request(start_layer=DEPTH))


def test_fake_fail_fails_as_the_project_does(frames):
    with pytest.raises(OutOfMemory):
        load(EngineOptions(model="fake-fail")).explain(frames, request())


def test_a_name_without_a_script_is_refused():
    with pytest.raises(UnknownModel, match="fake-crash"):
        load(EngineOptions(model="timesformer-k400"))


@pytest.mark.parametrize("name", SPECS)
def test_every_script_describes_a_model(name):
    spec = SPECS[name]
    assert isinstance(spec, ModelSpec)
    assert spec.name == name
    assert [spec.label(k) for k in range(spec.classes)] == list(spec.labels or ())
