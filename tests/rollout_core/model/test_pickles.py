from argparse import Namespace
from collections import defaultdict
from enum import Enum
from pathlib import Path, PurePosixPath
from pickle import dump
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from torch import Tensor

from rollout_core.errors import CheckpointError
from rollout_core.model.checkpoints import load_model
from rollout_core.model.pickles import Skipped, find_parameters, load_pickle

DIVIDED = Path(__file__).parents[1] / "reference" / "tiny_divided.pyth"


class Color(Enum):
    RED = 1


class Options(dict):  # type: ignore[type-arg]
    """A dict of a training program's own type, as AttributeDict of Lightning is."""


class WritesFile:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (f"import pathlib; pathlib.Path({str(self.path)!r}).write_text('executed')",)


class CallsMethod(WritesFile):
    """Looks up a method and calls it when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.path, "executed")


def state_dict(fill: float = 0.0) -> dict[str, Tensor]:
    return {"cls_token": torch.full((1, 1, 4), fill)}


def saved(tmp_path: Path, **content: Any) -> Path:
    """Add entries to the reference checkpoint and save it."""
    path = tmp_path / "saved.pth"
    torch.save(torch.load(DIVIDED, weights_only=True) | content, path)
    return path


@pytest.mark.parametrize(
    "value",
    [
        np.float64(0.78),
        np.int64(3),
        np.bool_(True),
        np.float32(0.5),
        np.str_("text"),
        np.arange(6).reshape(2, 3),
        np.random.default_rng(0).bit_generator.state,
        Namespace(lr=0.1, path=PurePosixPath("/x")),
        Color.RED,
        defaultdict(int, a=1),
        slice(1, 2),
        {"history": [np.float64(1), {"deep": np.array([1.0])}]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_objects_beside_the_parameters_are_skipped(tmp_path: Path, value: object):
    path = saved(tmp_path, other=value, args=value)
    expected = torch.load(DIVIDED, weights_only=True)["model_state"]["model.norm.weight"]
    assert torch.equal(load_model(path, num_heads=4).norm.weight, expected)


def test_skipped_object_keeps_nothing(tmp_path: Path):
    torch.save({"args": Namespace(lr=0.1)}, tmp_path / "x.pth")
    (found,) = load_pickle(tmp_path / "x.pth").values()
    assert type(found) is Skipped
    assert vars(found) == {}


@pytest.mark.parametrize("kind", [WritesFile, CallsMethod])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, kind: type[WritesFile]):
    written = tmp_path / "written"
    path = saved(tmp_path, hyper_parameters=kind(written))
    torch.load(path, weights_only=False)
    assert written.read_text() == "executed"  # the file is dangerous to an unsafe loader
    written.unlink()
    if kind is WritesFile:
        load_model(path, num_heads=4)
    else:
        assert "save the state_dict alone" in refusal(path)
    assert not written.exists()


def test_allow_list_is_as_before_after_loading(tmp_path: Path):
    before = torch.serialization.get_safe_globals()
    load_pickle(saved(tmp_path, args=Namespace()))
    assert torch.serialization.get_safe_globals() == before
    with pytest.raises(Exception, match="Namespace"):
        torch.load(tmp_path / "saved.pth", weights_only=True)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        load_pickle(path)
    return str(raised.value)


def test_object_that_cannot_be_skipped_is_refused_in_one_line_without_advice(tmp_path: Path):
    message = refusal(saved(tmp_path, hyper_parameters=Options(lr=0.1)))
    assert "test_pickles.Options" in message
    assert "save the state_dict alone" in message
    assert "\n" not in message
    assert "weights_only" not in message
    assert "add_safe_globals" not in message


def test_old_format_with_objects_is_refused_in_one_line(tmp_path: Path):
    torch.save({"x": Namespace()}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    message = refusal(tmp_path / "x.pth")
    assert "\n" not in message
    assert "weights_only" not in message


def test_old_format_without_objects_is_read(tmp_path: Path):
    torch.save(state_dict(), tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert load_pickle(tmp_path / "x.pth").keys() == {"cls_token"}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_pickle_never_shows_pytorchs_advice(tmp_path: Path, protocol: int):
    with (tmp_path / "x.pth").open("wb") as file:
        dump({"a": Namespace()}, file, protocol=protocol)
    with pytest.raises(CheckpointError) as raised:
        load_model(tmp_path / "x.pth")
    assert "weights_only" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("is_zip", [True, False])
def test_damaged_file_is_refused_in_one_line(tmp_path: Path, is_zip: bool):
    path, damaged = tmp_path / "x.pth", tmp_path / "damaged.pth"
    content = {"state_dict": state_dict(), "args": Namespace(lr=1)}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(200):
        part = bytearray(whole[: random.integers(len(whole))] if random.random() < 0.3 else whole)
        for place in random.integers(len(part), size=3) if part else ():
            part[place] = random.integers(256)
        damaged.write_bytes(part)
        message = ""
        try:
            load_pickle(damaged)
        except CheckpointError as error:
            message = str(error)
        assert "\n" not in message
        assert "weights_only" not in message


def test_compiled_archive_is_refused_without_advice(tmp_path: Path):
    with ZipFile(tmp_path / "x.pt", "w") as archive:
        for name in ("constants.pkl", "data.pkl", "version"):
            archive.writestr(f"x/{name}", b"3\n")
    assert refusal(tmp_path / "x.pt").endswith("is damaged, or torch.save did not write it")


def test_whole_model_is_refused(tmp_path: Path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as raised:
        load_model(tmp_path / "x.pth")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("place", ["model_state", "state_dict", "model", "network", "a.b"])
def test_parameters_are_found_where_training_programs_put_them(place: str):
    content: Any = state_dict()
    for key in reversed(place.split(".")):
        content = {key: content}
    found = find_parameters(Path("x"), content | {"optimizer": {"state": {0: torch.ones(1)}}})
    assert found.keys() == {"cls_token"}


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema", "ema", "ema_state_dict"])
def test_averaged_weights_count_only_without_others(average: str):
    both = {average: state_dict(1), "state_dict": state_dict(0)}
    assert find_parameters(Path("x"), both)["cls_token"].max() == 0
    assert find_parameters(Path("x"), {average: state_dict(1)})["cls_token"].max() == 1


def test_several_models_are_refused():
    with pytest.raises(CheckpointError, match="several models: student, teacher"):
        find_parameters(Path("x"), {"teacher": state_dict(), "student": state_dict()})


@pytest.mark.parametrize("content", [None, 3, [], {}, {"state_dict": {}}, torch.ones(2)])
def test_content_without_parameters_is_refused(content: object):
    with pytest.raises(CheckpointError, match="no state_dict of a TimeSformer"):
        find_parameters(Path("x"), content)
