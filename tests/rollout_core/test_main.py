import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from pydantic_settings import CliApp

from rollout_core.__main__ import Command, main
from rollout_core.contract import ExplainRequest, Overlay
from rollout_core.demo.sample import LABEL_PATH, SAMPLE_PATH


def parse(*arguments: str) -> Command:
    return CliApp.run(Command, cli_args=["a.mp4", *arguments])


def test_without_flags_the_request_is_the_default_one():
    command = parse()
    assert command.request == ExplainRequest()
    assert (command.video, command.model) == (Path("a.mp4"), "moving-shapes")


def test_every_field_of_a_request_is_a_flag():
    command = parse(
        *("--head-fusion", "max", "--discard-ratio", "0.5", "--start-layer", "1"),
        *("--sampling", "strided", "--clips", "tile"),
        *("--start-seconds", "1", "--end-seconds", "2.5"),
        *("--overlay.colormap", "viridis", "--overlay.layout", "side_by_side"),
        *("-o", "there"),
    )
    assert command.request == ExplainRequest(
        head_fusion="max",
        discard_ratio=0.5,
        start_layer=1,
        sampling="strided",
        clips="tile",
        start_seconds=1,
        end_seconds=2.5,
        overlay=Overlay(colormap="viridis", layout="side_by_side"),
    )
    assert command.output == Path("there")


def test_the_overlay_can_be_left_out():
    assert parse("--overlay", "null").request.overlay is None


def test_settings_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROLLOUT_MODEL", "timesformer-k400=/a/file.pyth")
    assert parse().model == "timesformer-k400=/a/file.pyth"
    assert parse("--model", "moving-shapes").model == "moving-shapes"


def test_the_command_explains_a_video(tmp_path: Path):
    command = [sys.executable, "-m", "rollout_core", str(SAMPLE_PATH), "-o", str(tmp_path)]
    command += ["--discard-ratio", "0.5", "--overlay.layout", "side_by_side"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].endswith(LABEL_PATH.read_text().strip())
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["request"]["discard_ratio"] == 0.5
    assert result["request"]["overlay"]["layout"] == "side_by_side"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > sheet.height


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("notes.txt",), "mov, mp4"),
        (("missing.mp4",), "missing.mp4"),
        ((str(SAMPLE_PATH), "--discard-ratio", "2"), "discard_ratio: Input should be less than 1"),
        ((str(SAMPLE_PATH), "--model", "timesformer-k400"), "needs a checkpoint"),
        ((str(SAMPLE_PATH), "--start-layer", "4"), "the model has 4 layers"),
        ((str(SAMPLE_PATH), "--overlay.colormap", "none-such"), "none-such"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("not a video")
    monkeypatch.setattr(sys, "argv", ["rollout-explain", *arguments])
    with pytest.raises(SystemExit) as raised:
        main()
    message = str(raised.value)
    assert message.startswith("rollout-explain: ")
    assert words in message
    assert "\n" not in message
