import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rollout_core import archive
from rollout_core.contract import (
    OPTIONS_BY_METHOD,
    ExplainRequest,
    ExplainResult,
    FakeScript,
    Method,
    MethodOptions,
    PatchQuery,
    Target,
)
from rollout_core.demo.sample import LABEL_PATH, SAMPLE_PATH
from rollout_core.errors import InvalidRequest
from rollout_core.model.checkpoints import LoadedModel, open_model
from rollout_core.pipeline import UNLIMITED, compare_methods, compute, explain_video
from rollout_core.relevance.explain import Explanation, explain_clips, prepare_clips
from rollout_core.relevance.faithfulness import FILLS, orders
from rollout_core.video.clips import crop_of, probe, read_clips
from rollout_core.video.opening import OpenFile
from rollout_core.video.sampling import plan


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """The demo model."""
    return open_model("moving-things")


def test_video_gives_all_files_of_a_result(loaded: LoadedModel, tmp_path: Path):
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


def test_timings_of_the_stages_add_up(loaded: LoadedModel, tmp_path: Path):
    missed: list[float] = []
    for _ in range(5):  # other processes may hold up one run between two stages, but not all
        began = time.monotonic()
        result = explain_video(SAMPLE_PATH, tmp_path, ExplainRequest(clips="tile"), loaded)
        took = time.monotonic() - began
        stages = dict(result.timings_seconds)
        total = stages.pop("total")
        assert list(stages) == ["open", "explain", "decode", "save", "render"]
        assert min(stages.values()) > 0
        assert total == pytest.approx(sum(stages.values()), abs=0.001)
        missed.append(abs(took - total) / took)
        if missed[-1] < 0.03:
            return
    raise AssertionError(missed)


def test_time_between_computing_and_writing_does_not_count(loaded: LoadedModel, tmp_path: Path):
    computed = compute(SAMPLE_PATH, ExplainRequest(overlay=None), loaded)
    before = computed.describe().timings_seconds["total"]
    time.sleep(0.5)
    for name in ("once", "again"):
        stages = computed.write(tmp_path / name).timings_seconds
        assert stages["total"] - stages["save"] - stages["render"] == pytest.approx(before, abs=0.1)


