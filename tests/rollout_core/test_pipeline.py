from pathlib import Path

import numpy as np
import pytest
import torch

from rollout_core import archive
from rollout_core.checkpoints import LoadedModel, open_model
from rollout_core.contract import ExplainRequest, ExplainResult
from rollout_core.demo.sample import LABEL_PATH, SAMPLE_PATH
from rollout_core.errors import InvalidRequest
from rollout_core.explain import explain_clips, prepare_clips
from rollout_core.pipeline import UNLIMITED, explain_video
from rollout_core.sampling import plan
from rollout_core.video import crop_of, probe, read_clips


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """The demo model."""
    return open_model("moving-shapes")


def test_a_video_gives_every_file_of_a_result(loaded: LoadedModel, tmp_path: Path):
    stages: list[str] = []
    result = explain_video(
        SAMPLE_PATH,
        tmp_path / "out",
        ExplainRequest(),
        loaded,
        progress=lambda stage, *_: stages.append(stage),
    )
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"result.json", "rollout.npz", "overlay.mp4", "sheet.png"}
    stored = ExplainResult.model_validate_json((tmp_path / "out" / "result.json").read_bytes())
    assert stored == result
    assert result.predictions[0].label == LABEL_PATH.read_text().strip()
    assert (result.clips, result.frames) == (1, 8)
    assert result.request.sampling == "uniform"
    assert list(dict.fromkeys(stages)) == ["explain", "render"]


def test_the_archive_holds_what_the_model_gives_for_the_same_frames(
    loaded: LoadedModel, tmp_path: Path
):
    request = ExplainRequest(overlay=None, head_fusion="max", start_layer=1)
    explain_video(SAMPLE_PATH, tmp_path, request, loaded)
    found = archive.load(tmp_path / "rollout.npz")
    info, spec = probe(SAMPLE_PATH, UNLIMITED), loaded.spec
    moments = plan(info.duration_seconds, request, spec)
    crop = crop_of(info, height=spec.height, width=spec.width)
    (clip,) = read_clips(SAMPLE_PATH, moments, crop, height=64, width=64, limits=UNLIMITED)
    clips = prepare_clips(
        clip.frames[np.newaxis], spec, device=torch.device("cpu"), dtype=torch.float32
    )
    expected = explain_clips(loaded.model, clips, head_fusion="max", start_layer=1)
    np.testing.assert_allclose(found.relevance, expected.relevance, atol=1e-6)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    np.testing.assert_array_equal(found.crop_xywh, crop)
    assert found.meta["checkpoint_sha256"] == loaded.sha256
    assert found.meta["method"]["start_layer"] == 1


def test_no_overlay_is_made_unless_wanted(loaded: LoadedModel, tmp_path: Path):
    result = explain_video(SAMPLE_PATH, tmp_path, ExplainRequest(overlay=None), loaded)
    assert [artifact.name for artifact in result.artifacts] == ["rollout.npz", "sheet.png"]
    assert not (tmp_path / "overlay.mp4").exists()


def test_tiles_cover_the_span(loaded: LoadedModel, tmp_path: Path):
    spec = loaded.spec.model_copy(update={"clip_seconds": 2.5})
    short = LoadedModel(loaded.model, spec, loaded.sha256)
    request = ExplainRequest(overlay=None, clips="tile", start_seconds=2.0, end_seconds=7.0)
    result = explain_video(SAMPLE_PATH, tmp_path, request, short)
    assert (result.clips, result.frames) == (2, 16)
    pts = archive.load(tmp_path / "rollout.npz").pts_seconds
    assert pts.shape == (2, 8)
    assert (np.diff(pts.ravel()) > 0).all()
    assert 2.0 <= pts.min() < 2.4
    assert 6.6 < pts.max() < 7.0


def test_an_unknown_colormap_is_refused_before_any_work(loaded: LoadedModel, tmp_path: Path):
    request = ExplainRequest.model_validate({"overlay": {"colormap": "no-such-map"}})
    with pytest.raises(InvalidRequest, match="no-such-map"):
        explain_video(Path("/does/not/exist"), tmp_path, request, loaded)
