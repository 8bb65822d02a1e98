"""One contract for both engines: the fake engine must behave like the real one."""

import math
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
from rollout_core.errors import CheckpointError, DeviceError, InvalidRequest, OutOfMemory
from rollout_core.model.specs import MOVING_THINGS
from rollout_core.relevance.faithfulness import FILLS
from tests.worker.orders import explain_order
from worker import engine_server, fake_engine, torch_engine, wire
from worker.child import ChildFailure, next_message
from worker.children import Engine
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
    "torch": lambda: torch_engine.load(EngineOptions(model="moving-things", device="cpu")),
}
METHODS: list[dict[str, object]] = [
    {"method": "rollout"},
    {"method": "attention"},
    {"method": "gradient_rollout"},
    {"method": "contribution_rollout"},
    {"method": "contribution_rollout", "weighting": "projection"},
]
CLASS_MAPS: list[dict[str, object]] = [
    {"method": "contribution_rollout", "targets": (1, "predicted", 4)},
    {"method": "contribution_rollout", "targets": (1, "predicted", 4), "against": 3},
    {"method": "contribution_rollout", "targets": (1, "predicted", 4), "weighting": "deviation"},
    {"method": "difference", "targets": (1, "predicted", 4)},
    {"method": "difference", "targets": (1, "predicted", 4), "reference": "blur"},
    {"method": "difference", "targets": (1, "predicted", 4), "reference": "mean"},
]
SHARED = [options for options in METHODS if options["method"] != "gradient_rollout"]
"""Methods whose relevance sums to at most 1."""

PATCHES = math.prod(MOVING_THINGS.grid)

ROLLED = [options for options in METHODS if options["method"] != "attention"]
"""Methods that roll out through all layers."""

PATCH = PatchQuery(clip=1, frame=5, row=2, column=6)


@pytest.fixture(scope="module", params=LOADERS)
def loaded(request) -> LoadedEngine:
    return LOADERS[request.param]()


@pytest.fixture(scope="module")
def frames(loaded) -> np.ndarray:
    spec = loaded.ready.spec
    shape = (2, spec.frames, spec.height, spec.width, 3)
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


def relevance_of(loaded: LoadedEngine, frames: np.ndarray, **request: object) -> np.ndarray:
    return loaded.explain(frames, explain_order(**request))["query_relevance"][:, 0]


def test_ready_describes_the_model(loaded):
    ready = loaded.ready
    assert ready.spec.label(0) != "class 0"
    assert ready.spec.frames == 8
    assert ready.spec.depth == 4
    assert ready.device
    assert ready.checkpoint_sha256 is None or len(ready.checkpoint_sha256) == 64


@pytest.mark.parametrize("options", METHODS)
def test_every_method_answers_with_finite_arrays_for_every_clip(loaded, frames, options):
    found = loaded.explain(frames, explain_order(**options, queries=("cls", PATCH), per_layer=True))
    expected = {
        "logits": ("float32", (2, loaded.ready.spec.classes)),
        "query_relevance": ("float32", (2, 2, *loaded.ready.spec.grid)),
        "temporal_rollout": ("float32", (2, 8, 8)),
        "layer_relevance": ("float32", (2, 4, *loaded.ready.spec.grid)),
    }
    if options["method"] == "gradient_rollout":
        expected["targets"] = ("int64", (2,))
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == expected
    for array in found.values():
        assert np.isfinite(array).all()


def test_default_request_gets_no_optional_arrays(loaded, frames):
    found = loaded.explain(frames, Explain())
    assert found.keys() == {"logits", "query_relevance", "temporal_rollout"}


@pytest.mark.parametrize("options", SHARED)
def test_relevance_sums_to_a_little_less_than_one(loaded, frames, options):
    relevance = relevance_of(loaded, frames, **options)
    total = relevance.sum(axis=(1, 2, 3))
    assert (relevance >= 0).all()
    assert ((total > 0.5) & (total < 1)).all()