def test_sheet_alone_needs_no_second_pass(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened: list[Path] = []
    original = OpenFile.open
    monkeypatch.setattr(OpenFile, "open", lambda *args: opened.append(args[0]) or original(*args))
    explain_video(SAMPLE_PATH, tmp_path, ExplainRequest(overlay=None), loaded)
    assert opened == [SAMPLE_PATH, SAMPLE_PATH]  # to plan the clips, and to read them


def explained(loaded: LoadedModel, *, target: int | None = None, **options: Any) -> Explanation:
    """Explain the sample's only clip without the pipeline."""
    info, spec = probe(SAMPLE_PATH, UNLIMITED), loaded.spec
    moments = plan(info.duration_seconds, ExplainRequest(), spec)
    crop = crop_of(info, height=spec.height, width=spec.width)
    (clip,) = read_clips(SAMPLE_PATH, moments, crop, height=112, width=112, limits=UNLIMITED)
    clips = prepare_clips(
        clip.frames[np.newaxis], spec, device=torch.device("cpu"), dtype=torch.float32
    )
    return explain_clips(loaded.model, clips, MethodOptions(**options), target=target)


OPTIONS: dict[str, dict[str, Any]] = {
    "rollout": {"head_fusion": "max", "discard_ratio": 0.3, "start_layer": 1},
    "attention": {"head_fusion": "min", "layer": 2},
    "gradient_rollout": {"target": 3, "start_layer": 1},
    "contribution_rollout": {"weighting": "deviation", "start_layer": 1},
    "difference": {"target": 3, "reference": "mean"},
}


@pytest.mark.parametrize("method", OPTIONS_BY_METHOD)
def test_archive_equals_a_direct_explanation_of_the_same_frames(
    loaded: LoadedModel, tmp_path: Path, method: str
):
    request = ExplainRequest(method=method, overlay=None, per_layer=True, **OPTIONS[method])
    explain_video(SAMPLE_PATH, tmp_path, request, loaded)
    found = archive.load(tmp_path / "rollout.npz")
    expected = explained(loaded, method=method, per_layer=True, **OPTIONS[method])
    names = {"relevance", "frame_relevance", "temporal_rollout", "layer_relevance"}
    if method == "difference":
        assert found.temporal_rollout is None
        names.remove("temporal_rollout")
    for name in names:
        array, tensor = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(array, tensor, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    np.testing.assert_array_equal(found.crop_xywh[2:], 2 * [min(found.crop_xywh[2:])])
    assert found.meta["checkpoint_sha256"] == loaded.sha256
    assert found.meta["method"].items() >= OPTIONS[method].items()
    assert found.full_rollout is None


def test_a_script_for_the_fake_engine_is_refused(loaded: LoadedModel, tmp_path: Path):
    request = ExplainRequest(fake=FakeScript(seconds=1))
    with pytest.raises(InvalidRequest, match="fake engine"):
        explain_video(SAMPLE_PATH, tmp_path, request, loaded)


def test_methods_give_different_relevance(loaded: LoadedModel, tmp_path: Path):
    maps = []
    for method in OPTIONS_BY_METHOD:
        request = ExplainRequest(method=method, overlay=None)
        explain_video(SAMPLE_PATH, tmp_path, request, loaded)
        relevance = archive.load(tmp_path / "rollout.npz").relevance
        maps.append(relevance / relevance.sum())
    differences = [np.abs(a - b).sum() for i, a in enumerate(maps) for b in maps[:i]]
    assert min(differences) > 0.01


def test_target_may_be_a_label(loaded: LoadedModel, tmp_path: Path):
    request = ExplainRequest(method="gradient_rollout", target="a thing falls", overlay=None)
    result = explain_video(SAMPLE_PATH, tmp_path, request, loaded)
    assert result.targets == (Target(label="a thing falls", index=3),)
    expected = explained(loaded, method="gradient_rollout", target=3)
    found = archive.load(tmp_path / "rollout.npz")
    np.testing.assert_allclose(found.relevance, expected.relevance, atol=1e-6)
    assert (found.targets.tolist(), found.meta["targets"]) == ([3], ["a thing falls"])


def test_default_target_is_the_predicted_class(loaded: LoadedModel, tmp_path: Path):
    request = ExplainRequest(method="gradient_rollout", overlay=None)
    result = explain_video(SAMPLE_PATH, tmp_path, request, loaded)
    assert result.targets is not None
    assert result.targets[0].label == result.predictions[0].label


def test_query_relevance_is_a_row_of_the_full_rollout(loaded: LoadedModel, tmp_path: Path):
    crop = crop_of(probe(SAMPLE_PATH, UNLIMITED), height=112, width=112)
    point = {"x": crop.x + 0.7 * crop.width, "y": crop.y + 0.3 * crop.height, "seconds": 0.01}
    request = ExplainRequest.model_validate(
        {"query": ["cls", point], "full_rollout": True, "overlay": None}
    )
    result = explain_video(SAMPLE_PATH, tmp_path, request, loaded)
    assert result.queries == ("cls", PatchQuery(frame=0, row=4, column=9))
    found = archive.load(tmp_path / "rollout.npz")
    assert found.full_rollout.dtype == np.float16
    for query, token in enumerate((0, 1 + 4 * 14 + 9)):
        row = found.full_rollout[0, token]
        assert row.astype(float).sum() == pytest.approx(1, abs=2e-3)
        relevance = found.query_relevance[query, 0].ravel()
        np.testing.assert_allclose(relevance, row[1:], rtol=1e-3, atol=1e-6)


def test_patch_query_has_relevance_in_its_own_clip_only(loaded: LoadedModel, tmp_path: Path):
    spec = loaded.spec.model_copy(update={"clip_seconds": 2.5})
    request = ExplainRequest.model_validate(
        {
            "clips": "tile",
            "start_layer": 3,
            "query": {"clip": 1, "frame": 4, "row": 3, "column": 3},
            "overlay": None,
            "end_seconds": 5.0,
        }
    )
    explain_video(SAMPLE_PATH, tmp_path, request, LoadedModel(loaded.model, spec, loaded.sha256))
    found = archive.load(tmp_path / "rollout.npz")
    assert found.relevance.sum(axis=(1, 2, 3)) == pytest.approx([0, 1], abs=0.2)
    assert found.frame_relevance.sum(axis=1) == pytest.approx([0, 1])
    assert found.relevance[1].argmax() == np.ravel_multi_index((4, 3, 3), (8, 14, 14))


def test_faithfulness_is_measured_for_the_target(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rollout_core.pipeline.STEPS", 2)
    monkeypatch.setattr("rollout_core.relevance.faithfulness.RANDOM_ORDERS", 2)
    stages: list[tuple[str, int, int]] = []
    request = ExplainRequest(faithfulness=True, overlay=None, target="a thing falls")
    result = explain_video(
        SAMPLE_PATH, tmp_path, request, loaded, progress=lambda *step: stages.append(step)
    )
    measured = result.faithfulness
    assert measured is not None
    assert measured.target == Target(label="a thing falls", index=3)
    assert (measured.steps, measured.forwards) == (2, 3 * 4 * len(FILLS))
    assert result.targets is None
    assert [fill.fill for fill in measured.fills] == list(FILLS)
    logits = torch.from_numpy(archive.load(tmp_path / "rollout.npz").logits)
    expected = float(logits.softmax(dim=1)[0, 3])
    assert [fill.most_first_deleted[0] for fill in measured.fills] == pytest.approx(
        [expected] * len(FILLS), abs=1e-5
    )
    curves = len(FILLS) * len(orders(np.zeros((8, 14, 14))))
    steps = [step for step in stages if step[0] == "faithfulness"]
    assert steps == [("faithfulness", done, curves) for done in range(curves)]
    assert result.timings_seconds["faithfulness"] > 0
    assert [artifact.name for artifact in result.artifacts][-1] == "faithfulness.png"
    with Image.open(tmp_path / "faithfulness.png") as picture:
        assert picture.width > 400


def test_comparison_has_one_row_per_method(loaded: LoadedModel, tmp_path: Path):
    request = ExplainRequest(overlay=None, start_layer=1)
    explain_video(SAMPLE_PATH, tmp_path, request, loaded)
    stages: list[str] = []

    def height(*methods: Method) -> int:
        path = compare_methods(
            SAMPLE_PATH,
            tmp_path,
            request,
            loaded,
            methods,
            progress=lambda stage, *_: stages.append(stage),
        )
        assert path == tmp_path / "comparison.png"
        with Image.open(path) as comparison, Image.open(tmp_path / "sheet.png") as sheet:
            assert comparison.width > sheet.width
            return comparison.height

    two = height("attention", "rollout")
    stages.clear()
    three = height("attention", "rollout", "contribution_rollout", "attention")
    assert len(stages) == 2 * 2
    assert three - two > 100
    assert height("attention", "rollout", "contribution_rollout") == three


def test_null_overlay_makes_no_overlay(loaded: LoadedModel, tmp_path: Path):
    result = explain_video(SAMPLE_PATH, tmp_path, ExplainRequest(overlay=None), loaded)
    assert [artifact.name for artifact in result.artifacts] == ["rollout.npz", "sheet.png"]
    assert not (tmp_path / "overlay.mp4").exists()


def test_preview_is_made_in_the_same_pass(loaded: LoadedModel, tmp_path: Path):
    result = explain_video(SAMPLE_PATH, tmp_path, ExplainRequest(preview=True), loaded)
    names = [artifact.name for artifact in result.artifacts]
    assert names == ["rollout.npz", "overlay.mp4", "sheet.png", "preview.mp4", "thumbnails.jpg"]
    assert result.thumbnails is not None
    sampled = archive.load(tmp_path / "rollout.npz").frame_index
    assert result.thumbnails.frame_index == tuple(sampled[0].tolist())
    with Image.open(tmp_path / "thumbnails.jpg") as tiles:
        assert tiles.size == (8 * result.thumbnails.tile_width, 90)


def test_tiled_clips_cover_the_span(loaded: LoadedModel, tmp_path: Path):
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


def test_unknown_colormap_is_refused_before_the_video_is_opened(
    loaded: LoadedModel, tmp_path: Path
):
    request = ExplainRequest.model_validate({"overlay": {"colormap": "no-such-map"}})
    with pytest.raises(InvalidRequest, match="no-such-map"):
        explain_video(Path("/does/not/exist"), tmp_path, request, loaded)


@pytest.mark.parametrize(
    "fields",
    [
        {"start_layer": 4},
        {"method": "gradient_rollout", "target": "jump"},
        {"query": {"frame": 8, "row": 0, "column": 0}},
    ],
)
def test_request_that_does_not_fit_is_refused_before_the_video_is_opened(
    loaded: LoadedModel, tmp_path: Path, fields: dict[str, Any]
):
    with pytest.raises(InvalidRequest):
        explain_video(
            Path("/does/not/exist"), tmp_path, ExplainRequest.model_validate(fields), loaded
        )


def test_point_outside_the_crop_is_refused(loaded: LoadedModel, tmp_path: Path):
    request = ExplainRequest.model_validate({"query": {"x": 9999, "y": 10, "seconds": 1}})
    with pytest.raises(InvalidRequest, match="outside what the model sees"):
        explain_video(SAMPLE_PATH, tmp_path, request, loaded)
