"""An engine without a model, for teams who build on the service and for its own tests.

It speaks as the real one and takes the same requests; for its answers see `worker.fake_rollout`.
The name of the model is its script.
"""

import os
import time
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from rollout_core.errors import InvalidRequest, OutOfMemory, UnknownModel
from rollout_core.model.specs import ModelSpec
from worker import fake_rollout
from worker.engines import warm_up
from worker.messages import EngineOptions, Explain, Perturb, Ready
from worker.wire import Arrays

SLOW_SECONDS = 0.5
"""What `fake-slow` takes for a clip, or for a curve of any number of them."""

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
        patch_height=8,
        patch_width=8,
        depth=4,
        classes=5,
        labels=("still", "drifting", "growing", "turning", "flickering"),
        licence="Apache-2.0",
    )
    for name in ("fake", "fake-slow", "fake-fail", "fake-crash", "fake-hang")
}


class FakeEngine:
    """A loaded `LoadedEngine` that follows the script of its name."""

    def __init__(self, spec: ModelSpec, batch_clips: int = 1) -> None:
        self._spec = spec
        self.ready = Ready(
            spec=spec,
            checkpoint_sha256=None,
            device="none",
            batch_clips=batch_clips,
            clip_seconds=warm_up(self._explain, spec),
        )

    def explain(self, frames: NDArray[np.uint8], request: Explain) -> Arrays:
        """Return the arrays of `Explained` for frames `b t H W c`, or do what the script says."""
        self._require_layer("start_layer", request.start_layer)
        self._require_layer("layer", request.layer or 0)
        self._act(clips=len(frames))
        return self._explain(frames, request)

    def perturb(
        self, frames: NDArray[np.uint8], order: NDArray[np.int64], request: Perturb
    ) -> NDArray[np.float32]:
        """Return the probabilities of `Perturbed`, or do what the script says."""
        self._act()
        return fake_rollout.perturb(frames, order, request, self._spec)

    def _explain(self, frames: NDArray[np.uint8], request: Explain) -> Arrays:
        return fake_rollout.explain(frames, request, self._spec)

    def _require_layer(self, name: str, layer: int) -> None:
        depth = self._spec.depth
        if layer >= depth:
            raise InvalidRequest(f"{name} is {layer}, but the model has {depth} layers")

    def _act(self, clips: int = 1) -> None:
        match self._spec.name:
            case "fake-slow":
                time.sleep(clips * SLOW_SECONDS)
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
    return FakeEngine(SPECS[options.model], options.batch_clips or 1)


def _hang() -> NoReturn:
    while True:
        time.sleep(3600)
