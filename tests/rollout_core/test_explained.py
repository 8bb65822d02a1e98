"""`explain_file` and `load_result`: what a researcher calls from Python."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TimesformerConfig, TimesformerForVideoClassification

import rollout_core
from rollout_core import ExplainedVideo, explain_file, load_result
from rollout_core.contract import ExplainRequest
from rollout_core.demo.sample import LABEL_PATH, SAMPLE_PATH
from rollout_core.errors import CheckpointError, InvalidRequest
from rollout_core.model.checkpoints import LoadedModel, open_model
from rollout_core.model.input_settings import InputSettings
from rollout_core.pipeline import explain_video


@pytest.fixture(scope="module")
def explained() -> ExplainedVideo:
    """The sample clip, explained by the demo model."""
    return explain_file(SAMPLE_PATH)


def test_sample_is_explained_in_memory(explained: ExplainedVideo):
    assert explained.predictions[0].label == LABEL_PATH.read_text().strip()
    assert explained.relevance.shape == (1, 8, 14, 14)
    assert explained.times_seconds.shape == (1, 8)
    assert explained.frames is not None
    assert explained.frames.shape == (1, 8, 112, 112, 3)
    assert explained.frames.dtype == np.uint8
    assert explained.result.artifacts == ()


def test_arrays_and_files_are_those_of_the_command(explained: ExplainedVideo, tmp_path: Path):
    explain_video(SAMPLE_PATH, tmp_path / "command", ExplainRequest(), open_model("moving-things"))
    result = explained.save(tmp_path / "ours")
    for path in (tmp_path / "command").iterdir():
        if path.name != "result.json":  # it has times
            assert (tmp_path / "ours" / path.name).read_bytes() == path.read_bytes()
    names = {artifact.name for artifact in result.artifacts}
    assert names == {"rollout.npz", "overlay.mp4", "sheet.png"}


def test_saved_result_is_loaded_and_saved_again(explained: ExplainedVideo, tmp_path: Path):
    saved = explained.save(str(tmp_path / "one"))
    loaded = load_result(str(tmp_path / "one"))
    assert loaded.result == saved
    assert loaded.frames is None
    np.testing.assert_array_equal(loaded.relevance, explained.relevance)
    loaded.save(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_saving_replaces_the_files_of_another_result(explained: ExplainedVideo, tmp_path: Path):
    explained.save(tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "result.json").write_text("of another video")
    loaded = load_result(tmp_path / "one")

    loaded.save(tmp_path / "two")
    loaded.save(tmp_path / "one")

    for folder in ("one", "two"):
        assert load_result(tmp_path / folder).result == loaded.result


@pytest.mark.parametrize("name", ["../rollout.npz", "/etc/passwd", ".."])
def test_a_result_that_names_files_elsewhere_is_not_loaded(
    explained: ExplainedVideo, tmp_path: Path, name: str
):
    explained.save(tmp_path)
    text = (tmp_path / "result.json").read_text()
    (tmp_path / "result.json").write_text(text.replace('"sheet.png"', f'"{name}"'))

    with pytest.raises(ValueError, match="not the name of a file"):
        load_result(tmp_path)


def test_frames_are_those_of_the_video(explained: ExplainedVideo):
    """The sampled frames differ, as those of a moving shape do, and are not black."""
    assert explained.frames is not None
    first, last = explained.frames[0, 0], explained.frames[0, -1]
    assert first.mean() > 20
    assert np.abs(first.astype(int) - last).mean() > 2


def test_strings_and_paths_are_alike(explained: ExplainedVideo):
    again = explain_file(str(SAMPLE_PATH), model="moving-things", device="cpu")
    np.testing.assert_array_equal(again.relevance, explained.relevance)


def test_request_fields_are_keywords():
    found = explain_file(SAMPLE_PATH, method="attention", layer=2, clips="tile", overlay=None)
    assert found.result.request.layer == 2
    assert found.result.clips == found.relevance.shape[0] == len(found.frames)


def test_loaded_model_is_used_as_it_is():
    loaded = open_model("moving-things", dtype=torch.float64)
    relevance = explain_file(SAMPLE_PATH, loaded).relevance
    np.testing.assert_allclose(relevance, explain_file(SAMPLE_PATH).relevance, atol=1e-5)


def test_checkpoint_is_given_by_its_path(tmp_path: Path):
    source = Path(rollout_core.__file__).parent / "demo" / "moving-things.safetensors"
    path = tmp_path / "My Shapes.safetensors"
    path.write_bytes(source.read_bytes())
    for model in (path, str(path)):
        found = explain_file(SAMPLE_PATH, model, settings=InputSettings(labels=("alpha",)))
        assert found.result.model == "my-shapes"
        assert {"alpha", "class 1"} & {each.label for each in found.predictions}


class TestTransformers:
    @pytest.fixture
    def theirs(self) -> TimesformerForVideoClassification:
        torch.manual_seed(0)
        config = TimesformerConfig(
            image_size=32,
            patch_size=8,
            num_frames=4,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            id2label={0: "up", 1: "down", 2: "left"},
        )
        return TimesformerForVideoClassification(config).eval()

    def test_logits_are_those_of_the_model(self, theirs):
        found = explain_file(SAMPLE_PATH, theirs, device="cpu")
        frames = torch.from_numpy(found.frames).permute(0, 1, 4, 2, 3) / 255
        with torch.inference_mode():
            expected = theirs((frames - 0.45) / 0.225).logits
        np.testing.assert_allclose(found.arrays.logits, expected, atol=1e-5)
        assert {each.label for each in found.predictions} == {"up", "down", "left"}

    def test_digest_tells_models_apart(self, theirs):
        before = explain_file(SAMPLE_PATH, theirs).result.checkpoint_sha256
        assert explain_file(SAMPLE_PATH, theirs).result.checkpoint_sha256 == before
        with torch.no_grad():
            theirs.classifier.bias += 1
        assert explain_file(SAMPLE_PATH, theirs).result.checkpoint_sha256 != before

    def test_settings_stand_for_the_processor(self, theirs, caplog):
        settings = InputSettings(mean=(0.5,) * 3, std=(0.5,) * 3, channel_order="BGR")
        with caplog.at_level(logging.WARNING):
            found = explain_file(SAMPLE_PATH, theirs, settings=settings)
        assert found.arrays.meta["input"]["mean"] == [0.5] * 3
        assert found.arrays.meta["input"]["channel_order"] == "BGR"
        assert "states no mean" not in caplog.text

    def test_settings_file_of_the_present_folder_is_not_read(self, theirs, tmp_path, monkeypatch):
        (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0]}')
        monkeypatch.chdir(tmp_path)
        found = explain_file(SAMPLE_PATH, theirs)
        assert found.arrays.meta["input"]["mean"] == [0.45] * 3


class TestRefusals:
    """Whatever can be known at once is told before a model is loaded."""

    @pytest.fixture(autouse=True)
    def forbid_loading(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> LoadedModel:
            raise AssertionError("a model was loaded")

        monkeypatch.setattr("rollout_core.explained._load", refuse)

    def test_missing_video(self):
        with pytest.raises(FileNotFoundError, match=r"nosuch\.mp4"):
            explain_file("nosuch.mp4")

    def test_unknown_field(self):
        with pytest.raises(InvalidRequest, match="metod"):
            explain_file(SAMPLE_PATH, metod="attention")

    def test_option_of_another_method(self):
        with pytest.raises(InvalidRequest, match="layer is for attention"):
            explain_file(SAMPLE_PATH, layer=3)

    def test_unknown_colormap(self):
        with pytest.raises(InvalidRequest, match="colormap"):
            explain_file(SAMPLE_PATH, overlay={"colormap": "nosuch"})


def test_the_package_lists_what_it_imports_late():
    assert {"explain_file", "load_result"} <= set(dir(rollout_core))


def test_misspelt_checkpoint_is_no_such_file():
    with pytest.raises(CheckpointError, match="no such file or folder"):
        explain_file(SAMPLE_PATH, "models/best")


def test_known_name_without_a_checkpoint_says_how_to_give_one():
    with pytest.raises(CheckpointError, match="timesformer-k400=PATH"):
        explain_file(SAMPLE_PATH, "timesformer-k400")


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="not Linear"):
        explain_file(SAMPLE_PATH, torch.nn.Linear(1, 1))


def test_layer_that_the_model_lacks_is_refused_before_the_video_is_read(tmp_path: Path):
    (tmp_path / "video.mp4").write_bytes(b"no video")
    with pytest.raises(InvalidRequest, match="layer"):
        explain_file(tmp_path / "video.mp4", method="attention", layer=40)


def test_notebook_shows_a_picture(explained: ExplainedVideo, tmp_path: Path):
    assert explained._repr_png_().startswith(b"\x89PNG")
    explained.save(tmp_path)
    assert load_result(tmp_path)._repr_png_().startswith(b"\x89PNG")


def test_plot_has_a_panel_for_each_frame(explained: ExplainedVideo):
    figure = explained.plot()
    panels = [panel for panel in figure.axes if panel.images]
    assert [panel.get_title() for panel in panels] == [
        f"{seconds:.2f} s · {share:.0%}"
        for seconds, share in zip(
            explained.times_seconds[0], explained.arrays.frame_relevance[0], strict=True
        )
    ]
    with pytest.raises(IndexError):
        explained.plot(clip=1)


def test_hottest_patch_has_the_last_colour_of_the_colormap(explained, tmp_path):
    from rollout_core.pictures.heat import rgb_table

    explained.save(tmp_path)
    figure = load_result(tmp_path).plot()
    _, frame, row, column = np.unravel_index(
        explained.relevance.argmax(), explained.relevance.shape
    )
    picture = figure.axes[frame].images[0].get_array()
    assert tuple(picture[row, column]) == tuple(rgb_table("plasma")[255])


BASE_ONLY = """
import sys

