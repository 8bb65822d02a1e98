"""Folders of Hugging Face models as they are found: their files and their settings."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TimesformerConfig, TimesformerForVideoClassification

from rollout_core.errors import CheckpointError
from rollout_core.model.checkpoints import load_model, open_model
from rollout_core.model.hugging_face import weight_files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that `save_pretrained` wrote."""
    folder = tmp_path_factory.mktemp("saved")
    config = TimesformerConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=3,
    )
    TimesformerForVideoClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """Return a copy of that folder, to be changed."""
    return Path(shutil.copytree(saved, tmp_path / "folder"))


def change(folder: Path, **settings: object) -> Path:
    """Change the configuration."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def split(folder: Path, shards: int, *, index: bool = True) -> list[Path]:
    """Replace the parameters by shards."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, places = sorted(state), {}
    paths = []
    for number in range(shards):
        part = names[number::shards]
        path = folder / f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: state[name] for name in part}, path)
        places |= dict.fromkeys(part, path.name)
        paths.append(path)
    if index:
        content = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return paths


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        open_model("mine", folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("index", [True, False])
def test_shards_are_joined(folder: Path, index: bool):
    expected = load_model(folder).state_dict()
    split(folder, 3, index=index)
    found = load_model(folder).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("index", [True, False])
def test_missing_shard_is_named(folder: Path, index: bool):
    paths = split(folder, 3, index=index)
    paths[1].unlink()
    message = refusal(folder)
    assert ("lacks model-00002-of-00003" if index else "it has 2 of 3") in message


@pytest.mark.parametrize("place", ["../other.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_index_reaches_no_file_outside_its_folder(folder: Path, place: str):
    split(folder, 1)
    shutil.copy(folder / "model-00001-of-00001.safetensors", folder.parent / "other.safetensors")
    content = {"weight_map": {"classifier.bias": place}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    assert "which is not in its folder" in refusal(folder)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', "[]", "{"])
def test_malformed_index_is_refused(folder: Path, content: str):
    split(folder, 1)
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal(folder)


def test_links_of_the_hubs_cache_are_followed(folder: Path, tmp_path: Path):
    for path in list(folder.iterdir()):
        blob = tmp_path / f"blob-{path.name}"
        path.rename(blob)
        path.symlink_to(blob)
    assert load_model(folder).architecture.heads == 2
    (tmp_path / "blob-model.safetensors").unlink()
    assert "No such file" in refusal(folder)


def test_other_safetensors_beside_the_model_are_left_alone(folder: Path):
    save_file({"x": torch.ones(1)}, folder / "optimizer.safetensors")
    assert [path.name for path in weight_files(folder)] == ["model.safetensors"]
    (folder / "model.safetensors").rename(folder / "best.safetensors")
    assert "several files of parameters: best.safetensors, optimizer" in refusal(folder)


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"lora_A.weight": torch.ones(1)}, folder / "adapter_model.safetensors")


def test_adapter_beside_the_model_is_left_out(folder: Path, caplog: pytest.LogCaptureFixture):
    adapter(folder)
    with caplog.at_level(logging.WARNING):
        load_model(folder)
    assert [path.name for path in weight_files(folder)] == ["model.safetensors"]
    assert "the adapter is left out: adapter_config.json, adapter_model.safetensors" in caplog.text


@pytest.mark.parametrize("with_config", [True, False])
def test_adapter_alone_is_refused(folder: Path, with_config: bool):
    adapter(folder)
    (folder / "model.safetensors").unlink()
    if not with_config:
        (folder / "config.json").unlink()
    assert "holds only an adapter" in refusal(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "holds only an adapter" in refusal(folder)


def test_folder_without_a_configuration_is_refused(folder: Path):
    (folder / "config.json").unlink()
    assert refusal(folder).endswith("has no config.json")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"attention_type": "space_only"}, "says attention_type is 'space_only'"),
        ({"num_frames": 8}, "says num_frames is 8, but the parameters have 4"),
        ({"num_frames": "4"}, "num_frames is '4'"),
        ({"image_size": 48}, r"says image_size is 48, but the parameters have \[32, 32\]"),
        ({"image_size": [32, 16]}, "says image_size is"),
        ({"patch_size": 8}, "says patch_size is 8"),
        ({"hidden_size": 32}, "says hidden_size is 32"),
        ({"intermediate_size": 32}, "says intermediate_size is 32"),
        ({"num_hidden_layers": 3}, "says num_hidden_layers is 3"),
        ({"num_channels": 1}, "says num_channels is 1"),
        ({"qkv_bias": False}, "says qkv_bias is False"),
        ({"num_labels": 5}, "says num_labels is 5, but the parameters have 3"),
        ({"id2label": {"0": "a", "4": "b"}}, "name class 4, but the model has 3 classes"),
        ({"id2label": ["a", "b", "c"]}, "id2label is a list"),
        ({"problem_type": "multi_label_classification"}, "problem_type 'multi_label"),
        ({"problem_type": "regression"}, "problem_type 'regression'"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized parameters"),
        ({"hidden_act": "quick_gelu"}, "activation 'quick_gelu'"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "code of its own"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": 5}, "does not divide into 5 heads"),
        ({"num_attention_heads": "2"}, "num_attention_heads is '2'"),
        ({"layer_norm_eps": -1}, "layer_norm_eps is -1"),
        ({"layer_norm_eps": None}, "layer_norm_eps is None"),
        ({"model_type": None}, "holds a None, not a timesformer"),
    ],
)
def test_setting_that_is_not_that_of_the_parameters_is_refused(
    folder: Path, settings: dict[str, Any], complaint: str
):
    change(folder, **settings)
    with pytest.raises(CheckpointError, match=complaint) as raised:
        open_model("mine", folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_act": "gelu_python"},
        {"image_size": [32, 32], "patch_size": [16, 16]},
        {"problem_type": None, "num_labels": 3, "torch_dtype": "bfloat16"},
        {"num_labels": None, "attention_type": None, "id2label": None, "label2id": None},
        {"future_setting": False, "other": None, "third": {}},
        {"hidden_dropout_prob": 0.5, "drop_path_rate": 0.1},
    ],
)
def test_settings_without_effect_are_accepted(
    folder: Path, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    expected = load_model(folder).state_dict()
    with caplog.at_level(logging.WARNING):
        found = load_model(change(folder, **settings)).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert caplog.messages == []


def test_unknown_setting_is_reported(folder: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        load_model(change(folder, rope_theta=10_000, relative=True))
    assert "unknown settings are left out: relative, rope_theta" in caplog.text


def test_gap_in_the_labels_is_called_by_its_number(folder: Path):
    placeholders = {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    change(folder, id2label={"0": "walk", "2": "sit"}, label2id=placeholders)
    spec = open_model("mine", folder).spec
    assert [spec.label(index) for index in range(3)] == ["walk", "class 1", "sit"]


def test_null_labels_are_no_labels(folder: Path):
    spec = open_model("mine", change(folder, id2label=None)).spec
    assert spec.labels is None
    assert spec.label(1) == "class 1"


def test_compiled_and_parallel_model_in_a_folder_is_read(folder: Path):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    wrapped = {f"module._orig_mod.{name}": value for name, value in state.items()}
    torch.save(wrapped, folder / "pytorch_model.bin")
    assert load_model(folder).architecture.heads == 2
    nested = {f"model.{name}": value for name, value in state.items()}
    torch.save(nested, folder / "pytorch_model.bin")
    assert load_model(folder).architecture.heads == 2


def test_model_without_a_head_is_refused(folder: Path):
    state = load_file(folder / "model.safetensors")
    body = {name: value for name, value in state.items() if not name.startswith("classifier")}
    save_file(body, folder / "model.safetensors")
    assert "'head.weight' is missing" in refusal(folder)


def test_file_without_parameters_is_refused(folder: Path):
    (folder / "model.safetensors").unlink()
    torch.save([1, 2], folder / "pytorch_model.bin")
    assert "holds no parameters" in refusal(folder)
