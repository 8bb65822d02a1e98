"""Load checkpoints as models that are ready to run, and save models."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from rollout_core.errors import CheckpointError
from rollout_core.model.checkpoint_formats import (
    Checkpoint,
    digest_of,
    digest_of_parameters,
    find_source,
    read_checkpoint,
    read_transformers_model,
)
from rollout_core.model.input_settings import InputSettings, read_settings_beside
from rollout_core.model.parameter_names import first_few
from rollout_core.model.specs import MOVING_THINGS, SAMPLING_RATE_HZ, SPECS, ModelSpec
from rollout_core.model.timesformer import TimeSformer

MOVING_THINGS_PATH = Path(__file__).parents[1] / "demo" / "moving-things.safetensors"

FLOATING_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Number formats of parameters. Others are those of quantized models, whose scales are not read."""

INPUT_FIELDS = (
    "labels",
    "mean",
    "std",
    "channel_order",
    "height",
    "width",
    "crop_share",
    "stretch",
    "resample",
)
"""Fields of a spec in which the checkpoint counts before the known name."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run, its spec, and the SHA-256 of its weight files."""

    model: TimeSformer
    spec: ModelSpec
    sha256: str


def load_model(
    source: str | Path,
    *,
    num_heads: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> TimeSformer:
    """Load a model in evaluation mode, without gradients.

    Args:
        source: a file that `torch.save` wrote, a Hugging Face folder or hub id, or a safetensors
            file.
        num_heads: required if the source does not state it and its width is not a multiple of 64.
        dtype: of the parameters; default float32.
    Raises:
        CheckpointError: the source cannot be read, its parameters do not fit the model, or the
            number of heads is unknown.
    """
    return _build(read_checkpoint(source, num_heads), device, dtype)


def open_model(
    name: str,
    source: str | Path | None = None,
    *,
    sha256: str | None = None,
    settings: InputSettings | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> LoadedModel:
    """Load a model with its spec: from `SPECS` if it has `name`, otherwise from the source.

    Attention type, patch size and depth always come from the source.

    Args:
        source: as for `load_model`; optional for "moving-things", which is built in.
        sha256: the expected `LoadedModel.sha256`; a source with another digest is not parsed.
        settings: what is known of the input and the classes. They count more than those in a file
            beside the source, which count more than the source; see `input_settings`.
    Raises:
        CheckpointError: as for `load_model`; or the digest differs; or the spec has another
            number of classes than the source, or an input size that the patches do not fill.
    """
    if source is None:
        if name != MOVING_THINGS.name:
            raise CheckpointError(f"{name} needs a checkpoint: {name}=PATH")
        source = MOVING_THINGS_PATH
    path = find_source(source)
    settings = (settings or InputSettings()).over(read_settings_beside(path))
    checkpoint = read_checkpoint(path, settings.heads, sha256=sha256)
    spec = _spec(name, checkpoint, settings)
    if spec.classes != checkpoint.architecture.classes:
        raise CheckpointError(
            f"{source} has {checkpoint.architecture.classes} classes, but {name} has {spec.classes}"
        )
    if spec.height % spec.patch_height or spec.width % spec.patch_width:
        raise CheckpointError(
            f"{name} expects {spec.width}×{spec.height} pixels, which patches of "
            f"{spec.patch_width}×{spec.patch_height} do not fill"
        )
    return LoadedModel(
        model=_build(checkpoint, device, dtype), spec=spec, sha256=digest_of(checkpoint.files)
    )


def load_named(
    text: str,
    device: torch.device | str = "cpu",
    settings: InputSettings | None = None,
    dtype: torch.dtype | None = None,
) -> LoadedModel:
    """Load the model that a user names: NAME, NAME=CHECKPOINT, or CHECKPOINT alone.

    Args:
        dtype: of the parameters; default float32.
    Raises:
        CheckpointError: as for `open_model`.
    """
    name, separator, checkpoint = text.partition("=")
    is_named = (separator or name in SPECS) and not Path(text).expanduser().exists()
    source: str | None = checkpoint or None
    if not is_named:
        name, source = model_name(text), text
    return open_model(name, source, settings=settings, device=device, dtype=dtype)


def adopt_model(
    theirs: Any,
    *,
    settings: InputSettings | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> LoadedModel:
    """Copy a `TimesformerForVideoClassification` of transformers.

    Its processor is not a part of it. If it was loaded from a folder, the settings of the processor
    are read from there.

    Args:
        settings: as for `open_model`.
    Returns:
        The copy. `sha256` is that of the names and bytes of the parameters, sorted by name.
    Raises:
        CheckpointError: it has settings that `TimeSformer` does not support.
    """
    checkpoint = read_transformers_model(theirs)
    name = model_name(str(theirs.config.name_or_path))
    spec = _spec(name, checkpoint, settings or InputSettings())
    digest = digest_of_parameters(checkpoint.state_dict)
    return LoadedModel(model=_build(checkpoint, device, dtype), spec=spec, sha256=digest)


def model_name(source: str) -> str:
    """Return a valid name for the model of a path or hub id: its last part, in lower case."""
    words = re.sub(r"[^a-z0-9._-]+", "-", Path(source).stem.lower())
    return words.strip("._-")[:64] or "model"


def save_model(
    path: Path, model: TimeSformer, spec: ModelSpec, *, dtype: torch.dtype = torch.float16
) -> None:
    """Write `model` as a safetensors file with its architecture and spec in the metadata."""
    state_dict = {
        name: tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    metadata = {
        "architecture": json.dumps(asdict(model.architecture)),
        "spec": spec.model_dump_json(),
    }
    save_file(state_dict, path, metadata=metadata)


def _build(
    checkpoint: Checkpoint, device: torch.device | str, dtype: torch.dtype | None
) -> TimeSformer:
    with torch.device("meta"):
        model = TimeSformer(checkpoint.architecture)
    _check_keys(expected=model.state_dict(), found=checkpoint.state_dict)
    _check_types(checkpoint.state_dict)
    parameters = {
        key: value.to("cpu", dtype or torch.float32) for key, value in checkpoint.state_dict.items()
    }
    _check_finite(parameters)
    model.load_state_dict({key: part.to(device) for key, part in parameters.items()}, assign=True)
    return model.requires_grad_(False).eval()


def _check_keys(*, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing = expected.keys() - found.keys()
    extra = found.keys() - expected.keys()
    misshapen = [
        f"{key} {list(found[key].shape)} for {list(expected[key].shape)}"
        for key in sorted(expected.keys() & found.keys())
        if found[key].shape != expected[key].shape
    ]
    complaints = [
        f"{kind}: {first_few(keys)}"
        for kind, keys in (
            ("missing", sorted(missing)),
            ("extra", sorted(extra)),
            ("misshapen", misshapen),
        )
        if keys
    ]
    if complaints:
        raise CheckpointError(f"the parameters do not fit the model; {'; '.join(complaints)}")


def _check_types(parameters: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if parameters are quantized, sparse, or without values."""
    if unread := sorted(
        key for key, value in parameters.items() if value.is_meta or value.layout != torch.strided
    ):
        raise CheckpointError(f"sparse or empty parameters: {first_few(unread)}")
    others = {
        str(value.dtype).removeprefix("torch.")
        for value in parameters.values()
        if value.dtype not in FLOATING_TYPES
    }
    if others:
        raise CheckpointError(
            f"quantized parameters are not supported: {', '.join(sorted(others))}"
        )


def _check_finite(parameters: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if a parameter holds NaN or infinity."""
    if broken := sorted(key for key, value in parameters.items() if not value.isfinite().all()):
        raise CheckpointError(f"NaN or infinity in the parameters {first_few(broken)}")


def _spec(name: str, checkpoint: Checkpoint, settings: InputSettings) -> ModelSpec:
    """Return the spec of a model: as the checkpoint or its name says, changed by the settings."""
    own = _own_spec(name, checkpoint)
    spec = _validated(name, settings.apply(own))
    if name not in SPECS and settings.mean is None and "mean" not in checkpoint.spec:
        log.warning(
            "%s: the checkpoint states no mean and deviation of pixels; %s and %s are assumed",
            name,
            spec.mean,
            spec.std,
        )
    return spec


def _own_spec(name: str, checkpoint: Checkpoint) -> ModelSpec:
    """Return the spec in `SPECS` for `name`, or else one made from the checkpoint's metadata.

    The architecture read from the parameters overrides both.
    """
    a = checkpoint.architecture
    structure = {
        "attention_type": a.attention_type,
        "patch_height": a.patch_height,
        "patch_width": a.patch_width,
        "depth": a.depth,
    }
    if (known := SPECS.get(name)) is not None:
        own = {field: checkpoint.spec[field] for field in INPUT_FIELDS if field in checkpoint.spec}
        spec = _validated(name, known.model_dump() | own | structure)
        _warn_of_differences(known, spec, checkpoint)
        return spec
    own = {
        "frames": a.frames,
        "sampling": "uniform",
        "clip_seconds": a.frames * ModelSpec.model_fields["stride"].default / SAMPLING_RATE_HZ,
        "height": a.height,
        "width": a.width,
        "classes": a.classes,
        "licence": "unknown",
    }
    return _validated(name, own | dict(checkpoint.spec) | structure)


def _validated(name: str, fields: Mapping[str, Any]) -> ModelSpec:
    try:
        return ModelSpec.model_validate({**fields, "name": name})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"the spec of {name} is invalid: {place}: {first['msg']}") from error


def _warn_of_differences(known: ModelSpec, spec: ModelSpec, checkpoint: Checkpoint) -> None:
    """Log in which fields the checkpoint overrides a known name, or was trained otherwise."""
    for field in INPUT_FIELDS:
        if field != "labels" and getattr(known, field) != getattr(spec, field):
            log.warning(
                "%s: the checkpoint sets %s to %s, not %s",
                spec.name,
                field,
                getattr(spec, field),
                getattr(known, field),
            )
    a = checkpoint.architecture
    trained, expected = (a.frames, a.height, a.width), (spec.frames, spec.height, spec.width)
    if trained != expected:
        log.warning(
            "%s: clips have the shape %s, but the checkpoint was trained with %s (frames, height, "
            "width)",
            spec.name,
            expected,
            trained,
        )
