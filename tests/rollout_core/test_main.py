import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError
from pydantic_settings import CliApp

from rollout_core.__main__ import Command, main
from rollout_core.contract import ExplainRequest, Overlay, PatchQuery, PointQuery
from rollout_core.demo.sample import LABEL_PATH, SAMPLE_PATH
from rollout_core.model.specs import MOVING_THINGS


def parse(*arguments: str) -> Command:
    return CliApp.run(Command, cli_args=["a.mp4", *arguments])


def test_without_flags_the_request_has_all_defaults():
    command = parse()
    assert command.request == ExplainRequest()
    assert (command.video, command.model) == (Path("a.mp4"), "moving-things")


def test_every_field_of_a_request_is_a_flag():
    command = parse(
        *("--head-fusion", "max", "--discard-ratio", "0.5", "--start-layer", "1"),
        *("--sampling", "strided", "--clips", "tile"),
        *("--start-seconds", "1", "--end-seconds", "2.5"),
        *("--overlay.colormap", "viridis", "--overlay.layout", "side_by_side"),
        *("--preview", "-o", "there"),
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
        preview=True,
    )
    assert command.output == Path("there")


def test_every_option_of_a_method_is_a_flag():
    command = parse(
        *("--method", "gradient_rollout", "--target", "left", "--start-layer", "2"),
        *("--per-layer", "--full-rollout", "--faithfulness"),
    )
    assert command.request == ExplainRequest(
        method="gradient_rollout",
        target="left",
        start_layer=2,
        per_layer=True,
        full_rollout=True,
        faithfulness=True,
    )
    assert parse(
        "--method", "contribution_rollout", "--weighting", "deviation"
    ).request.weighting == ("deviation")
    assert parse("--method", "attention", "--layer", "3").request.layer == 3


def test_target_may_be_repeated():
    request = parse("--method", "difference", "--target", "left", "--target", "predicted").request
    assert request.target == ("left", "predicted")


def test_a_method_that_does_not_go_with_the_request_is_not_compared():
    with pytest.raises(ValidationError, match="difference is for the query 'cls'"):
        parse("--query", "1:2:3", "--compare", "difference")


def test_target_may_be_a_number():
    target = parse("--method", "gradient_rollout", "--target", "3").request.target
    assert target is not None
    assert MOVING_THINGS.class_index(target) == 3


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("cls", "cls"),
        ("3:4:5", PatchQuery(frame=3, row=4, column=5)),
        ("2:3:4:5", PatchQuery(clip=2, frame=3, row=4, column=5)),
        ("120:80.5@2.25", PointQuery(x=120, y=80.5, seconds=2.25)),
        ('{"frame": 3, "row": 4, "column": 5}', PatchQuery(frame=3, row=4, column=5)),
    ],
)
def test_query_has_a_short_form(query: str, expected: object):
    assert parse("--query", query).request.queries == (expected,)


def test_query_may_be_repeated():
    queries = parse("--query", "cls", "--query", "3:4:5", "--query", "1:2@3").request.queries
    assert queries == (
        "cls",
        PatchQuery(frame=3, row=4, column=5),
        PointQuery(x=1, y=2, seconds=3),
    )


def test_compare_may_be_repeated():
    command = parse("--compare", "attention", "--compare", "contribution_rollout")
    assert command.compare == ("attention", "contribution_rollout")
    assert command.request == ExplainRequest()


