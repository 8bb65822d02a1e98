"""Reads checkpoint files: parameters, architecture and, if present, parts of the spec.

Three formats are supported:

- A file that `torch.save` wrote: by the published code (`.pyth`), by mmaction2, by Lightning or by
  another training program, or a bare state_dict. See `pickles` and `parameter_names`.
- A Hugging Face TimeSformer: a folder with `config.json`, or `hf://` and an id on the hub. See
  `hugging_face`.
- A safetensors file: our own, with the architecture and the spec in its metadata, or bare.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from rollout_core.errors import CheckpointError
from rollout_core.model.devices import first_line
from rollout_core.model.hugging_face import (
    CONFIG,
    HUB_PATTERNS,
    ModelFolder,
    adopt,
    read_folder,
    weight_files,
)
from rollout_core.model.parameter_names import StateDict, is_mmaction, rename_parameters
from rollout_core.model.pickles import find_parameters, load_pickle
from rollout_core.model.timesformer import Architecture, AttentionType
from rollout_core.model.training_configs import mmaction_input, published_frames, published_input

HEAD_DIM = 64
"""Width of a head in every published model."""

PUBLISHED_FRAMES = 8
"""Assumed for a space-only model: its state_dict does not depend on the number of frames."""

# Raised by the readers of these formats for files that are missing, truncated or of another
# format; the hub's errors are subclasses of OSError and ValueError.
_READ_ERRORS = (OSError, EOFError, RuntimeError, ValueError, SafetensorError, UnpicklingError)

HUB_PREFIX = "hf://"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILE_SUFFIXES = frozenset(
    (".bin", ".ckpt", ".json", ".pt", ".pth", ".pyth", ".safetensors", ".tar")
)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a source.

    Attributes:
        state_dict: the parameters, under the names of `TimeSformer`.
        files: the files that the parameters were read from.
        architecture: derived from the parameters' shapes and the source's configuration.
        spec: fields of `ModelSpec` that the source defines; may be empty.
    """

    state_dict: StateDict
    files: tuple[Path, ...]
    architecture: Architecture
    spec: Mapping[str, Any]


def read_checkpoint(
    source: str | Path, num_heads: int | None = None, *, sha256: str | None = None
) -> Checkpoint:
    """Read a source: a file, a folder or a hub id, as for `checkpoints.load_model`.

    Args:
        sha256: expected digest of the weight files, see `digest_of`. It is checked before
            anything is parsed.
    Raises:
        CheckpointError: the source cannot be read, its digest differs, or its architecture
            cannot be determined.
    """
    try:
        path = find_source(source)
        if sha256 is not None:
            _require_digest(source, weight_files(path) if path.is_dir() else (path,), sha256)
        if path.is_dir():
            return _read_hugging_face(path, num_heads)
        if not path.is_file():
            raise CheckpointError(f"{source} is neither a file nor a folder")
        if path.suffix == ".safetensors":
            return _read_safetensors(path, num_heads)
        return _read_pickle(path, num_heads)
    except CheckpointError as error:
        message = str(error)
        raise CheckpointError(
            message if str(source) in message else f"{source}: {message}"
        ) from error
    except _READ_ERRORS as error:
        raise CheckpointError(f"{source}: {first_line(error)}") from error


def digest_of(files: Iterable[Path]) -> str:
    """Return the SHA-256, in hex, of the concatenated files."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def digest_of_parameters(state_dict: StateDict) -> str:
    """Return the SHA-256, in hex, of the names and bytes of parameters, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        part = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{part.dtype}\0{tuple(part.shape)}\0".encode())
        digest.update(part.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def find_source(source: str | Path) -> Path:
    """Return the path of a source; a model of the hub is downloaded first.

    Raises:
        CheckpointError: there is no such file or folder, or no such model of the hub. Only a text
            that begins with `hf://` is looked up there.
    """
    text = str(source)
    if isinstance(source, str) and text.startswith(HUB_PREFIX):
        return _download(text)
    path = Path(source).expanduser()
    if path.exists():
        return path
    is_path = path.suffix in _FILE_SUFFIXES or (path.parent.is_dir() and path.parent != Path())
    may_be_id = isinstance(source, str) and _HUB_ID.fullmatch(text) and not is_path
    hint = f"; for a model of the hub write {HUB_PREFIX}{text}" if may_be_id else ""
    raise CheckpointError(f"{source}: no such file or folder{hint}")


def _download(source: str) -> Path:
    name = source.removeprefix(HUB_PREFIX)
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"{source} is not {HUB_PREFIX}OWNER/NAME")
    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_PATTERNS)))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source}: no such model of the hub: {first_line(error)}") from error


