import json
import logging
from dataclasses import asdict
from hashlib import sha256
from os import mkfifo
from pathlib import Path
from pickle import dump

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import TimesformerConfig, TimesformerForVideoClassification

from rollout_core.errors import CheckpointError
from rollout_core.model.checkpoints import load_model, open_model, save_model
from rollout_core.model.specs import MOVING_THINGS, SPECS
from rollout_core.model.timesformer import TimeSformer
from tests.rollout_core.models import random_clips, random_model

REFERENCE = Path(__file__).parents[1] / "reference"
DIVIDED = REFERENCE / "tiny_divided.pyth"

SHAPES = {
    "two heads": {"hidden_size": 32, "num_attention_heads": 2, "patch_size": 8, "image_size": 32},
    "odd frames": {"num_frames": 5, "hidden_size": 24, "num_attention_heads": 3},
    "wide mlp": {"intermediate_size": 200, "num_hidden_layers": 1},
    "no qkv bias": {"qkv_bias": False, "layer_norm_eps": 1e-5},
}


def hugging_face_model(attention_type: str, **changes: object) -> TimesformerForVideoClassification:
    """Build a small Hugging Face model whose every parameter is random."""
    defaults: dict[str, object] = {
        "image_size": 24,
        "patch_size": 8,
        "num_frames": 3,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "num_labels": 6,
    }
    torch.manual_seed(0)
    config = TimesformerConfig(attention_type=attention_type, **(defaults | changes))
    model = TimesformerForVideoClassification(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def clips_for(config: TimesformerConfig) -> torch.Tensor:
    size = config.image_size
    return random_clips(t=config.num_frames, height=size, width=size)


def rewritten(tmp_path: Path, **changes: torch.Tensor | None) -> Path:
    """Copy the divided reference checkpoint; replace some parameters, or remove them (None)."""
    content = torch.load(DIVIDED, weights_only=True)
    state = content["model_state"] | {f"model.{key}": value for key, value in changes.items()}
    content["model_state"] = {key: value for key, value in state.items() if value is not None}
    path = tmp_path / "rewritten.pyth"
    torch.save(content, path)
    return path


def saved(tmp_path: Path, **changes: object) -> tuple[TimeSformer, Path]:
    """Save a random model as safetensors; return it and the path."""
    model, path = random_model(**changes), tmp_path / "model.safetensors"
    spec = MOVING_THINGS.model_copy(
        update={
            "name": "saved",
            "classes": 5,
            "labels": ("a", "b", "c", "d", "e"),
            "mean": (0.5, 0.5, 0.5),
        }
    )
    save_model(path, model, spec, dtype=torch.float32)
    return model, path


class RunsCode:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
def test_hugging_face_folder_gives_the_same_logits(
    attention_type: str, changes: dict[str, object], tmp_path: Path
):
    theirs = hugging_face_model(attention_type, **changes)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    clips = clips_for(theirs.config)
    with torch.inference_mode():
        expected = theirs(clips.transpose(1, 2)).logits
        torch.testing.assert_close(ours(clips), expected, atol=1e-5, rtol=0)
    assert ours.architecture.attention_type == attention_type
    assert ours.architecture.frames == theirs.config.num_frames


def test_hugging_face_space_only_model_gives_the_same_logits_per_frame(tmp_path: Path):
    # The Hugging Face model does not average over frames as the published code does, so clips of
    # one frame are compared.
    theirs = hugging_face_model("space_only")
    theirs.save_pretrained(tmp_path)
    clips = clips_for(theirs.config)
    with torch.inference_mode():
        expected = theirs(clips.transpose(1, 2)).logits
        frames = clips.transpose(1, 2).flatten(0, 1)[:, :, None]
        torch.testing.assert_close(load_model(tmp_path)(frames), expected, atol=1e-5, rtol=0)


def test_hugging_face_bin_file_is_read(tmp_path: Path):
    theirs = hugging_face_model("divided_space_time")
    theirs.config.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    clips = clips_for(theirs.config)
    with torch.inference_mode():
        expected = theirs(clips.transpose(1, 2)).logits
        torch.testing.assert_close(load_model(tmp_path)(clips), expected, atol=1e-5, rtol=0)


def test_hugging_face_folder_provides_labels_and_normalisation(tmp_path: Path):
    labels = {0: "a", 1: "b", 2: "c"}
    hugging_face_model("divided_space_time", num_labels=3, id2label=labels).save_pretrained(
        tmp_path
    )
    preprocessor: dict[str, object] = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    preprocessor |= {"size": 24, "crop_size": 24}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    loaded = open_model("mine", tmp_path)
    assert [loaded.spec.label(index) for index in range(4)] == ["a", "b", "c", "class 3"]
    assert loaded.spec.mean == (0.1, 0.2, 0.3)
    assert loaded.spec.std == (0.4, 0.5, 0.6)
    assert (loaded.spec.frames, loaded.spec.height) == (3, 24)


def test_placeholder_labels_are_ignored(tmp_path: Path):
    hugging_face_model("divided_space_time").save_pretrained(tmp_path)
    assert open_model("mine", tmp_path).spec.label(4) == "class 4"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model_type": "vit"}, "'vit', not a timesformer"),
        ({"hidden_act": "relu"}, "activation 'relu'"),
    ],
)
def test_other_hugging_face_models_are_refused(
    tmp_path: Path, change: dict[str, str], complaint: str
):
    hugging_face_model("divided_space_time").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=complaint):
        load_model(tmp_path)