def test_help_explains_the_short_forms(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        CliApp.run(Command, cli_args=["--help"])
    words = " ".join(capsys.readouterr().out.split())
    for form in ("[CLIP:]FRAME:ROW:COLUMN", "X:Y@SECONDS", "--compare", "by index or label"):
        assert form in words


def test_overlay_may_be_null():
    assert parse("--overlay", "null").request.overlay is None


def test_environment_sets_defaults_of_flags(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROLLOUT_MODEL", "timesformer-k400=/a/file.pyth")
    assert parse().model == "timesformer-k400=/a/file.pyth"
    assert parse("--model", "moving-things").model == "moving-things"


def test_command_explains_a_video(tmp_path: Path):
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


def test_command_draws_a_comparison_of_methods(tmp_path: Path):
    command = [sys.executable, "-m", "rollout_core", str(SAMPLE_PATH), "-o", str(tmp_path)]
    command += ["--overlay", "null", "--method", "contribution_rollout", "--query", "3:4:4"]
    command += ["--compare", "attention", "--compare", "gradient_rollout"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    written = [Path(line) for line in done.stdout.splitlines() if line.startswith(str(tmp_path))]
    assert [path.name for path in written][-1] == "comparison.png"
    assert all(path.is_file() for path in written)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("notes.txt",), "mov, mp4"),
        (("missing.mp4",), "missing.mp4"),
        ((str(SAMPLE_PATH), "--discard-ratio", "2"), "discard_ratio: must be less than 1"),
        ((str(SAMPLE_PATH), "--model", "timesformer-k400"), "needs a checkpoint"),
        ((str(SAMPLE_PATH), "--start-layer", "4"), "the model has 4 layers"),
        ((str(SAMPLE_PATH), "--overlay.colormap", "none-such"), "none-such"),
        ((str(SAMPLE_PATH), "--query", "1:2"), "query.0: this is not a query: write 'cls',"),
        ((str(SAMPLE_PATH), "--query", "8:0:0"), "frame is 8, but the last one is 7"),
        ((str(SAMPLE_PATH), "--target", "left"), "target is for gradient_rollout"),
        ((str(SAMPLE_PATH), "--compare", "rollout"), "compare is for methods other than rollout"),
        (
            (str(SAMPLE_PATH), "--method", "gradient_rollout", "--target", "jump"),
            "no class 'jump'",
        ),
    ],
)
def test_error_is_one_line(
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


def test_incomplete_video_is_refused_or_told(tmp_path, monkeypatch, capsys):
    video = tmp_path / "cut.mp4"
    video.write_bytes(SAMPLE_PATH.read_bytes()[:20_000])
    arguments = ["rollout-explain", str(video), "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match=r"only 0\.760 s of 10\.000 s \(19 of 250 frames\)"):
        main()
    monkeypatch.setattr(sys, "argv", [*arguments, "--allow-incomplete", "--overlay", "null"])
    main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rollout-explain: video_incomplete: only 0.760 s of 10.000 s")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["source"]["frames_promised"] == 250
    assert result["source"]["frames_decoded"] == 19
    assert result["warnings"][0]["code"] == "video_incomplete"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--device", "nonsense"), "'nonsense' is not a device"),
        (("--device", "meta"), "PyTorch cannot use the device meta here"),
        (("--device", "cuda:99"), "device cuda:99"),
        (("--model", "x=/no/such/file.pyth"), "/no/such/file.pyth: no such file or folder"),
        (("--model", "x"), "x: no such file or folder"),
        (("--model", "timesformer-k400"), "timesformer-k400 needs a checkpoint"),
    ],
)
def test_unusable_device_or_path_is_one_line(
    flags: tuple[str, ...], complaint: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "argv", ["rollout-explain", str(SAMPLE_PATH), *flags])
    with pytest.raises(SystemExit, match=r"^rollout-explain: ") as raised:
        main()
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_there_is_no_flag_for_the_fake_engine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROLLOUT_FAKE", '{"seconds": 1}')
    assert parse().request.fake is None
    with pytest.raises(SystemExit):
        parse("--fake", '{"seconds": 1}')


def test_a_wrong_path_is_told_before_torch_is_imported(tmp_path: Path):
    code = (
        "import sys\n"
        "from rollout_core.__main__ import main\n"
        "try:\n    main()\n"
        "except SystemExit as error:\n    print(error, 'torch' in sys.modules)"
    )
    for arguments, words in (
        (["nosuch.mp4"], "rollout-explain: nosuch.mp4: No such file or directory"),
        ([str(SAMPLE_PATH), "--overlay.colormap", "turbbo"], "did you mean turbo?"),
    ):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        told, _, has_torch = done.stdout.rstrip().rpartition(" ")
        assert (words in told, has_torch) == (True, "False"), done.stdout


def test_the_overlay_can_be_left_out():
    assert parse("--no-overlay").request.overlay is None
    with pytest.raises(ValidationError, match="no_overlay does not go with"):
        parse("--no-overlay", "--overlay.opacity", "1")


def test_help_names_values_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["rollout-explain", "--help"])
    with pytest.raises(SystemExit):
        main()
    text = capsys.readouterr().out
    assert "--query QUERY" in text
    assert "--target TARGET" in text
    methods = "{rollout,attention,gradient_rollout,contribution_rollout,difference}"
    assert f"--method {methods}" in text
    assert f"--compare {methods}" in text
    assert not {"tuple[", "JSON}", "null)", "()"} & set(text.split())
    assert "(default: null)" not in text