@pytest.mark.parametrize("options", METHODS)
def test_same_request_gets_the_same_answer(loaded, frames, options):
    one, other = (loaded.explain(frames, explain_order(**options)) for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_every_method_and_option_changes_relevance_but_not_logits(loaded, frames):
    others: list[dict[str, object]] = [
        {"head_fusion": "max"},
        {"head_fusion": "min"},
        {"discard_ratio": 0.5},
        {"start_layer": 1},
        {"method": "attention", "layer": 1},
        {"method": "gradient_rollout", "targets": (1,)},
        {"method": "gradient_rollout", "targets": (4,)},
    ]
    orders = [explain_order(**chosen) for chosen in METHODS + others + CLASS_MAPS]
    answers = [loaded.explain(frames, order) for order in orders]
    for one, other in combinations(answers, 2):
        assert not np.allclose(one["query_relevance"], other["query_relevance"], atol=1e-6)
        np.testing.assert_allclose(one["logits"], other["logits"], atol=1e-5)


def test_target_is_the_requested_or_predicted_class(loaded, frames):
    asked = loaded.explain(frames, explain_order(method="gradient_rollout", targets=[3]))
    predicted = loaded.explain(frames, explain_order(method="gradient_rollout"))
    assert asked["targets"].tolist() == [3, 3]
    assert predicted["targets"].tolist() == predicted["logits"].argmax(axis=1).tolist()


@pytest.mark.parametrize("options", CLASS_MAPS)
def test_maps_of_classes_have_signs_and_each_is_as_if_alone(loaded, frames, options):
    found = loaded.explain(frames, explain_order(**options, per_layer=True))
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "logits": ("float32", (2, loaded.ready.spec.classes)),
        "targets": ("int64", (2,)),
        "query_relevance": ("float32", (2, 1, *loaded.ready.spec.grid)),
        "target_relevance": ("float32", (2, 3, *loaded.ready.spec.grid)),
        "target_classes": ("int64", (2, 3)),
        "layer_relevance": ("float32", (2, 4, *loaded.ready.spec.grid)),
    }
    maps, best = found["target_relevance"], found["logits"].argmax(axis=1)
    assert found["target_classes"].tolist() == [[1, k, 4] for k in best]
    assert found["targets"].tolist() == [1, 1]
    np.testing.assert_array_equal(found["query_relevance"], maps[:, :1])
    np.testing.assert_allclose(found["layer_relevance"][:, 0], maps[:, 0], atol=1e-5)
    listed = maps[:, ::2]  # the predicted class may be that of `against`: a map of zeros
    assert (listed.min(axis=(2, 3, 4)) < 0).all()
    assert (listed.max(axis=(2, 3, 4)) > 0).all()
    alone = loaded.explain(frames, explain_order(**options | {"targets": (4,)}))
    np.testing.assert_allclose(alone["query_relevance"][:, 0], maps[:, 2], atol=1e-5)


@pytest.mark.parametrize("options", ROLLED)
def test_query_relevance_is_a_row_of_the_full_rollout(loaded, frames, options):
    request = explain_order(**options, queries=("cls", PATCH), full_rollout=True)
    found = loaded.explain(frames, request)
    full = found["full_rollout"]
    grid = loaded.ready.spec.grid
    tokens = 1 + math.prod(grid)
    assert (full.dtype, full.shape) == (np.float16, (2, tokens, tokens))
    patch = np.ravel_multi_index((PATCH.frame, PATCH.row, PATCH.column), grid)
    rows = full[1, [0, 1 + patch], 1:].astype(np.float32)
    np.testing.assert_allclose(
        found["query_relevance"][1].reshape(2, -1), rows, rtol=2e-3, atol=1e-6
    )


