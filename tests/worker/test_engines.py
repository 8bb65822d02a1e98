"""One contract for both engines: the fake must not promise what the real one does not keep."""

from collections.abc import Iterator
from multiprocessing import Pipe
from threading import Thread

import numpy as np
import pytest
import torch

from rollout_core.errors import CheckpointError, InvalidRequest, OutOfMemory
from rollout_core.specs import MOVING_SHAPES
from worker import engine, engines, fake, wire
from worker.engines import LoadedEngine
from worker.messages import EngineOptions, Explain, Explained, Failed, Ready

LOADERS = {
    "fake": lambda: fake.load(EngineOptions(model="fake")),
    "torch": lambda: engine.load(EngineOptions(model="moving-shapes", device="cpu")),
}


@pytest.fixture(scope="module", params=LOADERS)
def loaded(request) -> LoadedEngine:
    return LOADERS[request.param]()


@pytest.fixture(scope="module")
def frames(loaded) -> np.ndarray:
    spec = loaded.ready.spec
    shape = (2, spec.frames, spec.height, spec.width, 3)
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


def request(**changes: object) -> Explain:
    return Explain.model_validate(
        {"head_fusion": "mean", "discard_ratio": 0.0, "start_layer": 0} | changes
    )


def test_it_says_what_it_is(loaded):
    ready = loaded.ready
    assert ready.spec.label(0) != "class 0"
    assert ready.device
    assert ready.checkpoint_sha256 is None or len(ready.checkpoint_sha256) == 64


def test_it_answers_with_a_map_and_logits_for_every_clip(loaded, frames):
    relevance, logits = loaded.explain(frames, request())
    spec = loaded.ready.spec
    assert relevance.shape == (2, spec.frames, 8, 8)
    assert logits.shape == (2, spec.classes)
    assert relevance.dtype == logits.dtype == np.float32
    assert np.isfinite(relevance).all()
    assert np.isfinite(logits).all()


def test_a_clips_map_sums_to_a_little_less_than_one(loaded, frames):
    relevance, _ = loaded.explain(frames, request())
    total = relevance.sum(axis=(1, 2, 3))
    assert (relevance >= 0).all()
    assert ((total > 0.5) & (total < 1)).all()


def test_the_same_request_has_the_same_answer(loaded, frames):
    for one, other in zip(
        loaded.explain(frames, request()), loaded.explain(frames, request()), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("changes", [{"head_fusion": "max"}, {"discard_ratio": 0.5}])
def test_another_request_has_another_answer(loaded, frames, changes):
    relevance, logits = loaded.explain(frames, request())
    other, same = loaded.explain(frames, request(**changes))
    assert not np.allclose(relevance, other, atol=1e-6)
    np.testing.assert_allclose(logits, same, atol=1e-5)


def test_a_layer_that_does_not_exist_is_refused(loaded, frames):
    with pytest.raises(InvalidRequest, match="start_layer"):
        loaded.explain(frames, request(start_layer=99))


def test_the_real_one_loads_the_demo_model():
    ready = LOADERS["torch"]().ready
    assert (ready.spec.name, ready.device) == (MOVING_SHAPES.name, "cpu")
    assert len(ready.checkpoint_sha256) == 64


def test_the_real_one_computes_in_bfloat16_where_asked(frames):
    options = EngineOptions(model="moving-shapes", device="cpu", dtype="bfloat16")
    rough = engine.load(options).explain(frames, request())
    exact = LOADERS["torch"]().explain(frames, request())
    for one, other in zip(rough, exact, strict=True):
        assert one.dtype == np.float32
        assert 0 < np.linalg.norm(one - other) < 0.1 * np.linalg.norm(other)


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
    wire.send(connection, request(start_layer=99), frames=clip)
    assert wire.receive(connection)[0].code == "invalid_request"
    wire.send(connection, request(), frames=clip)
    message, arrays = wire.receive(connection)
    assert isinstance(message, Explained)
    assert message.seconds >= 0
    assert set(arrays) == {"relevance", "logits"}


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
        with pytest.raises(OutOfMemory, match="8 frames"):
            real.explain(clip, request())
    assert real.explain(clip, request())[0].shape == (1, 8, 8, 8)
