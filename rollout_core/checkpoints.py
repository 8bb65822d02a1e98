"""Checkpoint files and TimeSformer models."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rollout_core.specs import ModelSpec
from rollout_core.timesformer import TimeSformer


def save_model(
    path: Path, model: TimeSformer, spec: ModelSpec, *, dtype: torch.dtype = torch.float16
) -> None:
    """Write `model` as safetensors, with its architecture and its spec in the metadata."""
    state_dict: dict[str, Tensor] = {
        name: tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    metadata = {
        "architecture": json.dumps(asdict(model.architecture)),
        "spec": spec.model_dump_json(exclude_defaults=True),
    }
    save_file(state_dict, path, metadata=metadata)
