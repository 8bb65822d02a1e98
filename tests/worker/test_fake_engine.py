import numpy as np
import pytest

from rollout_core.contract import PatchQuery
from rollout_core.errors import InvalidRequest, OutOfMemory, UnknownModel
from rollout_core.model.specs import ModelSpec
from rollout_core.relevance.faithfulness import FILLS
from tests.worker.orders import explain_order
from worker.fake_engine import CLS_RELEVANCE, SPECS, FakeEngine, explain, load, perturb
from worker.messages import EngineOptions, Explain, Perturb

SPEC = SPECS["fake"]
SMALL_SPEC = SPEC.model_copy(
    update={"frames": 3, "height": 32, "width": 40, "patch_height": 16, "patch_width": 8}
)
GRID = (3, 2, 5)


@pytest.fixture
def frames() -> np.ndarray:
    shape = (2, SPEC.frames, SPEC.height, SPEC.width, 3)
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


def test_same_frames_give_same_answer_in_every_instance(frames):
    first, second = (FakeEngine(SPEC).explain(frames, Explain()) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_other_frames_give_another_answer(frames):
    for array in FakeEngine(SPEC).explain(frames, Explain()).values():
        assert not np.array_equal(array[0], array[1])


@pytest.mark.parametrize("method", ["rollout", "attention"])
def test_layer_out_of_range_is_refused(frames, method):
    field = "layer" if method == "attention" else "start_layer"
    engine = FakeEngine(SPEC)
    engine.explain(frames, explain_order(method=method, **{field: SPEC.depth - 1}))
    with pytest.raises(InvalidRequest, match=f"{field}: there is no layer {SPEC.depth}"):
        engine.explain(frames, explain_order(method=method, **{field: SPEC.depth}))


def test_fake_fail_raises_out_of_memory(frames):
    engine = load(EngineOptions(model="fake-fail"))
    with pytest.raises(OutOfMemory):
        engine.explain(frames, Explain())
    with pytest.raises(OutOfMemory):
        engine.perturb(frames[:1], np.arange(512), Perturb(fill="blur", target=0, steps=2))


def test_unknown_name_is_refused():
    with pytest.raises(UnknownModel, match="fake-crash"):
        load(EngineOptions(model="timesformer-k400"))


@pytest.mark.parametrize("name", SPECS)
def test_every_fake_has_a_complete_spec(name):
    spec = SPECS[name]
    assert isinstance(spec, ModelSpec)
    assert spec.name == name
    assert spec.grid == (8, 8, 8)
    assert [spec.label(k) for k in range(spec.classes)] == list(spec.labels or ())


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
    return explain(clips, explain_order(**request), SMALL_SPEC)["query_relevance"][:, 0]


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_relevance_of_patches_and_cls_token_sums_to_one(clips, fusion, ratio):
    relevance = relevance_of(clips, head_fusion=fusion, discard_ratio=ratio)
    np.testing.assert_allclose(relevance.sum(axis=(1, 2, 3)), 1 - CLS_RELEVANCE, rtol=1e-5)
    assert relevance.min() >= 0


def test_moving_patch_has_the_highest_relevance():
    clips = still()
    for t in range(SMALL_SPEC.frames):
        clips[0, t, 16:32, 8 * t : 8 * t + 8] = 250
    relevance = relevance_of(clips)[0]
    for t in range(SMALL_SPEC.frames):
        row, column = np.unravel_index(relevance[t].argmax(), relevance[t].shape)
        assert row == 1
        assert abs(column - t) <= 1


@pytest.mark.parametrize("method", ["rollout", "attention", "contribution_rollout"])
def test_still_clip_has_uniform_relevance(method):
    relevance = relevance_of(still(), method=method)
    np.testing.assert_allclose(relevance, (1 - CLS_RELEVANCE) / relevance.size, rtol=1e-5)


def test_discard_ratio_is_the_share_of_zeros(clips):
    assert (relevance_of(clips, discard_ratio=0.5) == 0).mean() == pytest.approx(0.5, abs=0.02)


def test_answer_does_not_depend_on_the_batch(clips):
    request = explain_order(method="gradient_rollout", per_layer=True, full_rollout=True)
    together, alone = (explain(part, request, SMALL_SPEC) for part in (clips, clips[1:]))
    assert together.keys() == alone.keys()
    for name in together:
        np.testing.assert_array_equal(together[name][1:], alone[name])


def test_rows_of_full_rollout_sum_to_one(clips):
    full = explain(clips, explain_order(full_rollout=True), SMALL_SPEC)["full_rollout"]
    assert full.shape == (2, 31, 31)
    np.testing.assert_allclose(full.astype(float).sum(axis=-1), 1, atol=1e-3)


def test_patch_prefers_itself_then_its_frame_and_location():
    query = PatchQuery(frame=1, row=0, column=2)
    (relevance,) = explain(still(), explain_order(queries=(query,)), SMALL_SPEC)["query_relevance"][
        :, 0
    ]
    assert relevance.argmax() == np.ravel_multi_index((1, 0, 2), GRID)
    assert relevance[1, 1, 4] == relevance[0, 0, 2] > relevance[0, 1, 4] > 0


def test_frame_prefers_itself(clips):
    (temporal, *_) = explain(still(), Explain(), SMALL_SPEC)["temporal_rollout"]
    assert (temporal.argmax(axis=1) == range(3)).all()
    np.testing.assert_allclose(temporal.sum(axis=1), 1 - CLS_RELEVANCE, rtol=1e-5)


def test_deeper_layer_has_higher_peaks(clips):
    layers = explain(clips, explain_order(per_layer=True), SMALL_SPEC)["layer_relevance"]
    peaks = layers.max(axis=(2, 3, 4))  # b l
    assert peaks.shape == (2, SMALL_SPEC.depth)
    assert (np.diff(peaks, axis=1) > 0).all()


def test_each_class_prefers_other_frames():
    maps = [relevance_of(still(), method="gradient_rollout", targets=[k])[0] for k in range(5)]
    by_frame = np.stack([one.sum(axis=(1, 2)) for one in maps])  # class t
    assert len({tuple(frames.round(6)) for frames in by_frame}) == 5


@pytest.mark.parametrize("fill", FILLS)
def test_probability_falls_to_chance_with_the_change_that_is_left(clips, fill):
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


def test_blur_keeps_probability_higher_than_mean(clips):
    clip, order = clips[:1], np.arange(30)
    target = int(explain(clip, Explain(), SMALL_SPEC)["logits"][0].argmax())
    blurred, gone = (
        perturb(clip, order, Perturb(fill=fill, target=target, steps=5), SMALL_SPEC)
        for fill in ("blur", "mean")
    )
    assert (blurred[1:-1] > gone[1:-1]).all()
