import numpy as np
import pytest

from rollout_core.errors import InvalidRequest, OutOfMemory, UnknownModel
from rollout_core.model.specs import ModelSpec
from worker.fake import SPECS, FakeEngine, load
from worker.messages import EngineOptions, Explain, Perturb

SPEC = SPECS["fake"]


@pytest.fixture
def frames() -> np.ndarray:
    shape = (2, SPEC.frames, SPEC.height, SPEC.width, 3)
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


def test_the_same_frames_give_the_same_answer_in_every_engine(frames):
    first, second = (FakeEngine(SPEC).explain(frames, Explain()) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_other_frames_give_another_answer(frames):
    for array in FakeEngine(SPEC).explain(frames, Explain()).values():
        assert not np.array_equal(array[0], array[1])


@pytest.mark.parametrize("method", ["rollout", "attention"])
def test_a_layer_that_does_not_exist_is_refused(frames, method):
    field = "layer" if method == "attention" else "start_layer"
    engine = FakeEngine(SPEC)
    engine.explain(frames, Explain(method=method, **{field: SPEC.depth - 1}))
    with pytest.raises(InvalidRequest, match=f"{field} is {SPEC.depth}"):
        engine.explain(frames, Explain(method=method, **{field: SPEC.depth}))


def test_fake_fail_fails_as_the_project_does(frames):
    engine = load(EngineOptions(model="fake-fail"))
    with pytest.raises(OutOfMemory):
        engine.explain(frames, Explain())
    with pytest.raises(OutOfMemory):
        engine.perturb(frames[:1], np.arange(512), Perturb(fill="blur", target=0, steps=2))


def test_a_name_without_a_script_is_refused():
    with pytest.raises(UnknownModel, match="fake-crash"):
        load(EngineOptions(model="timesformer-k400"))


@pytest.mark.parametrize("name", SPECS)
def test_every_script_describes_a_model(name):
    spec = SPECS[name]
    assert isinstance(spec, ModelSpec)
    assert spec.name == name
    assert spec.grid == (8, 8, 8)
    assert [spec.label(k) for k in range(spec.classes)] == list(spec.labels or ())