@pytest.mark.parametrize("options", ROLLED)
def test_temporal_rollout_is_the_full_rollout_by_frames(loaded, frames, options):
    found = loaded.explain(frames, explain_order(**options, full_rollout=True))
    t, h, w = loaded.ready.spec.grid
    patches = found["full_rollout"][:, 1:, 1:].astype(np.float32).reshape(2, t, h * w, t, h * w)
    by_frame = patches.mean(axis=2).sum(axis=-1)
    np.testing.assert_allclose(found["temporal_rollout"], by_frame, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("options", METHODS)
def test_patch_query_has_relevance_in_its_own_clip_only(loaded, frames, options):
    here = loaded.explain(frames, explain_order(**options, queries=(PATCH,)))["query_relevance"]
    later = explain_order(**options, queries=(PATCH,), first_clip=1)
    there = loaded.explain(frames, later)["query_relevance"]
    assert not here[0].any()
    assert not there[1].any()
    assert here[1].any()
    alone = loaded.explain(frames[1:], later)["query_relevance"]
    np.testing.assert_allclose(alone[0], here[1], atol=1e-6)


@pytest.mark.parametrize("options", ROLLED)
def test_relevance_at_the_first_layer_is_the_whole_rollout(loaded, frames, options):
    found = loaded.explain(frames, explain_order(**options, start_layer=1, per_layer=True))
    relevance, layers = found["query_relevance"][:, 0], found["layer_relevance"]
    for layer in (0, 1):
        np.testing.assert_allclose(layers[:, layer], relevance, atol=1e-6)
    assert not np.allclose(layers[:, 2], relevance, atol=1e-6)


def test_layer_relevance_of_attention_is_each_layers_attention(loaded, frames):
    layers = loaded.explain(frames, explain_order(method="attention", per_layer=True))[
        "layer_relevance"
    ]
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
def test_layer_out_of_range_is_refused(loaded, frames, field, changes):
    with pytest.raises(InvalidRequest, match=field):
        loaded.explain(frames, explain_order(**changes))


@pytest.mark.parametrize("fill", FILLS)
def test_perturbation_starts_at_the_whole_clip_and_ends_without_patches(loaded, frames, fill):
    clip = frames[:1]
    forth = np.random.default_rng(0).permutation(math.prod(loaded.ready.spec.grid))
    scores = np.exp(loaded.explain(clip, Explain())["logits"][0].astype(np.float64))
    for target in (0, int(scores.argmax())):
        request = Perturb(fill=fill, target=target, steps=4)
        one, other = (loaded.perturb(clip, order, request) for order in (forth, forth[::-1].copy()))
        assert (one.dtype, one.shape) == (np.float32, (5,))
        assert one[0] == pytest.approx(scores[target] / scores.sum(), abs=1e-5)
        np.testing.assert_allclose(one[[0, -1]], other[[0, -1]], atol=1e-5)
    assert not np.allclose(one[1:-1], other[1:-1], atol=1e-6)


def test_fills_give_different_curves(loaded, frames):
    patches = math.prod(loaded.ready.spec.grid)
    curves = [
        loaded.perturb(frames[:1], np.arange(patches), Perturb(fill=fill, target=2, steps=4))
        for fill in FILLS
    ]
    for one, other in combinations(curves, 2):
        assert not np.allclose(one[1:-1], other[1:-1], atol=1e-6)


def test_torch_engine_loads_the_demo_model():
    ready = LOADERS["torch"]().ready
    assert (ready.spec.name, ready.device) == (MOVING_THINGS.name, "cpu")
    assert len(ready.checkpoint_sha256) == 64


def test_torch_engine_computes_in_bfloat16_on_request(frames):
    options = EngineOptions(model="moving-things", device="cpu", dtype="bfloat16")
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


def test_serving_continues_after_a_failure(served):
    connection = served(LOADERS["fake"])
    assert isinstance(wire.receive(connection)[0], Ready)
    clip = np.zeros((1, 8, 64, 64, 3), np.uint8)
    wire.send(connection, explain_order(start_layer=99), frames=clip)
    assert wire.receive(connection)[0].code == "invalid_request"
    wire.send(connection, Explain(), frames=clip)
    message, arrays = wire.receive(connection)
    assert isinstance(message, Explained)
    assert message.seconds >= 0
    assert arrays["query_relevance"].shape == (1, 1, 8, 8, 8)


def test_perturbation_is_served(served):
    connection = served(LOADERS["fake"])
    assert isinstance(wire.receive(connection)[0], Ready)
    clip = np.zeros((1, 8, 64, 64, 3), np.uint8)
    order = Perturb(fill="mean", target=0, steps=3)
    wire.send(connection, order, frames=clip, order=np.arange(512))
    message, arrays = wire.receive(connection)
    assert isinstance(message, Perturbed)
    assert (message.seconds >= 0, arrays["probabilities"].shape) == (True, (4,))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckpointError("wrong keys"), "checkpoint_invalid"),
        (DeviceError("no GPU"), "device_unusable"),
        (FileNotFoundError("gone"), "internal"),
        (RuntimeError("CUDA error"), "internal"),
        (AttributeError("unexpected"), "internal"),
    ],
)
def test_load_error_is_sent_as_failed(served, error, code):
    def load() -> LoadedEngine:
        raise error

    connection = served(load)
    message, _ = wire.receive(connection)
    assert isinstance(message, Failed)
    assert message.code == code
    assert str(error) in message.detail
    with pytest.raises(EOFError):
        wire.receive(connection)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.path, "executed")


def failure_to_load(**options: object) -> str:
    """Return the message with which an engine process reports that it cannot load."""
    child = Engine("torch", EngineOptions.model_validate(options), load_seconds=60)
    try:
        with pytest.raises(ChildFailure) as caught:
            next_message(child, Ready, lambda: None)
    finally:
        child.kill()
    assert caught.value.error.code == "checkpoint_invalid"
    return caught.value.error.detail


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    written, checkpoint = tmp_path / "written", tmp_path / "evil.pyth"
    torch.save({"model_state": {}, "cfg": Evil(written)}, checkpoint)
    torch.load(checkpoint, weights_only=False)
    assert written.read_text() == "executed"  # the file is dangerous to an unsafe loader
    written.unlink()
    assert "evil.pyth" in failure_to_load(model="mine", checkpoint=str(checkpoint), device="cpu")
    assert not written.exists()


