"""Settings of a checkpoint's input: from flags, from the file beside it, and their order."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollout_core.errors import CheckpointError
from rollout_core.model.checkpoints import load_named, open_model
from rollout_core.model.input_settings import InputFlags, InputSettings, read_settings_beside

REFERENCE = Path(__file__).parents[1] / "reference"
SEVEN = ("a", "b", "c", "d", "e", "f", "g")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint that states neither its heads nor anything of its input, with 7 classes."""
    return Path(shutil.copy(REFERENCE / "tiny_divided.pyth", tmp_path / "best.pyth"))


def write_beside(checkpoint: Path, **fields: Any) -> Path:
    path = checkpoint.with_name("best.rollout.json")
    path.write_text(json.dumps({"heads": 4} | fields))
    return path


def test_file_beside_a_checkpoint_completes_it(checkpoint: Path):
    write_beside(
        checkpoint,
        labels=SEVEN,
        mean=[0.1, 0.2, 0.3],
        std=[0.4, 0.5, 0.6],
        channel_order="BGR",
        stride=6,
    )
    spec = open_model("mine", checkpoint).spec
    assert [spec.label(index) for index in range(7)] == list(SEVEN)
    assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert spec.channel_order == "BGR"
    assert (spec.sampling, spec.stride, spec.clip_seconds) == ("strided", 6, 5 * 6 / 30)


def test_labels_may_be_in_a_text_file_beside_the_settings(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    (checkpoint.parent / "names.txt").write_text("\n".join(SEVEN))
    write_beside(checkpoint, labels="names.txt")
    monkeypatch.chdir(checkpoint.parent.parent)
    assert open_model("mine", checkpoint).spec.label(6) == "g"


def test_settings_of_the_caller_count_more_than_the_file(checkpoint: Path):
    write_beside(checkpoint, mean=[0.1] * 3, std=[0.2] * 3)
    settings = InputSettings(mean=(0.5, 0.5, 0.5))
    spec = open_model("mine", checkpoint, settings=settings).spec
    assert (spec.mean, spec.std) == ((0.5,) * 3, (0.2,) * 3)


def test_settings_change_a_known_name_too(checkpoint: Path):
    (checkpoint.parent / "moving.safetensors").write_bytes(
        (Path(__file__).parents[3] / "rollout_core/demo/moving-things.safetensors").read_bytes()
    )
    settings = InputSettings(channel_order="BGR", labels=("only one",))
    source = checkpoint.parent / "moving.safetensors"
    spec = open_model("moving-things", source, settings=settings).spec
    assert spec.channel_order == "BGR"
    assert (spec.label(0), spec.label(1)) == ("only one", "class 1")


def test_stated_mean_silences_the_warning(checkpoint: Path, caplog: pytest.LogCaptureFixture):
    write_beside(checkpoint)
    open_model("mine", checkpoint)
    assert "states no mean" in caplog.text
    caplog.clear()
    open_model("mine", checkpoint, settings=InputSettings(mean=(0.5, 0.5, 0.5)))
    assert caplog.text == ""


def test_settings_of_a_folder_stand_beside_it(tmp_path: Path):
    (tmp_path / "model.v2").mkdir()
    (tmp_path / "model.v2.rollout.json").write_text('{"stride": 3}')
    assert read_settings_beside(tmp_path / "model.v2").stride == 3


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"lables": ["a"]}', "lables: Extra inputs are not permitted"),
        ('{"mean": [1, 2]}', "mean: Field required"),
        ('{"std": [1, 0, 1]}', "std: Value error, a deviation must be greater than 0"),
        ('{"channel_order": "GBR"}', "channel_order: Input should be 'RGB' or 'BGR'"),
        ("[1]", "holds no JSON object"),
        ("{", "is not JSON"),
    ],
)
def test_invalid_file_is_refused_with_its_name(checkpoint: Path, content: str, complaint: str):
    checkpoint.with_name("best.rollout.json").write_text(content)
    with pytest.raises(CheckpointError, match=f"best.rollout.json.*{complaint}"):
        open_model("mine", checkpoint)


def test_missing_or_unreadable_labels_are_told(checkpoint: Path):
    write_beside(checkpoint, labels="names.txt")
    with pytest.raises(CheckpointError, match=r"names\.txt: No such file"):
        open_model("mine", checkpoint)
    (checkpoint.parent / "names.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"names\.txt: not UTF-8"):
        open_model("mine", checkpoint)


def test_more_labels_than_classes_are_refused(checkpoint: Path):
    write_beside(checkpoint, labels=[*SEVEN, "h"])
    with pytest.raises(CheckpointError, match="8 labels for 7 classes"):
        open_model("mine", checkpoint)


def test_flags_are_settings():
    flags = InputFlags(mean="0.1,0.2,0.3", std="1,1,1", stride=4, labels=Path("names.txt"))
    expected = InputSettings(
        mean=(0.1, 0.2, 0.3), std=(1, 1, 1), stride=4, labels=Path("names.txt")
    )
    assert flags.input_settings == expected


@pytest.mark.parametrize("text", ["", "1", "1,2", "1,2,3,4", "a,b,c", "0,0,0"])
def test_flag_that_is_no_deviation_is_refused(text: str):
    with pytest.raises(ValidationError, match="give three numbers"):
        InputFlags(std=text)


def test_model_is_named_by_a_path_alone(checkpoint: Path):
    write_beside(checkpoint)
    assert load_named(str(checkpoint)).spec.name == "best"
    assert load_named(f"mine={checkpoint}").spec.name == "mine"
    assert load_named("moving-things").spec.name == "moving-things"


def test_path_with_an_equals_sign_is_a_path_if_it_exists(checkpoint: Path):
    path = checkpoint.with_name("lr=3.pyth")
    checkpoint.rename(path)
    path.with_name("lr=3.rollout.json").write_text('{"heads": 4}')
    assert load_named(str(path)).spec.name == "lr-3"
