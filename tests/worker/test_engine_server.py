"""One contract for both engines: the fake must not promise what the real one does not keep."""

import time
from collections.abc import Iterator
from itertools import combinations
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from rollout_core.contract import PatchQuery
from rollout_core.errors import CheckpointError, InvalidRequest, OutOfMemory
from rollout_core.model.specs import MOVING_SHAPES
from rollout_core.relevance.faithfulness import FILLS
from worker import engine_server, fake_engine, torch_engine, wire
from worker.children import ChildFailure, Engine, next_message
from worker.engine_server import LoadedEngine
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
    "fake": lambda: fake_engine.load(EngineOptions(model="fake")),
    "torch": lambda: torch_engine.load(EngineOptions(model="moving-shapes", device="cpu")),
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
    rough = torch_engine.load(options).explain(frames, Explain())
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
        engine_server.serve(connection, load)


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


class Evil:
    """Something whose unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.path, "executed")


def failure_to_load(**options: object) -> str:
    """Return why a real engine process cannot load; it must say so itself."""
    child = Engine("torch", EngineOptions.model_validate(options), load_seconds=60)
    try:
        with pytest.raises(ChildFailure) as caught:
            next_message(child, Ready, lambda: None)
    finally:
        child.kill()
    assert caught.value.error.code == "checkpoint_invalid"
    return caught.value.error.detail


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    written, checkpoint = tmp_path / "written", tmp_path / "evil.pyth"
    torch.save({"model_state": {}, "cfg": Evil(written)}, checkpoint)
    torch.load(checkpoint, weights_only=False)
    assert written.read_text() == "executed"  # so this one is dangerous
    written.unlink()
    assert "evil.pyth" in failure_to_load(model="mine", checkpoint=str(checkpoint), device="cpu")
    assert not written.exists()


def test_only_the_pinned_checkpoint_is_loaded():
    digest = LOADERS["torch"]().ready.checkpoint_sha256
    pinned = EngineOptions(model="moving-shapes", checkpoint_sha256=digest, device="cpu")
    assert torch_engine.load(pinned).ready.checkpoint_sha256 == digest
    other = "0" * 64
    detail = failure_to_load(model="moving-shapes", checkpoint_sha256=other, device="cpu")
    assert digest in detail
    assert other in detail


class Scarce:
    """Memory that holds the frames of no more than so many clips."""

    def __init__(self, clips: int) -> None:
        self.clips = clips
        self.forwards: list[int] = []

    def __call__(self, patch_embed: torch.nn.Module, arguments: tuple[torch.Tensor]) -> None:
        clips = len(arguments[0]) // MOVING_SHAPES.frames
        self.forwards.append(clips)
        if clips > self.clips:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def scarce() -> Iterator[tuple[LoadedEngine, Scarce]]:
    real, memory = LOADERS["torch"](), Scarce(2)
    with real._model.patch_embed.register_forward_pre_hook(memory):
        yield real, memory


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return np.random.default_rng(6).integers(0, 256, (5, 8, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("wanted", METHODS)
def test_a_batch_that_does_not_fit_is_halved_and_the_answer_is_the_same(scarce, many, wanted):
    real, memory = scarce
    queries = ("cls", PatchQuery(clip=6, frame=5, row=2, column=6))
    request = Explain(**wanted, queries=queries, first_clip=3, per_layer=True)
    found = real.explain(many, request)
    assert memory.forwards[:2] == [5, 2]
    assert set(memory.forwards[1:]) == {2, 1}
    memory.forwards.clear()
    real.explain(many, request)
    assert max(memory.forwards) == 2  # remembered
    memory.clips = 5
    alone = [
        real.explain(clip[np.newaxis], request.model_copy(update={"first_clip": 3 + index}))
        for index, clip in enumerate(many)
    ]
    for name, array in found.items():
        np.testing.assert_allclose(array, np.concatenate([one[name] for one in alone]), atol=2e-5)
    assert found["query_relevance"][3, 1].any()
    assert not found["query_relevance"][:3, 1].any()


def test_a_curve_that_does_not_fit_is_followed_in_smaller_steps(scarce, many):
    real, memory = scarce
    order = np.random.default_rng(0).permutation(512)
    request = Perturb(fill="blur", target=1, steps=8)
    curve = real.perturb(many[:1], order, request)
    assert memory.forwards == [9, 3, 2, 2, 2, 2, 1]
    memory.clips = 9
    whole = LOADERS["torch"]().perturb(many[:1], order, request)
    np.testing.assert_allclose(curve, whole, atol=1e-5)


def test_a_clip_that_does_not_fit_is_a_failure_and_the_next_is_served(scarce, many):
    real, memory = scarce
    memory.clips = 0
    with pytest.raises(OutOfMemory, match="one clip of 8 frames"):
        real.explain(many, Explain())
    with pytest.raises(OutOfMemory, match="one clip of 8 frames"):
        real.perturb(many[:1], np.arange(512), Perturb(fill="mean", target=0, steps=2))
    memory.clips = 1
    assert relevance_of(real, many).shape == (5, 8, 8, 8)


def test_it_is_warm_and_says_how_long_a_clip_takes(loaded):
    assert 0 < loaded.ready.clip_seconds < 5
    assert loaded.ready.batch_clips == 1


@pytest.mark.parametrize("name", LOADERS)
def test_it_wants_as_many_clips_at_once_as_it_is_told(name):
    options = EngineOptions(
        model={"fake": "fake", "torch": "moving-shapes"}[name], device="cpu", batch_clips=3
    )
    load = {"fake": fake_engine.load, "torch": torch_engine.load}[name]
    assert load(options).ready.batch_clips == 3


def test_start_up_does_not_count_as_the_time_that_a_clip_takes():
    waits = iter([0.3, 0.0])
    assert engine_server.warm_up(lambda *_: time.sleep(next(waits)), MOVING_SHAPES) < 0.2
    assert next(waits, None) is None
