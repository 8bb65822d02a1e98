"""One contract for both engines: the fake must not promise what the real one does not keep."""

from collections.abc import Iterator
from itertools import combinations
from multiprocessing import Pipe
from threading import Thread

import numpy as np
import pytest
import torch

from rollout_core.contract import PatchQuery
from rollout_core.errors import CheckpointError, InvalidRequest, OutOfMemory
from rollout_core.faithfulness import FILLS
from rollout_core.specs import MOVING_SHAPES
from worker import engine, engines, fake, wire
from worker.engines import LoadedEngine
from worker.messages import (
    EngineOptions,
    Explain,
    Explained,
    Failed,
    Perturb,
    Perturbed,
    Ready,
)

LOADERS = {
    "fake": lambda: fake.load(EngineOptions(model="fake")),
    "torch": lambda: engine.load(EngineOptions(model="moving-shapes", device="cpu")),
}
METHODS: list[dict[str, object]] = [
    {"method": "rollout"},
    {"method": "attention"},
    {"method": "gradient_rollout"},
    {"method": "contribution_rollout"},
    {"method": "contribution_rollout", "weighting": "alti"},
    {"method": "contribution_rollout", "weighting": "l2"},
]
SHARED = [wanted for wanted in METHODS if wanted["method"] != "gradient_rollout"]
"""Those whose relevance is shares of a whole."""

ROLLED = [wanted for wanted in METHODS if wanted["method"] != "attention"]
"""Those that follow tokens through all layers."""

PATCH = PatchQuery(clip=1, frame=5, row=2, column=6)
TOKEN = 1 + (5 * 8 + 2) * 8 + 6
"""Where `PATCH` stands in a full rollout."""


@pytest.fixture(scope="module", params=LOADERS)
def loaded(request) -> LoadedEngine:
    return LOADERS[request.param]()


@pytest.fixture(scope="module")
def frames(loaded) -> np.ndarray:
    spec = loaded.ready.spec
    shape = (2, spec.frames, spec.height, spec.width, 3)
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


def relevance_of(loaded: LoadedEngine, frames: np.ndarray, **request: object) -> np.ndarray:
    return loaded.explain(frames, Explain.model_validate(request))["query_relevance"][:, 0]


def test_it_says_what_it_is(loaded):
    ready = loaded.ready
    assert ready.spec.label(0) != "class 0"
    assert ready.spec.grid == (8, 8, 8)
    assert ready.spec.depth == 4
    assert ready.device
    assert ready.checkpoint_sha256 is None or len(ready.checkpoint_sha256) == 64


@pytest.mark.parametrize("wanted", METHODS)
def test_every_method_answers_with_arrays_for_every_clip(loaded, frames, wanted):
    found = loaded.explain(frames, Explain(**wanted, queries=("cls", PATCH), per_layer=True))
    expected = {
        "logits": ("float32", (2, loaded.ready.spec.classes)),
        "query_relevance": ("float32", (2, 2, 8, 8, 8)),
        "temporal_rollout": ("float32", (2, 8, 8)),
        "layer_relevance": ("float32", (2, 4, 8, 8, 8)),
    }
    if wanted["method"] == "gradient_rollout":
        expected["targets"] = ("int64", (2,))
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == expected
    for array in found.values():
        assert np.isfinite(array).all()


def test_a_plain_request_has_no_more_than_it_asked_for(loaded, frames):
    found = loaded.explain(frames, Explain())
    assert found.keys() == {"logits", "query_relevance", "temporal_rollout"}


@pytest.mark.parametrize("wanted", SHARED)
def test_a_clips_map_sums_to_a_little_less_than_one(loaded, frames, wanted):
    relevance = relevance_of(loaded, frames, **wanted)
    total = relevance.sum(axis=(1, 2, 3))
    assert (relevance >= 0).all()
    assert ((total > 0.5) & (total < 1)).all()