def test_only_the_pinned_checkpoint_is_loaded():
    digest = LOADERS["torch"]().ready.checkpoint_sha256
    pinned = EngineOptions(model="moving-things", checkpoint_sha256=digest, device="cpu")
    assert torch_engine.load(pinned).ready.checkpoint_sha256 == digest
    other = "0" * 64
    detail = failure_to_load(model="moving-things", checkpoint_sha256=other, device="cpu")
    assert digest in detail
    assert other in detail


class LimitedMemory:
    """Forward hook that runs out of memory above a number of clips."""

    def __init__(self, clips: int) -> None:
        self.clips = clips
        self.forwards: list[int] = []

    def __call__(self, patch_embed: torch.nn.Module, arguments: tuple[torch.Tensor]) -> None:
        clips = len(arguments[0]) // MOVING_THINGS.frames
        self.forwards.append(clips)
        if clips > self.clips:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def limited() -> Iterator[tuple[LoadedEngine, LimitedMemory]]:
    real, memory = LOADERS["torch"](), LimitedMemory(2)
    with real._model.patch_embed.register_forward_pre_hook(memory):
        yield real, memory


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return np.random.default_rng(6).integers(0, 256, (5, 8, 112, 112, 3), np.uint8)


@pytest.mark.parametrize("options", METHODS)
def test_batch_that_does_not_fit_is_halved_with_the_same_answer(limited, many, options):
    real, memory = limited
    queries = ("cls", PatchQuery(clip=6, frame=5, row=2, column=6))
    request = explain_order(**options, queries=queries, first_clip=3, per_layer=True)
    found = real.explain(many, request)
    assert memory.forwards[:2] == [5, 2]
    assert set(memory.forwards[1:]) == {2, 1}
    memory.forwards.clear()
    real.explain(many, request)
    assert max(memory.forwards) == 2  # the size that fitted is remembered
    memory.clips = 5
    alone = [
        real.explain(clip[np.newaxis], request.model_copy(update={"first_clip": 3 + index}))
        for index, clip in enumerate(many)
    ]
    for name, array in found.items():
        np.testing.assert_allclose(array, np.concatenate([one[name] for one in alone]), atol=2e-5)
    assert found["query_relevance"][3, 1].any()
    assert not found["query_relevance"][:3, 1].any()


def test_perturbation_that_does_not_fit_runs_in_smaller_batches(limited, many):
    real, memory = limited
    order = np.random.default_rng(0).permutation(PATCHES)
    request = Perturb(fill="blur", target=1, steps=8)
    curve = real.perturb(many[:1], order, request)
    assert memory.forwards == [9, 3, 2, 2, 2, 2, 1]
    memory.clips = 9
    whole = LOADERS["torch"]().perturb(many[:1], order, request)
    np.testing.assert_allclose(curve, whole, atol=1e-5)


def test_clip_that_does_not_fit_fails_and_the_next_is_served(limited, many):
    real, memory = limited
    memory.clips = 0
    with pytest.raises(OutOfMemory, match="one clip of 8 frames"):
        real.explain(many, Explain())
    with pytest.raises(OutOfMemory, match="one clip of 8 frames"):
        real.perturb(many[:1], np.arange(PATCHES), Perturb(fill="mean", target=0, steps=2))
    memory.clips = 1
    assert relevance_of(real, many).shape == (5, *MOVING_THINGS.grid)


def test_ready_has_the_time_of_a_clip_after_warm_up(loaded):
    assert 0 < loaded.ready.clip_seconds < 5
    assert loaded.ready.batch_clips == 1


@pytest.mark.parametrize("name", LOADERS)
def test_batch_clips_can_be_configured(name):
    options = EngineOptions(
        model={"fake": "fake", "torch": "moving-things"}[name], device="cpu", batch_clips=3
    )
    load = {"fake": fake_engine.load, "torch": torch_engine.load}[name]
    assert load(options).ready.batch_clips == 3


def test_start_up_does_not_count_as_time_of_a_clip():
    waits = iter([0.3, 0.0])
    assert engine_server.warm_up(lambda *_: time.sleep(next(waits)), MOVING_THINGS) < 0.2
    assert next(waits, None) is None
