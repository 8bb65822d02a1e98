"""An engine without a model, for teams who build on the service and for its own tests.

It speaks as the real one, takes the same requests, and its answers are a function of the frames
and the request alone: relevance follows what changes in the picture, logits follow a digest.
The name of the model is its script.
"""

import os
import time
from hashlib import sha256
from typing import NoReturn

import numpy as np
from einops import reduce
from numpy.typing import NDArray

from rollout_core.errors import InvalidRequest, OutOfMemory, UnknownModel
from rollout_core.specs import ModelSpec
from worker.messages import EngineOptions, Explain, Ready

PATCH = 8
"""Side of a patch, in pixels."""

DEPTH = 4
"""Layers that a request may name."""

CLS_SHARE = 0.02
"""Relevance that stays with the classification token, so that a clip's map sums to a bit less."""

FLOOR = 1e-3
"""Change that every patch is given, so that a still clip has relevance too."""

SLOW_SECONDS = 0.5
"""What `fake-slow` takes for a clip."""

CRASH_STATUS = 70
"""Exit status of `fake-crash`."""

SPECS: dict[str, ModelSpec] = {
    name: ModelSpec(
        name=name,
        frames=8,
        stride=4,
        sampling="uniform",
        clip_seconds=1.0,
        height=64,
        width=64,
        classes=5,
        labels=("still", "drifting", "growing", "turning", "flickering"),
        licence="Apache-2.0",
    )
    for name in ("fake", "fake-slow", "fake-fail", "fake-crash", "fake-hang")
}


class FakeEngine:
    """A loaded `LoadedEngine` that follows the script of its name."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self.ready = Ready(spec=spec, checkpoint_sha256=None, device="none")

    def explain(
        self, frames: NDArray[np.uint8], request: Explain
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return relevance `b t h w` and logits `b k`, or do what the script says."""
        if request.start_layer >= DEPTH:
            raise InvalidRequest(f"start_layer is {request.start_layer}, the model has {DEPTH}")
        self._act()
        return relevance_of(frames, request), logits_of(frames, self._spec.classes)

    def _act(self) -> None:
        match self._spec.name:
            case "fake-slow":
                time.sleep(SLOW_SECONDS)
            case "fake-fail":
                raise OutOfMemory("fake-fail always runs out of memory")
            case "fake-crash":
                os._exit(CRASH_STATUS)
            case "fake-hang":
                _hang()


def load(options: EngineOptions) -> FakeEngine:
    """Return the fake engine of that name.

    Raises:
        UnknownModel: there is no such script.
    """
    if options.model not in SPECS:
        raise UnknownModel(f"no fake is called {options.model!r}; there are {', '.join(SPECS)}")
    return FakeEngine(SPECS[options.model])


def relevance_of(frames: NDArray[np.uint8], request: Explain) -> NDArray[np.float32]:
    """Return how much each patch changes in time and space, `b t h w`, as shares of a clip.

    A patch's pixels are fused as the request wants heads to be.
    """
    brightness = frames.astype(np.float64).mean(axis=-1)  # b t H W
    change = sum(np.abs(np.gradient(brightness, axis=axis)) for axis in (1, 2, 3))
    pattern = "b t (h i) (w j) -> b t h w"
    energy = reduce(change, pattern, request.head_fusion, i=PATCH, j=PATCH) + FLOOR
    flat = energy.reshape(len(energy), -1)  # b (t h w)
    threshold = np.quantile(flat, request.discard_ratio, axis=1, keepdims=True)
    kept = np.where(flat >= threshold, flat, 0.0)
    shares: NDArray[np.float64] = (1 - CLS_SHARE) * kept / kept.sum(axis=1, keepdims=True)
    return shares.reshape(energy.shape).astype(np.float32)


def logits_of(frames: NDArray[np.uint8], classes: int) -> NDArray[np.float32]:
    """Return a digest of each clip's frames as logits from -3 to 3, `b k`."""
    digests = [sha256(clip.tobytes()).digest()[:classes] for clip in frames]
    levels = np.array([list(digest) for digest in digests], np.float32)
    return (levels / 127.5 - 1) * 3


def _hang() -> NoReturn:
    while True:
        time.sleep(3600)