@pytest.mark.parametrize("wanted", METHODS)
def test_the_same_request_has_the_same_answer(loaded, frames, wanted):
    one, other = (loaded.explain(frames, Explain(**wanted)) for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_every_method_and_option_has_another_answer_and_the_same_logits(loaded, frames):
    options: list[dict[str, object]] = [
        {"head_fusion": "max"},
        {"head_fusion": "min"},
        {"discard_ratio": 0.5},
        {"start_layer": 1},
        {"method": "attention", "layer": 1},
        {"method": "gradient_rollout", "target": 1},
        {"method": "gradient_rollout", "target": 4},
    ]
    answers = [loaded.explain(frames, Explain(**wanted)) for wanted in METHODS + options]
    for one, other in combinations(answers, 2):
        assert not np.allclose(one["query_relevance"], other["query_relevance"], atol=1e-6)
        np.testing.assert_allclose(one["logits"], other["logits"], atol=1e-5)


def test_relevance_is_of_the_class_that_is_asked_for_or_predicted(loaded, frames):
    asked = loaded.explain(frames, Explain(method="gradient_rollout", target=3))
    predicted = loaded.explain(frames, Explain(method="gradient_rollout"))
    assert asked["targets"].tolist() == [3, 3]
    assert predicted["targets"].tolist() == predicted["logits"].argmax(axis=1).tolist()


@pytest.mark.parametrize("wanted", ROLLED)
def test_a_query_is_a_row_of_the_full_rollout(loaded, frames, wanted):
    request = Explain(**wanted, queries=("cls", PATCH), full_rollout=True)
    found = loaded.explain(frames, request)
    full = found["full_rollout"]
    assert (full.dtype, full.shape) == (np.float16, (2, 513, 513))
    rows = full[1, [0, TOKEN], 1:].astype(np.float32)
    np.testing.assert_allclose(
        found["query_relevance"][1].reshape(2, -1), rows, rtol=2e-3, atol=1e-6
    )


@pytest.mark.parametrize("wanted", ROLLED)
def test_the_temporal_rollout_is_the_full_one_by_frames(loaded, frames, wanted):
    found = loaded.explain(frames, Explain(**wanted, full_rollout=True))
    patches = found["full_rollout"][:, 1:, 1:].astype(np.float32).reshape(2, 8, 64, 8, 64)
    by_frame = patches.mean(axis=2).sum(axis=-1)
    np.testing.assert_allclose(found["temporal_rollout"], by_frame, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("wanted", METHODS)
def test_a_patch_is_looked_for_in_its_own_clip_only(loaded, frames, wanted):
    here = loaded.explain(frames, Explain(**wanted, queries=(PATCH,)))["query_relevance"]
    later = Explain(**wanted, queries=(PATCH,), first_clip=1)
    there = loaded.explain(frames, later)["query_relevance"]
    assert not here[0].any()
    assert not there[1].any()
    assert here[1].any()
    alone = loaded.explain(frames[1:], later)["query_relevance"]
    np.testing.assert_allclose(alone[0], here[1], atol=1e-6)


@pytest.mark.parametrize("wanted", ROLLED)
def test_the_first_layer_has_the_whole_rollout(loaded, frames, wanted):
    found = loaded.explain(frames, Explain(**wanted, start_layer=1, per_layer=True))
    relevance, layers = found["query_relevance"][:, 0], found["layer_relevance"]
    for layer in (0, 1):
        np.testing.assert_allclose(layers[:, layer], relevance, atol=1e-6)
    assert not np.allclose(layers[:, 2], relevance, atol=1e-6)


def test_a_layers_attention_is_that_of_the_layer(loaded, frames):
    layers = loaded.explain(frames, Explain(method="attention", per_layer=True))["layer_relevance"]
    for layer in range(4):
        relevance = relevance_of(loaded, frames, method="attention", layer=layer)
        np.testing.assert_allclose(layers[:, layer], relevance, atol=1e-6)
    np.testing.assert_allclose(
        layers[:, -1], relevance_of(loaded, frames, method="attention"), atol=1e-6
    )


@pytest.mark.parametrize(
    ("field", "changes"),
    [("start_layer", {"start_layer": 99}), ("layer", {"method": "attention", "layer": 99})],
)
def test_a_layer_that_does_not_exist_is_refused(loaded, frames, field, changes):
    with pytest.raises(InvalidRequest, match=field):
        loaded.explain(frames, Explain(**changes))


@pytest.mark.parametrize("fill", FILLS)
def test_a_class_is_followed_from_the_whole_clip_to_nothing(loaded, frames, fill):
    clip, forth = frames[:1], np.random.default_rng(0).permutation(512)
    scores = np.exp(loaded.explain(clip, Explain())["logits"][0].astype(np.float64))
    for target in (0, int(scores.argmax())):
        request = Perturb(fill=fill, target=target, steps=4)
        one, other = (loaded.perturb(clip, order, request) for order in (forth, forth[::-1].copy()))
        assert (one.dtype, one.shape) == (np.float32, (5,))
        assert one[0] == pytest.approx(scores[target] / scores.sum(), abs=1e-5)
        np.testing.assert_allclose(one[[0, -1]], other[[0, -1]], atol=1e-5)
        assert not np.allclose(one[1:-1], other[1:-1], atol=1e-6)


def test_fills_differ(loaded, frames):
    curves = [
        loaded.perturb(frames[:1], np.arange(512), Perturb(fill=fill, target=2, steps=4))
        for fill in FILLS
    ]
    for one, other in combinations(curves, 2):
        assert not np.allclose(one[1:-1], other[1:-1], atol=1e-6)


def test_the_real_one_loads_the_demo_model():
    ready = LOADERS["torch"]().ready
    assert (ready.spec.name, ready.device) == (MOVING_SHAPES.name, "cpu")
    assert len(ready.checkpoint_sha256) == 64


def test_the_real_one_computes_in_bfloat16_where_asked(frames):
    options = EngineOptions(model="moving-shapes", device="cpu", dtype="bfloat16")
    rough = engine.load(options).explain(frames, Explain())
    exact = LOADERS["torch"]().explain(frames, Explain())
    for name, one in rough.items():
        assert one.dtype == np.float32
        assert 0 < np.linalg.norm(one - exact[name]) < 0.1 * np.linalg.norm(exact[name])


@pytest.fixture
def served() -> Iterator[object]:
    ours, theirs = Pipe()
    threads: list[Thread] = []

    def serve(load: object) -> object:
        threads.append(Thread(target=_serve_and_close, args=(theirs, load)))
        threads[-1].start()
        return ours

    yield serve
    ours.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def _serve_and_close(connection, load) -> None:
    with connection:
        engines.serve(connection, load)


def test_serving_goes_on_after_a_failure(served):
    connection = served(LOADERS["fake"])
    assert isinstance(wire.receive(connection)[0], Ready)
    clip = np.zeros((1, 8, 64, 64, 3), np.uint8)
    wire.send(connection, Explain(start_layer=99), frames=clip)
    assert wire.receive(connection)[0].code == "invalid_request"
    wire.send(connection, Explain(), frames=clip)
    message, arrays = wire.receive(connection)
    assert isinstance(message, Explained)
    assert message.seconds >= 0
    assert arrays["query_relevance"].shape == (1, 1, 8, 8, 8)


def test_a_curve_comes_over_the_wire(served):
    connection = served(LOADERS["fake"])
    assert isinstance(wire.receive(connection)[0], Ready)
    clip = np.zeros((1, 8, 64, 64, 3), np.uint8)
    order = Perturb(fill="mean", target=0, steps=3)
    wire.send(connection, order, frames=clip, order=np.arange(512))
    message, arrays = wire.receive(connection)
    assert isinstance(message, Perturbed)
    assert (message.seconds >= 0, arrays["probabilities"].shape) == (True, (4,))


@pytest.mark.parametrize(
    "error", [CheckpointError("wrong keys"), FileNotFoundError("gone"), RuntimeError("no device")]
)
def test_what_cannot_be_loaded_is_told_in_one_line(served, error):
    def load() -> LoadedEngine:
        raise error

    connection = served(load)
    message, _ = wire.receive(connection)
    assert isinstance(message, Failed)
    assert message.code == "checkpoint_invalid"
    assert str(error) in message.detail
    with pytest.raises(EOFError):
        wire.receive(connection)


def test_a_clip_that_does_not_fit_is_a_failure_and_the_next_is_served(monkeypatch):
    real = LOADERS["torch"]()
    spec = real.ready.spec
    clip = np.zeros((1, spec.frames, spec.height, spec.width, 3), np.uint8)

    def too_much(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "explain_clips", too_much)
        patch.setattr(engine, "perturbed_probabilities", too_much)
        with pytest.raises(OutOfMemory, match="8 frames"):
            real.explain(clip, Explain())
        with pytest.raises(OutOfMemory, match="8 frames"):
            real.perturb(clip, np.arange(512), Perturb(fill="mean", target=0, steps=2))
    assert relevance_of(real, clip).shape == (1, 8, 8, 8)
