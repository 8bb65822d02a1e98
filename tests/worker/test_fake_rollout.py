import numpy as np
import pytest

from rollout_core.contract import PatchQuery
from rollout_core.relevance.faithfulness import FILLS
from worker.fake import SPECS
from worker.fake_rollout import CLS_SHARE, explain, perturb
from worker.messages import Explain, Perturb

SPEC = SPECS["fake"].model_copy(
    update={"frames": 3, "height": 32, "width": 40, "patch_height": 16, "patch_width": 8}
)
GRID = (3, 2, 5)


def noise(clips: int = 2, seed: int = 3) -> np.ndarray:
    shape = (clips, SPEC.frames, SPEC.height, SPEC.width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def still() -> np.ndarray:
    return np.full((1, SPEC.frames, SPEC.height, SPEC.width, 3), 90, np.uint8)


@pytest.fixture
def frames() -> np.ndarray:
    return noise()


def relevance_of(frames: np.ndarray, **request: object) -> np.ndarray:
    return explain(frames, Explain.model_validate(request), SPEC)["query_relevance"][:, 0]


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_a_clips_map_sums_to_one_less_the_tokens_share(frames, fusion, ratio):
    relevance = relevance_of(frames, head_fusion=fusion, discard_ratio=ratio)
    np.testing.assert_allclose(relevance.sum(axis=(1, 2, 3)), 1 - CLS_SHARE, rtol=1e-5)
    assert relevance.min() >= 0


def test_what_moves_is_relevant():
    frames = still()
    for t in range(SPEC.frames):
        frames[0, t, 16:32, 8 * t : 8 * t + 8] = 250
    relevance = relevance_of(frames)[0]
    for t in range(SPEC.frames):
        row, column = np.unravel_index(relevance[t].argmax(), relevance[t].shape)
        assert row == 1
        assert abs(column - t) <= 1


@pytest.mark.parametrize("method", ["rollout", "attention", "contribution_rollout"])
def test_a_still_clip_is_relevant_everywhere_alike(method):
    relevance = relevance_of(still(), method=method)
    np.testing.assert_allclose(relevance, (1 - CLS_SHARE) / relevance.size, rtol=1e-5)


def test_discarding_leaves_the_asked_share_at_zero(frames):
    assert (relevance_of(frames, discard_ratio=0.5) == 0).mean() == pytest.approx(0.5, abs=0.02)


def test_a_clips_answer_does_not_depend_on_its_batch(frames):
    request = Explain(method="gradient_rollout", per_layer=True, full_rollout=True)
    together, alone = (explain(part, request, SPEC) for part in (frames, frames[1:]))
    assert together.keys() == alone.keys()
    for name in together:
        np.testing.assert_array_equal(together[name][1:], alone[name])


def test_every_token_gives_all_that_it_has(frames):
    full = explain(frames, Explain(full_rollout=True), SPEC)["full_rollout"]
    assert full.shape == (2, 31, 31)
    np.testing.assert_allclose(full.astype(float).sum(axis=-1), 1, atol=1e-3)


def test_a_patch_prefers_itself_then_its_frame_and_place():
    query = PatchQuery(frame=1, row=0, column=2)
    (relevance,) = explain(still(), Explain(queries=(query,)), SPEC)["query_relevance"][:, 0]
    assert relevance.argmax() == np.ravel_multi_index((1, 0, 2), GRID)
    assert relevance[1, 1, 4] == relevance[0, 0, 2] > relevance[0, 1, 4] > 0


def test_a_frame_looks_at_itself_first(frames):
    (temporal, *_) = explain(still(), Explain(), SPEC)["temporal_rollout"]
    assert (temporal.argmax(axis=1) == range(3)).all()
    np.testing.assert_allclose(temporal.sum(axis=1), 1 - CLS_SHARE, rtol=1e-5)


def test_a_deeper_layer_looks_closer(frames):
    layers = explain(frames, Explain(per_layer=True), SPEC)["layer_relevance"]
    peaks = layers.max(axis=(2, 3, 4))  # b l
    assert peaks.shape == (2, SPEC.depth)
    assert (np.diff(peaks, axis=1) > 0).all()


def test_each_class_has_a_moment_of_its_own():
    maps = [relevance_of(still(), method="gradient_rollout", target=k)[0] for k in range(5)]
    whens = np.stack([one.sum(axis=(1, 2)) for one in maps])  # class t
    assert len({tuple(when.round(6)) for when in whens}) == 5


@pytest.mark.parametrize("fill", FILLS)
def test_a_class_fades_to_chance_with_the_changes_that_are_left(frames, fill):
    clip, least_first = frames[:1], relevance_of(frames[:1])[0].argsort(axis=None)
    target = int(explain(clip, Explain(), SPEC)["logits"][0].argmax())
    request = Perturb(fill=fill, target=target, steps=6)
    slow, fast = (perturb(clip, order, request, SPEC) for order in (least_first, least_first[::-1]))
    assert slow.dtype == np.float32
    assert slow[0] == fast[0] > slow[-1] == fast[-1] == pytest.approx(1 / SPEC.classes)
    assert (np.diff(slow) < 0).all()
    assert (slow[1:-1] > fast[1:-1]).all()


def test_a_blur_leaves_more_to_see(frames):
    clip, order = frames[:1], np.arange(30)
    target = int(explain(clip, Explain(), SPEC)["logits"][0].argmax())
    blurred, gone = (
        perturb(clip, order, Perturb(fill=fill, target=target, steps=5), SPEC)
        for fill in ("blur", "mean")
    )
    assert (blurred[1:-1] > gone[1:-1]).all()
