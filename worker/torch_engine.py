"""The engine that holds a TimeSformer. Only its own process ever imports this."""

import gc
from collections.abc import Callable
from functools import partial
from math import prod
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rollout_core.errors import OutOfMemory
from rollout_core.model.checkpoints import LoadedModel, open_model
from rollout_core.relevance.explain import explain_clips, prepare_clips
from rollout_core.relevance.perturbation import forward_clips, perturbed_probabilities
from worker.engine_server import warm_up
from worker.messages import EngineOptions, Explain, Perturb, Ready
from worker.wire import Arrays

BATCH_CLIPS = {"cuda": 8}
"""How many clips to ask for at once, by the kind of device; on any other, one."""


class TorchEngine:
    """A loaded `LoadedEngine` that runs the real model, warm."""

    def __init__(
        self,
        loaded: LoadedModel,
        device: torch.device,
        dtype: torch.dtype,
        batch_clips: int | None = None,
    ) -> None:
        """Warm up. `batch_clips` is how many clips to ask for; default: see `BATCH_CLIPS`.

        Raises:
            OutOfMemory: there is no room for a single clip.
        """
        self._model = loaded.model.eval()
        self._spec = loaded.spec
        self._device = device
        self._dtype = dtype
        self._batches = Batches(f"one clip of {loaded.spec.frames} frames does not fit on {device}")
        self.ready = Ready(
            spec=loaded.spec,
            checkpoint_sha256=loaded.sha256,
            device=_describe(device),
            batch_clips=batch_clips or BATCH_CLIPS.get(device.type, 1),
            clip_seconds=warm_up(self.explain, loaded.spec),
        )

    def explain(self, frames: NDArray[np.uint8], request: Explain) -> Arrays:
        """Return the arrays of `Explained` for frames `b t H W c`."""
        explain = partial(self._explain_by, frames, request)
        return self._batches.fit(request.method, len(frames), explain)

    def perturb(
        self, frames: NDArray[np.uint8], order: NDArray[np.int64], request: Perturb
    ) -> NDArray[np.float32]:
        """Return the probabilities of `Perturbed` for frames `1 t H W c` and patches `p`."""
        most = min(request.steps + 1, forward_clips(prod(self._spec.grid)))

        def perturb(batch_clips: int) -> Tensor:
            return perturbed_probabilities(
                self._model,
                self._prepare(frames),
                torch.from_numpy(order),
                fill=request.fill,
                target=request.target,
                steps=request.steps,
                batch_clips=batch_clips,
            )

        return np.asarray(self._batches.fit(request.kind, most, perturb).numpy(), np.float32)

    def _explain_by(self, frames: NDArray[np.uint8], request: Explain, batch_clips: int) -> Arrays:
        """Explain so many clips at once, and put together what was found."""
        parts = [
            self._explain(frames[first : first + batch_clips], request, request.first_clip + first)
            for first in range(0, len(frames), batch_clips)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _explain(self, frames: NDArray[np.uint8], request: Explain, first_clip: int) -> Arrays:
        explanation = explain_clips(
            self._model,
            self._prepare(frames),
            method=request.method,
            weighting=request.weighting,
            head_fusion=request.head_fusion,
            discard_ratio=request.discard_ratio,
            start_layer=request.start_layer,
            layer=request.layer,
            target=request.target,
            queries=request.queries,
            first_clip=first_clip,
            per_layer=request.per_layer,
            full_rollout=request.full_rollout,
        )
        return explanation.arrays()

    def _prepare(self, frames: NDArray[np.uint8]) -> Tensor:
        return prepare_clips(frames, self._spec, device=self._device, dtype=self._dtype)


def load(options: EngineOptions) -> TorchEngine:
    """Load the model that the options name.

    Raises:
        CheckpointError: the checkpoint is not what it should be, or not the one that is pinned.
        UnknownModel: nobody knows the name, and no checkpoint was given.
    """
    device = _choose(options.device)
    dtype = torch.bfloat16 if options.dtype == "bfloat16" else torch.float32
    loaded = open_model(
        options.model,
        options.checkpoint,
        sha256=options.checkpoint_sha256,
        device=device,
        dtype=dtype,
    )
    return TorchEngine(loaded, device, dtype, options.batch_clips)


def _choose(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


T = TypeVar("T")


class Batches:
    """The sizes of batch that have fitted, by the kind of work."""

    def __init__(self, refusal: str) -> None:
        """Prepare; `refusal` is what to say when not even one clip fits."""
        self._refusal = refusal
        self._sizes: dict[str, int] = {}

    def fit(self, kind: str, most: int, work: Callable[[int], T]) -> T:
        """Return what work of a kind gives with the largest batch that fits, of up to `most` clips.

        Whenever memory runs out, the batch is halved, and the work done again from its beginning.

        Raises:
            OutOfMemory: one clip alone does not fit.
        """
        size = min(most, self._sizes.get(kind, most))
        while True:
            try:
                return work(size)
            except torch.OutOfMemoryError:
                pass  # only when it is dealt with are the tensors gone that its traceback holds
            _free_memory()
            if size == 1:
                raise OutOfMemory(self._refusal)
            self._sizes[kind] = size = size // 2


def _free_memory() -> None:
    gc.collect()
    torch.cuda.empty_cache()
