"""Reads the folder of a Hugging Face TimeSformer: its configuration and its parameters."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from rollout_core.errors import CheckpointError
from rollout_core.model.class_names import read_class_names
from rollout_core.model.json_files import read_object
from rollout_core.model.parameter_names import StateDict, first_few, rename_parameters
from rollout_core.model.pickles import load_pickle
from rollout_core.model.processors import PROCESSOR_FILES, read_processor
from rollout_core.model.timesformer import Architecture

CONFIG = "config.json"

HUB_PATTERNS = (
    CONFIG,
    *PROCESSOR_FILES,
    "adapter_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
)
"""The files of a model on the hub that are downloaded."""

_ADAPTER = re.compile(r"adapter_(config\.json|model\.(safetensors|bin))")
_SHARD = re.compile(r".*-(\d+)-of-(\d+)\.(?:safetensors|bin)", re.ASCII)

_EXACT_GELU = ("gelu", "gelu_python")

_INERT = frozenset(
    """_attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures
    attention_probs_dropout_prob chunk_size_feed_forward drop_path_rate dtype finetuning_task
    hidden_dropout_prob initializer_range is_decoder is_encoder_decoder output_attentions
    output_hidden_states return_dict task_specific_params tie_word_embeddings torch_dtype
    torchscript transformers_version use_bfloat16 use_cache
    use_return_dict""".split()  # noqa: SIM905
)
"""Settings without effect on the logits of a loaded classifier."""

_CHECKED = frozenset(
    """attention_type hidden_act hidden_size id2label image_size intermediate_size label2id
    layer_norm_eps model_type num_attention_heads num_channels num_frames num_hidden_layers
    num_labels patch_size problem_type qkv_bias quantization_config""".split()  # noqa: SIM905
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFolder:
    """The content of a folder.

    Attributes:
        config: the content of `config.json`.
        state_dict: under the names of `TimeSformer`.
    """

    path: Path
    config: Mapping[str, Any]
    state_dict: StateDict

    def check_architecture(self, found: Architecture) -> None:
        """Compare the configuration with the architecture of the parameters.

        Raises:
            CheckpointError: they differ.
        """
        expected: dict[str, Any] = {
            "attention_type": found.attention_type,
            "hidden_size": found.dim,
            "intermediate_size": found.mlp_dim,
            "num_hidden_layers": found.depth,
            "num_frames": found.frames,
            "qkv_bias": found.qkv_bias,
            "num_labels": found.classes,
            "image_size": [found.height, found.width],
            "patch_size": [found.patch_height, found.patch_width],
            "num_channels": 3,
        }
        for name, value in expected.items():
            said = self.config.get(name)
            pair = [said, said] if isinstance(value, list) and isinstance(said, int) else said
            if said is not None and pair != value:
                raise CheckpointError(
                    f"{self.path / CONFIG} says {name} is {said!r}, but the parameters have {value}"
                )

    def spec(self, classes: int) -> dict[str, Any]:
        """Return the fields of `ModelSpec` that the folder defines.

        Raises:
            CheckpointError: the labels or the processor's settings cannot be used.
        """
        labels = read_class_names(self.config, classes)
        return read_processor(self.path) | ({"labels": labels} if labels else {})


def read_folder(folder: Path) -> ModelFolder:
    """Read the configuration and the parameters of a folder.

    Raises:
        CheckpointError: the folder holds no TimeSformer that can be run here.
    """
    files = weight_files(folder)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}")
    config = read_object(folder / CONFIG)
    _check_config(folder / CONFIG, config)
    parameters: dict[str, Any] = {}
    for file in files:
        part = load_file(file) if file.suffix == ".safetensors" else load_pickle(file)
        if not isinstance(part, Mapping):
            raise CheckpointError(f"{file} holds no parameters")
        if twice := sorted(map(str, parameters.keys() & part.keys())):
            raise CheckpointError(f"{file} repeats parameters: {first_few(twice)}")
        parameters |= part
    return ModelFolder(folder, config, rename_parameters(parameters))


def adopt(theirs: Any) -> ModelFolder:
    """Return the configuration and the parameters of a model of transformers that is in memory.

    Raises:
        CheckpointError: it is no TimeSformer that can be run here.
    """
    config, name = theirs.config.to_dict(), str(theirs.config.name_or_path)
    folder = Path(name if Path(name).is_absolute() or "/" in name else f"./{name or 'model'}")
    _check_config(folder / CONFIG, config)
    return ModelFolder(folder, config, rename_parameters(theirs.state_dict()))


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that hold the parameters, sorted by name.

    Raises:
        CheckpointError: there are none, one is missing, or it is unclear which ones count.
    """
    adapters = [path.name for path in sorted(folder.iterdir()) if _ADAPTER.fullmatch(path.name)]
    for pattern, stem in (("*.safetensors", "model"), ("pytorch_model*.bin", "pytorch_model")):
        files = sorted(path for path in folder.glob(pattern) if path.name not in adapters)
        index = folder / f"{stem}{Path(pattern).suffix}.index.json"
        whole = folder / f"{stem}{Path(pattern).suffix}"
        if whole in files:
            files = [whole]
        elif index.is_file():
            files = _indexed(index)
        if files:
            _check_whole(folder, files)
            if adapters:
                log.warning("%s: the adapter is left out: %s", folder, ", ".join(adapters))
            return tuple(files)
    if adapters:
        raise CheckpointError(
            f"{folder} holds only an adapter ({', '.join(adapters)}); merge it into its model and "
            "save that"
        )
    raise CheckpointError(f"{folder} holds neither *.safetensors nor pytorch_model*.bin")


