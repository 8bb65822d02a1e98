"""The engine that holds a TimeSformer. Only its own process ever imports this."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rollout_core.checkpoints import LoadedModel, open_model
from rollout_core.errors import OutOfMemory
from rollout_core.explain import explain_clips, prepare_clips
from rollout_core.perturbation import perturbed_probabilities
from worker.messages import EngineOptions, Explain, Perturb, Ready
from worker.wire import Arrays


class TorchEngine:
    """A loaded `LoadedEngine` that runs the real model."""

    def __init__(self, loaded: LoadedModel, device: torch.device, dtype: torch.dtype) -> None:
        self._model = loaded.model.eval()
        self._spec = loaded.spec
        self._device = device
        self._dtype = dtype
        self.ready = Ready(
            spec=loaded.spec, checkpoint_sha256=loaded.sha256, device=_describe(device)
        )

    def explain(self, frames: NDArray[np.uint8], request: Explain) -> Arrays:
        """Return the arrays of `Explained` for frames `b t H W c`."""
        with self._clips(frames) as clips:
            explanation = explain_clips(
                self._model,
                clips,
                method=request.method,
                weighting=request.weighting,
                head_fusion=request.head_fusion,
                discard_ratio=request.discard_ratio,
                start_layer=request.start_layer,
                layer=request.layer,
                target=request.target,
                queries=request.queries,
                first_clip=request.first_clip,
                per_layer=request.per_layer,
                full_rollout=request.full_rollout,
            )
        return explanation.arrays()

    def perturb(
        self, frames: NDArray[np.uint8], order: NDArray[np.int64], request: Perturb
    ) -> NDArray[np.float32]:
        """Return the probabilities of `Perturbed` for frames `1 t H W c` and patches `p`."""
        with self._clips(frames) as clip:
            probabilities = perturbed_probabilities(
                self._model,
                clip,
                torch.from_numpy(order),
                fill=request.fill,
                target=request.target,
                steps=request.steps,
            )
        return np.asarray(probabilities.numpy(), np.float32)

    @contextmanager
    def _clips(self, frames: NDArray[np.uint8]) -> Iterator[Tensor]:
        """Yield what the model sees of frames `b t H W c`, for work that may not fit."""
        try:
            yield prepare_clips(frames, self._spec, device=self._device, dtype=self._dtype)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"{len(frames)} clip of {frames.shape[1]} frames does not fit on {self._device}"
            ) from error


def load(options: EngineOptions) -> TorchEngine:
    """Load the model that the options name.

    Raises:
        CheckpointError: the checkpoint is not what it should be.
        UnknownModel: nobody knows the name, and no checkpoint was given.
    """
    device = _choose(options.device)
    dtype = torch.bfloat16 if options.dtype == "bfloat16" else torch.float32
    loaded = open_model(options.model, options.checkpoint, device=device, dtype=dtype)
    return TorchEngine(loaded, device, dtype)


def _choose(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