class Hider:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "av", "cmap", "matplotlib", "PIL", "tqdm"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hider)
import rollout_core
"""
"""Hides what only the extras install."""


def test_a_result_is_loaded_in_the_base_installation(explained: ExplainedVideo, tmp_path: Path):
    explained.save(tmp_path)
    code = f"""{BASE_ONLY}
found = rollout_core.load_result({str(tmp_path)!r})
print(found.predictions[0].label, found.relevance.shape, found._repr_png_())
try:
    found.plot()
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    values, plotting = done.stdout.splitlines()
    assert values == f"{explained.predictions[0].label} (1, 8, 14, 14) None"
    assert plotting.startswith(
        "plot needs the extra 'media': pip install 'timesformer-rollout[media]'"
    )


def test_explaining_in_the_base_installation_names_the_extra():
    code = f"{BASE_ONLY}\nrollout_core.explain_file({str(SAMPLE_PATH)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "explain_file needs the extra 'worker': pip install" in done.stderr.splitlines()[-1]


def test_repr_is_one_short_line(explained: ExplainedVideo):
    best = explained.predictions[0]
    assert repr(explained) == (
        f"<ExplainedVideo: {best.label} {best.probability:.0%}; moving-things, 1 clip of 8 frames>"
    )


def test_package_is_imported_without_torch():
    code = "import rollout_core, sys; sys.exit('torch' in sys.modules or 'av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="explain_flie"):
        rollout_core.explain_flie  # noqa: B018
