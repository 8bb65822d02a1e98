"""The engine that holds a TimeSformer. Only its own process ever imports this."""

import numpy as np
import torch
from numpy.typing import NDArray

from rollout_core.checkpoints import LoadedModel, open_model
from rollout_core.errors import OutOfMemory
from rollout_core.explain import explain_clips, prepare_clips
from worker.messages import EngineOptions, Explain, Ready


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

    def explain(
        self, frames: NDArray[np.uint8], request: Explain
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return relevance `b t h w` and logits `b k` of frames `b t H W c`."""
        try:
            clips = prepare_clips(frames, self._spec, device=self._device, dtype=self._dtype)
            explanation = explain_clips(
                self._model,
                clips,
                head_fusion=request.head_fusion,
                discard_ratio=request.discard_ratio,
                start_layer=request.start_layer,
            )
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"{len(frames)} clip of {frames.shape[1]} frames does not fit on {self._device}"
            ) from error
        return explanation.relevance.numpy(), explanation.logits.numpy()


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