def _require_digest(source: str | Path, files: Iterable[Path], sha256: str) -> None:
    found = digest_of(files)
    if found != sha256:
        raise CheckpointError(f"{source} has the SHA-256 {found}, but {sha256} is pinned")


def _read_pickle(path: Path, num_heads: int | None) -> Checkpoint:
    content = load_pickle(path)
    parameters = find_parameters(path, content)
    state_dict = rename_parameters(parameters)
    frames = published_frames(content, PUBLISHED_FRAMES)
    spec = mmaction_input(content) if is_mmaction(parameters) else published_input(content)
    return Checkpoint(
        state_dict, (path,), _architecture(state_dict, num_heads, frames=frames), spec
    )


def _read_safetensors(path: Path, num_heads: int | None) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "architecture" not in metadata:
        if (path.parent / CONFIG).is_file():
            raise CheckpointError(f"{path} belongs to a {CONFIG}: pass its folder, {path.parent}")
        parameters = load_file(path)
        state_dict = rename_parameters(parameters)
        spec = mmaction_input({}) if is_mmaction(parameters) else {}
        architecture = _architecture(state_dict, num_heads, frames=PUBLISHED_FRAMES)
        return Checkpoint(state_dict, (path,), architecture, spec)
    try:
        architecture = Architecture(**json.loads(metadata["architecture"]))
        spec = dict(json.loads(metadata.get("spec", "{}")))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has malformed metadata: {first_line(error)}") from error
    if num_heads not in (None, architecture.heads):
        raise CheckpointError(f"{path} has {architecture.heads} heads, not {num_heads}")
    return Checkpoint(load_file(path), (path,), architecture, spec)


def _read_hugging_face(path: Path, num_heads: int | None) -> Checkpoint:
    return _of_hugging_face(read_folder(path), weight_files(path), num_heads)


def _of_hugging_face(
    folder: ModelFolder, files: tuple[Path, ...], num_heads: int | None
) -> Checkpoint:
    config = folder.config
    architecture = _architecture(
        folder.state_dict,
        num_heads or config.get("num_attention_heads"),
        frames=config.get("num_frames", PUBLISHED_FRAMES),
        layer_norm_eps=config.get("layer_norm_eps", 1e-6),
    )
    folder.check_architecture(architecture)
    return Checkpoint(folder.state_dict, files, architecture, folder.spec(architecture.classes))


def read_transformers_model(theirs: Any) -> Checkpoint:
    """Read a `TimesformerForVideoClassification` of transformers that is in memory.

    Raises:
        CheckpointError: it has settings that `TimeSformer` does not support.
    """
    return _of_hugging_face(adopt(theirs), (), None)


def _architecture(
    state_dict: StateDict, num_heads: int | None, *, frames: int, layer_norm_eps: float = 1e-6
) -> Architecture:
    """Derive the architecture from the names and shapes of a state_dict."""
    try:
        dim, _, patch_height, patch_width = state_dict["patch_embed.proj.weight"].shape
        positions = state_dict["pos_embed"].shape[1] - 1
        classes = state_dict["head.weight"].shape[0]
        mlp_dim = state_dict["blocks.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"not a TimeSformer classifier: {error} is missing") from error
    except (ValueError, IndexError) as error:
        raise CheckpointError("not a TimeSformer classifier: parameters are misshapen") from error
    side = isqrt(positions)
    if side**2 != positions:
        raise CheckpointError(f"the {positions} position embeddings do not form a square grid")
    attention_type: AttentionType = "space_only"
    if "time_embed" in state_dict:
        frames = state_dict["time_embed"].shape[1]
        divided = any(".temporal_attn." in key for key in state_dict)
        attention_type = "divided_space_time" if divided else "joint_space_time"
    numbers = [int(match[1]) for key in state_dict if (match := re.match(r"blocks\.(\d+)\.", key))]
    return Architecture(
        attention_type=attention_type,
        frames=frames,
        height=side * patch_height,
        width=side * patch_width,
        patch_height=patch_height,
        patch_width=patch_width,
        dim=dim,
        mlp_dim=mlp_dim,
        depth=max(numbers) + 1,
        heads=_heads(dim, num_heads),
        classes=classes,
        qkv_bias="blocks.0.attn.qkv.bias" in state_dict,
        layer_norm_eps=layer_norm_eps,
    )


def _heads(dim: int, num_heads: int | None) -> int:
    """Return the number of heads for a width of `dim`; the shapes do not determine it."""
    if num_heads is None:
        if dim % HEAD_DIM:
            raise CheckpointError(
                f"the checkpoint does not state its number of heads, and its width {dim} is not a "
                f"multiple of {HEAD_DIM}: pass num_heads"
            )
        return dim // HEAD_DIM
    if num_heads < 1 or dim % num_heads:
        raise CheckpointError(f"a width of {dim} does not divide into {num_heads} heads")
    return num_heads
