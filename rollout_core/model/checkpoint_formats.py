"""Reads checkpoint files: parameters, architecture and, if present, parts of the spec.

Three formats are supported:

- A published `.pyth` file: a pickle whose `model_state` holds the parameters, each name prefixed
  with `model.`. It is read with `weights_only=True`, so it cannot run code.
- A Hugging Face TimeSformer: a folder with `config.json`, or an id on the hub.
- Our own: a safetensors file with the architecture and the spec in its metadata.
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
from torch import Tensor

from rollout_core.errors import CheckpointError
from rollout_core.model.timesformer import Architecture, AttentionType

HEAD_DIM = 64
"""Width of a head in every published model."""

PUBLISHED_FRAMES = 8
"""Assumed for a space-only model: its state_dict does not depend on the number of frames."""

# Raised by the readers of these formats for files that are missing, truncated or of another
# format; the hub's errors are subclasses of OSError and ValueError.
_READ_ERRORS = (OSError, EOFError, RuntimeError, ValueError, SafetensorError, UnpicklingError)

_HUB_PATTERNS = ["config.json", "preprocessor_config.json", "*.safetensors", "pytorch_model*.bin"]

_HUGGING_FACE_NAMES = (
    (r"^timesformer\.embeddings\.cls_token$", "cls_token"),
    (r"^timesformer\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^timesformer\.embeddings\.time_embeddings$", "time_embed"),
    (r"^timesformer\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^timesformer\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"^timesformer\.encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.temporal_attention\.attention\.qkv\.", ".temporal_attn.qkv."),
    (r"\.temporal_attention\.output\.dense\.", ".temporal_attn.proj."),
    (r"\.temporal_layernorm\.", ".temporal_norm1."),
    (r"\.temporal_dense\.", ".temporal_fc."),
    (r"\.attention\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)

StateDict = dict[str, Tensor]


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
        path = _fetch(source)
        if sha256 is not None:
            _require_digest(source, _weight_files(path), sha256)
        if path.is_dir():
            return _read_hugging_face(path, num_heads)
        if path.suffix == ".safetensors":
            return _read_ours(path, num_heads)
        return _read_published(path, num_heads)
    except _READ_ERRORS as error:
        raise CheckpointError(f"{source}: {error}") from error


def digest_of(files: Iterable[Path]) -> str:
    """Return the SHA-256, in hex, of the concatenated files."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _fetch(source: str | Path) -> Path:
    """Return the path of a source; a hub id is downloaded first."""
    path = Path(source)
    if path.exists():
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and path.suffix != ".safetensors":
        return Path(snapshot_download(str(source), allow_patterns=_HUB_PATTERNS))
    raise CheckpointError(f"{source} is not a file, a folder or a hub id")


def _require_digest(source: str | Path, files: Iterable[Path], sha256: str) -> None:
    found = digest_of(files)
    if found != sha256:
        raise CheckpointError(f"{source} has the SHA-256 {found}, but {sha256} is pinned")


def _weight_files(path: Path) -> tuple[Path, ...]:
    """Return the files that hold the parameters, sorted by name."""
    if not path.is_dir():
        return (path,)
    return tuple(sorted(path.glob("*.safetensors"))) or tuple(
        sorted(path.glob("pytorch_model*.bin"))
    )


def _read_published(path: Path, num_heads: int | None) -> Checkpoint:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or "model_state" not in content:
        raise CheckpointError(f"{path} has no `model_state`, so it is not a published checkpoint")
    state_dict = {
        key.removeprefix("model."): value for key, value in content["model_state"].items()
    }
    frames = re.search(r"^\s*NUM_FRAMES:\s*(\d+)", str(content.get("cfg", "")), re.MULTILINE)
    architecture = _architecture(
        state_dict, num_heads, frames=int(frames[1]) if frames else PUBLISHED_FRAMES
    )
    return Checkpoint(state_dict, (path,), architecture, {})


def _read_ours(path: Path, num_heads: int | None) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "architecture" not in metadata:
        raise CheckpointError(
            f"{path} has no architecture in its metadata; pass the folder of a Hugging Face model"
        )
    architecture = Architecture(**json.loads(metadata["architecture"]))
    if num_heads not in (None, architecture.heads):
        raise CheckpointError(f"{path} has {architecture.heads} heads, not {num_heads}")
    spec = json.loads(metadata.get("spec", "{}"))
    return Checkpoint(load_file(path), (path,), architecture, spec)


def _read_hugging_face(folder: Path, num_heads: int | None) -> Checkpoint:
    config = json.loads((folder / "config.json").read_bytes())
    if config.get("model_type") != "timesformer":
        raise CheckpointError(f"{folder} holds a {config.get('model_type')!r}, not a timesformer")
    if config.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"{folder}: activation {config['hidden_act']!r} is not supported")
    files = _weight_files(folder)
    if not files:
        raise CheckpointError(f"{folder} holds neither *.safetensors nor pytorch_model*.bin")
    state_dict: StateDict = {}
    for file in files:
        state_dict |= (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    state_dict = {_our_name(key): value for key, value in state_dict.items()}
    architecture = _architecture(
        state_dict,
        num_heads or config.get("num_attention_heads"),
        frames=config.get("num_frames", PUBLISHED_FRAMES),
        layer_norm_eps=config.get("layer_norm_eps", 1e-6),
    )
    return Checkpoint(state_dict, files, architecture, _hugging_face_spec(folder, config))


def _our_name(key: str) -> str:
    for pattern, name in _HUGGING_FACE_NAMES:
        key = re.sub(pattern, name, key)
    return key


def _hugging_face_spec(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the labels and the normalisation of a folder, as far as it has them."""
    spec: dict[str, Any] = {}
    names = {int(index): label for index, label in config.get("id2label", {}).items()}
    if names and not all(re.fullmatch(r"LABEL_\d+", label) for label in names.values()):
        spec["labels"] = tuple(names[index] for index in sorted(names))
    preprocessor = folder / "preprocessor_config.json"
    if preprocessor.is_file():
        values = json.loads(preprocessor.read_bytes())
        spec |= {
            ours: tuple(values[theirs])
            for ours, theirs in (("mean", "image_mean"), ("std", "image_std"))
            if theirs in values
        }
    return spec


def _architecture(
    state_dict: StateDict, num_heads: int | None, *, frames: int, layer_norm_eps: float = 1e-6
) -> Architecture:
    """Derive the architecture from the names and shapes of a state_dict."""
    try:
        dim, _, patch_height, patch_width = state_dict["patch_embed.proj.weight"].shape
        positions = state_dict["pos_embed"].shape[1] - 1
        classes = state_dict["head.weight"].shape[0]
        mlp_dim = state_dict["blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"not a TimeSformer classifier: {error} is missing") from error
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
