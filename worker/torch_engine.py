"""The engine that runs a TimeSformer. Only the engine process imports this module."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rollout_core.contract import PrecisionChoice
from rollout_core.errors import OutOfMemory
from rollout_core.model.checkpoints import LoadedModel, open_model
from rollout_core.model.devices import free_memory, open_device
from rollout_core.relevance.explain import explain_clips, prepare_clips
from rollout_core.relevance.perturbation import forward_clips, perturbed_probabilities
from rollout_core.relevance.precision import open_dtype, precision_of, settle_precision
from worker.engine_server import warm_up
from worker.messages import EngineOptions, Explain, Perturb, Ready
from worker.wire import Arrays

BATCH_CLIPS = {"cuda": 8}
"""Default number of clips per batch, by type of device. On other devices: one."""

T = TypeVar("T")


class BatchSizes:
    """Remembers the largest batch size that fits in memory, for each kind of work."""

    def __init__(self, message: str) -> None:
        """Set the message of the error if a single clip does not fit."""
        self._message = message
        self._sizes: dict[str, int] = {}

    def fit(self, kind: str, max_clips: int, work: Callable[[int], T]) -> T:
        """Call `work` with a batch size that fits in memory, and return its result.

        The first size is `max_clips`, or the size that fitted before. If memory runs out, the size
        is halved and the work starts again.

        Raises:
            OutOfMemory: a single clip does not fit.
        """
        size = min(max_clips, self._sizes.get(kind, max_clips))
        while True:
            try:
                return work(size)
            except torch.OutOfMemoryError:
                pass  # The traceback holds tensors; they are freed after this block.
            free_memory()
            if size == 1:
                raise OutOfMemory(self._message)
            self._sizes[kind] = size = size // 2


class TorchEngine:
    """A `LoadedEngine` that runs the real model."""

    def __init__(
        self,
        loaded: LoadedModel,
        device: torch.device,
        dtype: PrecisionChoice = "float32",
        batch_clips: int | None = None,
    ) -> None:
        """Choose the precision, and warm the model up.

        Args:
            dtype: the precision of `loaded`; "auto" measures which one is used instead.
            batch_clips: most clips per batch. Default: see `BATCH_CLIPS`.
        Raises:
            OutOfMemory: a single clip does not fit in memory.
        """
        batch_clips = batch_clips or BATCH_CLIPS.get(device.type, 1)
        loaded, report = settle_precision(loaded, dtype, batch_clips)
        self._model = loaded.model.eval()
        self._spec = loaded.spec
        self._device = device
        self._dtype = next(loaded.model.parameters()).dtype
        self._batches = BatchSizes(
            f"one clip of {loaded.spec.frames} frames does not fit on {device}"
        )
        self.ready = Ready(
            spec=loaded.spec,
            checkpoint_sha256=loaded.sha256,
            device=_device_name(device),
            batch_clips=batch_clips,
            clip_seconds=warm_up(self.explain, loaded.spec),
            precision=precision_of(loaded.model) or "float32",
            precision_report=report,
        )

    def explain(self, frames: NDArray[np.uint8], request: Explain) -> Arrays:
        """Return the arrays of `Explained` for frames `b t H W c`."""
        explain = partial(self._explain_in_batches, frames, request)
        return self._batches.fit(request.options.method, len(frames), explain)

    def perturb(
        self, frames: NDArray[np.uint8], order: NDArray[np.int64], request: Perturb
    ) -> NDArray[np.float32]:
        """Return the probabilities of `Perturbed` for frames `1 t H W c` and patches `p`."""
        max_clips = min(request.steps + 1, forward_clips(prod(self._spec.grid)))

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

        return np.asarray(self._batches.fit(request.kind, max_clips, perturb).numpy(), np.float32)

    def _explain_in_batches(
        self, frames: NDArray[np.uint8], request: Explain, batch_clips: int
    ) -> Arrays:
        """Explain the clips in batches, and concatenate the arrays."""
        parts = [
            self._explain_batch(frames[i : i + batch_clips], request, request.first_clip + i)
            for i in range(0, len(frames), batch_clips)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _explain_batch(
        self, frames: NDArray[np.uint8], request: Explain, first_clip: int
    ) -> Arrays:
        explanation = explain_clips(
            self._model,
            self._prepare(frames),
            request.options,
            target=[request.targets] * len(frames) if request.targets else None,
            against=request.against,
            queries=request.queries,
            first_clip=first_clip,
        )
        return explanation.arrays()

    def _prepare(self, frames: NDArray[np.uint8]) -> Tensor:
        return prepare_clips(frames, self._spec, device=self._device, dtype=self._dtype)


def load(options: EngineOptions) -> TorchEngine:
    """Load the model that the options name.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, or its digest differs from the pinned one.
        DeviceError: there is no such device here, or it does not compute in that precision.
    """
    device = open_device(options.device)
    loaded = open_model(
        options.model,
        options.checkpoint,
        sha256=options.checkpoint_sha256,
        settings=options.settings,
        device=device,
        dtype=open_dtype(options.dtype, device),
    )
    return TorchEngine(loaded, device, options.dtype, options.batch_clips)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
