import numpy as np
import pytest

from rollout_core.contract import PatchQuery
from rollout_core.errors import InvalidRequest, OutOfMemory, UnknownModel
from rollout_core.model.specs import ModelSpec
from rollout_core.relevance.faithfulness import FILLS
from worker.fake_engine import CLS_SHARE, SPECS, FakeEngine, explain, load, perturb
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


SMALL_SPEC = SPECS["fake"].model_copy(
    update={"frames": 3, "height": 32, "width": 40, "patch_height": 16, "patch_width": 8}
)


GRID = (3, 2, 5)


def noise(clips: int = 2, seed: int = 3) -> np.ndarray:
    shape = (clips, SMALL_SPEC.frames, SMALL_SPEC.height, SMALL_SPEC.width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def still() -> np.ndarray:
    return np.full(
        (1, SMALL_SPEC.frames, SMALL_SPEC.height, SMALL_SPEC.width, 3),
        90,
        np.uint8,
    )


@pytest.fixture
def clips() -> np.ndarray:
    return noise()


def relevance_of(clips: np.ndarray, **request: object) -> np.ndarray:
    return explain(clips, Explain.model_validate(request), SMALL_SPEC)["query_relevance"][:, 0]


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_a_clips_map_sums_to_one_less_the_tokens_share(clips, fusion, ratio):
    relevance = relevance_of(clips, head_fusion=fusion, discard_ratio=ratio)
    np.testing.assert_allclose(relevance.sum(axis=(1, 2, 3)), 1 - CLS_SHARE, rtol=1e-5)
    assert relevance.min() >= 0


def test_what_moves_is_relevant():
    clips = still()
    for t in range(SMALL_SPEC.frames):
        clips[0, t, 16:32, 8 * t : 8 * t + 8] = 250
    relevance = relevance_of(clips)[0]
    for t in range(SMALL_SPEC.frames):
        row, column = np.unravel_index(relevance[t].argmax(), relevance[t].shape)
        assert row == 1
        assert abs(column - t) <= 1


@pytest.mark.parametrize("method", ["rollout", "attention", "contribution_rollout"])
def test_a_still_clip_is_relevant_everywhere_alike(method):
    relevance = relevance_of(still(), method=method)
    np.testing.assert_allclose(relevance, (1 - CLS_SHARE) / relevance.size, rtol=1e-5)


def test_discarding_leaves_the_asked_share_at_zero(clips):
    assert (relevance_of(clips, discard_ratio=0.5) == 0).mean() == pytest.approx(0.5, abs=0.02)


def test_a_clips_answer_does_not_depend_on_its_batch(clips):
    request = Explain(method="gradient_rollout", per_layer=True, full_rollout=True)
    together, alone = (explain(part, request, SMALL_SPEC) for part in (clips, clips[1:]))
    assert together.keys() == alone.keys()
    for name in together:
        np.testing.assert_array_equal(together[name][1:], alone[name])


def test_every_token_gives_all_that_it_has(clips):
    full = explain(clips, Explain(full_rollout=True), SMALL_SPEC)["full_rollout"]
    assert full.shape == (2, 31, 31)
    np.testing.assert_allclose(full.astype(float).sum(axis=-1), 1, atol=1e-3)


def test_a_patch_prefers_itself_then_its_frame_and_place():
    query = PatchQuery(frame=1, row=0, column=2)
    (relevance,) = explain(still(), Explain(queries=(query,)), SMALL_SPEC)["query_relevance"][:, 0]
    assert relevance.argmax() == np.ravel_multi_index((1, 0, 2), GRID)
    assert relevance[1, 1, 4] == relevance[0, 0, 2] > relevance[0, 1, 4] > 0


def test_a_frame_looks_at_itself_first(clips):
    (temporal, *_) = explain(still(), Explain(), SMALL_SPEC)["temporal_rollout"]
    assert (temporal.argmax(axis=1) == range(3)).all()
    np.testing.assert_allclose(temporal.sum(axis=1), 1 - CLS_SHARE, rtol=1e-5)


def test_a_deeper_layer_looks_closer(clips):
    layers = explain(clips, Explain(per_layer=True), SMALL_SPEC)["layer_relevance"]
    peaks = layers.max(axis=(2, 3, 4))  # b l
    assert peaks.shape == (2, SMALL_SPEC.depth)
    assert (np.diff(peaks, axis=1) > 0).all()


def test_each_class_has_a_moment_of_its_own():
    maps = [relevance_of(still(), method="gradient_rollout", target=k)[0] for k in range(5)]
    whens = np.stack([one.sum(axis=(1, 2)) for one in maps])  # class t
    assert len({tuple(when.round(6)) for when in whens}) == 5


@pytest.mark.parametrize("fill", FILLS)
def test_a_class_fades_to_chance_with_the_changes_that_are_left(clips, fill):
    clip, least_first = (
        clips[:1],
        relevance_of(clips[:1])[0].argsort(axis=None),
    )
    target = int(explain(clip, Explain(), SMALL_SPEC)["logits"][0].argmax())
    request = Perturb(fill=fill, target=target, steps=6)
    slow, fast = (
        perturb(clip, order, request, SMALL_SPEC) for order in (least_first, least_first[::-1])
    )
    assert slow.dtype == np.float32
    assert slow[0] == fast[0] > slow[-1] == fast[-1] == pytest.approx(1 / SMALL_SPEC.classes)
    assert (np.diff(slow) < 0).all()
    assert (slow[1:-1] > fast[1:-1]).all()


def test_a_blur_leaves_more_to_see(clips):
    clip, order = clips[:1], np.arange(30)
    target = int(explain(clip, Explain(), SMALL_SPEC)["logits"][0].argmax())
    blurred, gone = (
        perturb(clip, order, Perturb(fill=fill, target=target, steps=5), SMALL_SPEC)
        for fill in ("blur", "mean")
    )
    assert (blurred[1:-1] > gone[1:-1]).all()