def test_folder_without_parameters_is_refused(tmp_path: Path):
    hugging_face_model("divided_space_time").config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"neither \*\.safetensors nor pytorch_model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "attention_type"),
    [
        ("divided", "divided_space_time"),
        ("joint", "joint_space_time"),
        ("space_only", "space_only"),
    ],
)
def test_architecture_is_read_from_a_published_file(name: str, attention_type: str):
    architecture = load_model(REFERENCE / f"tiny_{name}.pyth", num_heads=4).architecture
    assert architecture.attention_type == attention_type
    assert (architecture.dim, architecture.depth, architecture.classes) == (32, 3, 7)
    assert (architecture.patch_height, architecture.patch_width, architecture.grid) == (
        8,
        8,
        (6, 6),
    )
    if attention_type != "space_only":
        assert architecture.frames == 5


def test_unknown_number_of_heads_is_refused():
    with pytest.raises(CheckpointError, match="width 32 is not a multiple of 64: pass num_heads"):
        load_model(DIVIDED)


def test_heads_must_divide_the_width():
    with pytest.raises(CheckpointError, match="32 does not divide into 5 heads"):
        load_model(DIVIDED, num_heads=5)


def test_heads_default_to_a_width_of_64(tmp_path: Path):
    # 64 is only the default for a source that does not state its number of heads.
    hugging_face_model("divided_space_time", hidden_size=64).save_pretrained(tmp_path)
    assert load_model(tmp_path).architecture.heads == 4
    config = json.loads((tmp_path / "config.json").read_text())
    del config["num_attention_heads"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_model(tmp_path).architecture.heads == 1


def test_error_names_missing_extra_and_misshapen_parameters(tmp_path: Path):
    path = rewritten(
        tmp_path,
        **{
            "norm.bias": None,
            "blocks.1.attn.extra": torch.zeros(1),
            "blocks.2.mlp.fc2.bias": torch.zeros(31),
        },
    )
    with pytest.raises(CheckpointError) as raised:
        load_model(path, num_heads=4)
    message = str(raised.value)
    assert "missing: norm.bias" in message
    assert "extra: blocks.1.attn.extra" in message
    assert "misshapen: blocks.2.mlp.fc2.bias [31] for [32]" in message


def test_error_counts_further_missing_parameters(tmp_path: Path):
    names = torch.load(DIVIDED, weights_only=True)["model_state"]
    removed = {key.removeprefix("model."): None for key in names if "norm1." in key}
    with pytest.raises(CheckpointError, match="and 6 more"):
        load_model(rewritten(tmp_path, **removed), num_heads=4)


def test_position_grid_that_is_not_square_is_refused(tmp_path: Path):
    path = rewritten(tmp_path, pos_embed=torch.zeros(1, 36, 32))
    with pytest.raises(CheckpointError, match="35 position embeddings do not form a square"):
        load_model(path, num_heads=4)


def test_file_without_a_model_is_refused(tmp_path: Path):
    torch.save({"epoch": 3}, tmp_path / "other.pyth")
    with pytest.raises(CheckpointError, match="no state_dict of a TimeSformer"):
        load_model(tmp_path / "other.pyth")
    torch.save({"model_state": {"fc.weight": torch.zeros(2, 2)}}, tmp_path / "linear.pyth")
    with pytest.raises(CheckpointError, match="no state_dict of a TimeSformer"):
        load_model(tmp_path / "linear.pyth")


def test_pickles_cannot_run_code(tmp_path: Path):
    torch.save({"model_state": {}, "cfg": RunsCode()}, tmp_path / "evil.pyth")
    with (tmp_path / "legacy.pyth").open("wb") as file:
        dump(RunsCode(), file, protocol=2)
    for name in ("evil.pyth", "legacy.pyth"):
        with pytest.raises(CheckpointError):
            load_model(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all"])
@pytest.mark.parametrize("name", ["broken.pyth", "broken.safetensors"])
def test_broken_file_is_refused(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="broken"):
        load_model(tmp_path / name)


def test_hub_download_is_limited_to_the_needed_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hugging_face_model("divided_space_time").save_pretrained(tmp_path)
    asked: dict[str, object] = {}

    def fetch(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.update(repo_id=repo_id, allow_patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("rollout_core.model.checkpoint_formats.snapshot_download", fetch)
    assert load_model("hf://somebody/timesformer-base").architecture.heads == 4
    assert asked["repo_id"] == "somebody/timesformer-base"
    assert "config.json" in asked["allow_patterns"]
    assert not any("msgpack" in pattern or pattern == "*" for pattern in asked["allow_patterns"])


def test_unreachable_hub_is_a_checkpoint_error(monkeypatch: pytest.MonkeyPatch):
    def fetch(*_: object, **__: object) -> str:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr("rollout_core.model.checkpoint_formats.snapshot_download", fetch)
    with pytest.raises(
        CheckpointError, match=r"somebody/model: no such model of the hub: no route"
    ):
        load_model("hf://somebody/model")


@pytest.mark.parametrize(
    "source",
    [
        "/does/not/exist",
        "./models/k400",
        "~/model",
        "k400",
        "k400.pyth",
        "models/k400.pyth",
        "models/k400.safetensors",
        "tests/k400",
        "a/b/c",
        "models/best",
        "hf:/somebody/model",
    ],
)
def test_misspelt_path_is_no_such_file(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def fetch(*_: object, **__: object) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("rollout_core.model.checkpoint_formats.snapshot_download", fetch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    with pytest.raises(
        CheckpointError,
        match=r"no such file or folder(; for a model of the hub write hf://models/best)?$",
    ):
        load_model(source)


def test_path_object_is_never_an_id_of_the_hub():
    with pytest.raises(CheckpointError, match="hf:/somebody/model: no such file or folder"):
        load_model(Path("hf://somebody/model"))


@pytest.mark.parametrize("source", ["hf://", "hf://k400", "hf://a/b/c", "hf://../k400"])
def test_malformed_id_of_the_hub_is_refused(source: str):
    with pytest.raises(CheckpointError, match="is not hf://OWNER/NAME"):
        load_model(source)


def test_source_that_is_no_file_is_refused(tmp_path: Path):
    mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe is neither a file nor a folder"):
        load_model(tmp_path / "pipe")


def test_message_of_the_hub_is_cut_to_one_line(monkeypatch: pytest.MonkeyPatch):
    def fetch(*_: object, **__: object) -> str:
        raise OSError("cannot connect\nAn error happened; please check")

    monkeypatch.setattr("rollout_core.model.checkpoint_formats.snapshot_download", fetch)
    with pytest.raises(CheckpointError, match=r"hub: cannot connect$"):
        load_model("hf://somebody/model")


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time", "space_only"])
def test_saved_model_is_loaded_unchanged(tmp_path: Path, attention_type: str):
    model, path = saved(tmp_path, attention_type=attention_type)
    loaded = load_model(path)
    assert loaded.architecture == model.architecture
    torch.testing.assert_close(loaded(random_clips()), model(random_clips()))


def test_saved_model_includes_its_spec(tmp_path: Path):
    _, path = saved(tmp_path)
    spec = open_model("another-name", path).spec
    assert (spec.name, spec.label(1), spec.mean) == ("another-name", "b", (0.5, 0.5, 0.5))


def test_contradicting_number_of_heads_is_refused(tmp_path: Path):
    _, path = saved(tmp_path)
    with pytest.raises(CheckpointError, match="has 2 heads, not 4"):
        load_model(path, num_heads=4)


def test_bare_safetensors_are_a_state_dict(tmp_path: Path):
    state = torch.load(DIVIDED, weights_only=True)["model_state"]
    save_file(state, tmp_path / "bare.safetensors")
    clips = random_clips(height=48, width=48)
    expected = load_model(DIVIDED, num_heads=4)(clips)
    found = load_model(tmp_path / "bare.safetensors", num_heads=4)(clips)
    torch.testing.assert_close(found, expected)


def test_weights_of_a_hugging_face_folder_are_refused_alone(tmp_path: Path):
    hugging_face_model("divided_space_time").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"belongs to a config\.json: pass its folder"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ({"architecture": "{"}, "malformed metadata"),
        ({"architecture": "[1]"}, "malformed metadata"),
        ({"architecture": '{"depths": 3}'}, "malformed metadata"),
        ({"spec": "3"}, "malformed metadata"),
        ({"spec": '{"labels": ["a", "b", "c", "d", "e", "f"]}'}, "6 labels for 5 classes"),
        ({"spec": '{"labels": {"0": "a"}}'}, "spec of mine is invalid: labels: "),
        ({"spec": '{"labels": [1, 2]}'}, "spec of mine is invalid: labels"),
        ({"spec": '{"mean": [0.5]}'}, "spec of mine is invalid: mean"),
        ({"spec": '{"gamma": 2.2}'}, "spec of mine is invalid: gamma"),
    ],
)
def test_malformed_metadata_is_refused(tmp_path: Path, metadata: dict[str, str], complaint: str):
    _, path = saved(tmp_path)
    with safe_open(path, framework="pt") as file:
        stored = file.metadata()
    save_file(load_file(path), tmp_path / "x.safetensors", metadata=stored | metadata)
    with pytest.raises(CheckpointError, match=complaint) as raised:
        open_model("mine", tmp_path / "x.safetensors")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_parameters_that_are_not_finite_are_refused(tmp_path: Path, value: float):
    broken = torch.zeros(32)
    broken[7] = value
    path = rewritten(tmp_path, **{"norm.bias": broken, "blocks.1.norm2.bias": broken})
    with pytest.raises(CheckpointError, match=r"NaN or infinity .* blocks\.1\.norm2\.bias, norm"):
        load_model(path, num_heads=4)


def test_parameter_too_large_for_the_number_format_is_refused(tmp_path: Path):
    large = torch.full((32,), 1e200, dtype=torch.float64)
    with pytest.raises(CheckpointError, match=r"NaN or infinity in the parameters norm\.bias"):
        load_model(rewritten(tmp_path, **{"norm.bias": large}), num_heads=4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_parameters_of_any_width_are_loaded(tmp_path: Path, dtype: torch.dtype):
    path = rewritten(tmp_path, **{"norm.bias": torch.ones(32, dtype=dtype)})
    assert load_model(path, num_heads=4).norm.bias.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int64])
def test_quantized_parameters_are_refused(tmp_path: Path, dtype: torch.dtype):
    path = rewritten(tmp_path, **{"norm.bias": torch.ones(32).to(dtype)})
    with pytest.raises(CheckpointError, match=f"quantized .* not supported: {str(dtype)[6:]}"):
        load_model(path, num_heads=4)


def test_parameters_without_values_are_refused(tmp_path: Path):
    for value in (torch.eye(32).to_sparse(), torch.empty(32, 32, device="meta")):
        path = rewritten(tmp_path, **{"blocks.0.attn.proj.weight": value})
        with pytest.raises(CheckpointError, match=r"sparse or empty .*: blocks\.0\.attn\.proj\.w"):
            load_model(path, num_heads=4)


def test_published_configuration_sets_the_normalisation(tmp_path: Path):
    model = random_model(height=16, width=16, patch_width=8, dim=64, heads=1)
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    cfg = "DATA:\n  MEAN: [0.1, 0.2, 0.3]\n  STD: [0.4, 0.5, 0.6]\n"
    torch.save({"model_state": state, "cfg": cfg}, tmp_path / "x.pyth")
    spec = open_model("mine", tmp_path / "x.pyth").spec
    assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_unknown_normalisation_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    hugging_face_model("divided_space_time").save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        open_model("mine", tmp_path)
    assert "mine: the checkpoint states no mean and deviation of pixels" in caplog.text


def test_known_name_with_another_clip_than_the_checkpoint_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    hugging_face_model("divided_space_time", num_labels=174).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        open_model("timesformer-ssv2", tmp_path)
    assert "(8, 224, 224), but the checkpoint was trained with (3, 24, 24)" in caplog.text


def test_labels_of_the_checkpoint_count_before_those_of_a_known_name(tmp_path: Path):
    labels = {index: f"mine {index}" for index in range(174)}
    hugging_face_model("divided_space_time", num_labels=174, id2label=labels).save_pretrained(
        tmp_path
    )
    assert open_model("timesformer-ssv2", tmp_path).spec.label(3) == "mine 3"


def test_half_precision_file_is_loaded_as_float32_by_default(tmp_path: Path):
    path = tmp_path / "half.safetensors"
    save_model(path, random_model(), MOVING_THINGS)
    assert {p.dtype for p in load_model(path).parameters()} == {torch.float32}
    assert {p.dtype for p in load_model(path, dtype=torch.bfloat16).parameters()} == {
        torch.bfloat16
    }


def test_loaded_model_is_in_evaluation_mode():
    model = load_model(DIVIDED, num_heads=4)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_known_spec_with_another_number_of_classes_is_refused(tmp_path: Path):
    _, path = saved(tmp_path)
    with pytest.raises(CheckpointError, match="has 5 classes, but timesformer-k400 has 400"):
        open_model("timesformer-k400", path)


def test_known_spec_takes_its_architecture_from_the_parameters(tmp_path: Path):
    hugging_face_model("joint_space_time", num_labels=174).save_pretrained(tmp_path)
    architecture = {
        "attention_type": "joint_space_time",
        "patch_height": 8,
        "patch_width": 8,
        "depth": 2,
    }
    expected = SPECS["timesformer-ssv2"].model_copy(update=architecture)
    assert open_model("timesformer-ssv2", tmp_path).spec == expected


def test_built_in_model_has_its_known_spec():
    assert open_model("moving-things").spec == MOVING_THINGS


def test_spec_of_a_checkpoint_takes_its_architecture_from_the_parameters(tmp_path: Path):
    _, path = saved(tmp_path, attention_type="joint_space_time", depth=2)
    spec = open_model("mine", path).spec
    assert (spec.attention_type, spec.depth) == ("joint_space_time", 2)
    assert (spec.patch_height, spec.patch_width) == (8, 4)
    assert spec.grid == (8, 14, 28)


def test_input_size_that_the_patches_do_not_fill_is_refused(tmp_path: Path):
    hugging_face_model("divided_space_time", num_labels=174, patch_size=12).save_pretrained(
        tmp_path
    )
    with pytest.raises(CheckpointError, match="224×224 pixels, which patches of 12×12 do not fill"):
        open_model("timesformer-ssv2", tmp_path)


def test_known_model_without_label_file_takes_the_labels_of_the_folder(tmp_path: Path):
    labels = {index: f"action {index}" for index in range(600)}
    hugging_face_model("divided_space_time", num_labels=600, id2label=labels).save_pretrained(
        tmp_path
    )
    spec = open_model("timesformer-k600", tmp_path).spec
    assert spec.label(7) == "action 7"
    assert (spec.stride, spec.top1) == (32, 79.1)


def test_published_model_needs_a_checkpoint():
    with pytest.raises(CheckpointError, match="timesformer-k400 needs a checkpoint"):
        open_model("timesformer-k400")


def test_digest_is_that_of_the_file(tmp_path: Path):
    _, path = saved(tmp_path)
    assert open_model("x", path).sha256 == sha256(path.read_bytes()).hexdigest()


def test_only_the_pinned_checkpoint_is_loaded(tmp_path: Path):
    _, path = saved(tmp_path)
    digest = sha256(path.read_bytes()).hexdigest()
    assert open_model("x", path, sha256=digest).sha256 == digest
    path.write_bytes(path.read_bytes() + b" ")
    other = sha256(path.read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match=f"the SHA-256 {other}, but {digest} is pinned"):
        open_model("x", path, sha256=digest)


def test_checkpoint_with_another_digest_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def parse(*_: object, **__: object) -> None:
        raise AssertionError("parsed")

    hugging_face_model("divided_space_time").save_pretrained(tmp_path / "folder")
    monkeypatch.setattr(torch, "load", parse)
    for module in ("checkpoint_formats", "hugging_face"):
        monkeypatch.setattr(f"rollout_core.model.{module}.load_file", parse)
    for source in (DIVIDED, tmp_path / "folder"):
        with pytest.raises(CheckpointError, match="is pinned"):
            open_model("x", source, sha256="0" * 64)


def test_metadata_holds_the_architecture(tmp_path: Path):
    model, path = saved(tmp_path)
    with safe_open(path, framework="pt") as file:
        stored = json.loads(file.metadata()["architecture"])
    assert stored == asdict(model.architecture)