def _indexed(index: Path) -> list[Path]:
    """Return the files that an index names. They must stand beside it."""
    places = read_object(index).get("weight_map")
    if not isinstance(places, Mapping) or not places:
        raise CheckpointError(f"{index} has no weight_map")
    names = sorted({str(name) for name in places.values()})
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, which is not in its folder")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent} lacks {name}, which {index.name} names")
    return [index.parent / name for name in names]


def _check_whole(folder: Path, files: list[Path]) -> None:
    """Raise CheckpointError unless these are one file, or all shards of one set."""
    shards = [_SHARD.fullmatch(path.name) for path in files]
    if len(files) == 1 and shards[0] is None:
        return
    if not all(shards):
        names = ", ".join(path.name for path in files)
        raise CheckpointError(f"{folder} holds several files of parameters: {names}")
    counts = {int(match[2]) for match in shards if match}
    numbers = [int(match[1]) for match in shards if match]
    if len(counts) != 1 or numbers != list(range(1, max(counts) + 1)):
        raise CheckpointError(
            f"{folder} lacks parts: it has {len(files)} of {max(counts)} ({files[0].name} …)"
        )


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the configuration asks for what `TimeSformer` does not do."""
    if config.get("model_type") != "timesformer":
        raise CheckpointError(f"{path} holds a {config.get('model_type')!r}, not a timesformer")
    if config.get("hidden_act", "gelu") not in _EXACT_GELU:
        raise CheckpointError(f"{path}: activation {config['hidden_act']!r} is not supported")
    if config.get("quantization_config"):
        raise CheckpointError(f"{path}: quantized parameters are not supported")
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise CheckpointError(
            f"{path}: problem_type {config['problem_type']!r} is not supported: probabilities "
            "are a softmax over the classes"
        )
    if config.get("auto_map"):
        raise CheckpointError(f"{path} needs code of its own (auto_map), which is never run")
    for name in ("num_attention_heads", "num_frames"):
        value = config.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{path}: {name} is {value!r}, not a positive number")
    eps = config.get("layer_norm_eps", 1e-6)
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
        raise CheckpointError(f"{path}: layer_norm_eps is {eps!r}, not a small positive number")
    if unknown := sorted(key for key in config if key not in _INERT | _CHECKED and config[key]):
        log.warning("%s: unknown settings are left out: %s", path, first_few(unknown))
