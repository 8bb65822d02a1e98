from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollout_core.archive import Archive
from rollout_core.contract import (
    Caption,
    ExplainRequest,
    ExplainResult,
    PatchQuery,
    Target,
    ThumbnailSheet,
    TokenQuery,
)
from rollout_core.errors import InvalidRequest
from rollout_core.model.specs import MOVING_THINGS
from rollout_core.relevance.faithfulness import FILLS, RANDOM_ORDERS, STEPS, summarize
from rollout_core.resolve import ResolvedRun
from rollout_core.result import (
    ResultArrays,
    caption_of,
    describe_result,
    frame_shares,
    target_of,
    thumbnail_sheet,
    top_predictions,
)
from rollout_core.timings import Timings
from tests.rollout_core.sources import SOURCE

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MOTIONS = ("left", "right", "up", "down", "grow", "shrink", "swing", "blink")
SPEC = MOVING_THINGS.model_copy(
    update={"name": "motions", "classes": len(MOTIONS), "labels": MOTIONS}
)


def run(*queries: TokenQuery, **request: object) -> ResolvedRun:
    return ResolvedRun(
        spec=SPEC,
        checkpoint_sha256="ab" * 32,
        request=ExplainRequest.model_validate(request),
        crop=(10, 0, 60, 60),
        sampling="uniform",
        start_seconds=0.5,
        end_seconds=2.0,
        queries=queries or ("cls",),
    )


def result_arrays(
    clips: int = 2, t: int = 3, h: int = 2, w: int = 4, queries: int = 1
) -> ResultArrays:
    """Clip c's relevance for query r is c + 10 r."""
    found = ResultArrays()
    for clip in range(clips):
        values = clip + 10 * np.arange(queries, dtype=np.float32)
        found.add(pts_seconds=np.arange(t)[None] + 10.0 * clip)
        found.add(frame_index=np.arange(t)[None] + 100 * clip)
        found.add(
            query_relevance=np.tile(values.reshape(1, -1, 1, 1, 1), (1, 1, t, h, w)),
            temporal_rollout=np.full((1, t, t), clip, np.float32),
            logits=np.eye(8, dtype=np.float32)[[clip]] * 50,
        )
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the finished files of an attempt."""
    names = ("rollout.npz", "overlay.mp4", "sheet.png", "faithfulness.png")
    for name in (*names, "preview.mp4", "thumbnails.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def described(
    folder: Path, asked: ResolvedRun, found: Archive | None = None, **known: Any
) -> ExplainResult:
    return describe_result(
        asked,
        found or result_arrays().archive(asked),
        folder,
        source=SOURCE,
        timings=Timings({"explain": 0.123456, "render": 1.0}),
        attempt=2,
        started_at=NOW,
        **known,
    )


def test_clips_are_concatenated_in_order():
    found = result_arrays().archive(run())
    assert found.relevance.shape == (2, 3, 2, 4)
    assert found.relevance[:, 0, 0, 0].tolist() == [0, 1]
    assert found.pts_seconds.tolist() == [[0, 1, 2], [10, 11, 12]]
    assert found.frame_index.tolist() == [[0, 1, 2], [100, 101, 102]]
    assert found.logits.argmax(axis=1).tolist() == [0, 1]
    assert found.crop_xywh.tolist() == [10, 0, 60, 60]
    assert found.temporal_rollout[:, 0, 0].tolist() == [0, 1]
    assert found.temporal_rollout.shape == (2, 3, 3)


def test_relevance_is_that_of_the_first_query():
    found = result_arrays(queries=3).archive(
        run("cls", PatchQuery(frame=0, row=0, column=0), "cls")
    )
    assert found.query_relevance is not None
    assert found.query_relevance.shape == (3, 2, 3, 2, 4)
    assert found.query_relevance[:, :, 0, 0, 0].tolist() == [[0, 1], [10, 11], [20, 21]]
    np.testing.assert_array_equal(found.relevance, found.query_relevance[0])


def test_single_query_is_not_stored_twice():
    assert result_arrays().archive(run()).query_relevance is None


def test_optional_arrays_are_kept():
    found, layers = result_arrays(), np.ones((2, 4, 3, 2, 4), np.float32)
    full = np.ones((2, 25, 25), np.float16)
    found.add(layer_relevance=layers, full_rollout=full, targets=np.array([5, 2]))
    archive = found.archive(run())
    np.testing.assert_array_equal(archive.layer_relevance, layers)
    np.testing.assert_array_equal(archive.full_rollout, full)
    assert archive.meta["targets"] == ["shrink", "up"]
    assert {"layer_relevance", "full_rollout", "targets"} <= set(archive.meta["axes"])
    assert "query_relevance" not in archive.meta["axes"]


def test_archive_metadata_describes_the_run():
    meta = result_arrays().archive(run(head_fusion="max")).meta
    assert (meta["model"], meta["checkpoint_sha256"]) == ("motions", "ab" * 32)
    assert meta["method"]["head_fusion"] == "max"
    assert (meta["sampling"]["name"], meta["sampling"]["end_seconds"]) == ("uniform", 2.0)


def test_request_in_result_has_all_defaults_filled_in(folder: Path):
    request = described(folder, run(discard_ratio=0.25)).request
    assert (request.model, request.sampling) == ("motions", "uniform")
    assert (request.start_seconds, request.end_seconds) == (0.5, 2.0)
    assert request.discard_ratio == 0.25


def test_result_lists_its_files(folder: Path):
    result = described(folder, run())
    names = [artifact.name for artifact in result.artifacts]
    assert names == ["rollout.npz", "overlay.mp4", "sheet.png"]
    assert result.artifacts[0].bytes == len("rollout.npz")


def test_result_without_overlay_lists_no_overlay(folder: Path):
    names = [artifact.name for artifact in described(folder, run(overlay=None)).artifacts]
    assert names == ["rollout.npz", "sheet.png"]


def test_result_summarizes_the_clips(folder: Path):
    result = described(folder, run())
    assert (result.clips, result.frames, result.attempt) == (2, 6, 2)
    assert {p.label for p in result.predictions[:2]} == {"left", "right"}
    assert result.predictions[0].probability == pytest.approx(0.5)
    assert result.timings_seconds == {"explain": 0.1235, "render": 1.0, "total": 1.1235}
    assert result.started_at == NOW <= result.ended_at


def test_result_has_the_share_of_each_frame(folder: Path):
    result = described(folder, run())
    assert result.frame_relevance == ((0, 0, 0), (0.3333, 0.3333, 0.3333))


def test_result_has_the_class_of_each_clip_if_there_is_one(folder: Path):
    found = result_arrays()
    found.add(targets=np.array([7, 1]))
    targets = described(folder, run(), found.archive(run())).targets
    assert targets == (target_of(7, SPEC), target_of(1, SPEC))
    assert described(folder, run()).targets is None


def test_result_has_the_classes_of_several_targets(folder: Path):
    found, classes = result_arrays(), np.array([[7, 2], [1, 2]])
    relevance = np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1, 1) * np.ones((3, 2, 4))
    found.add(targets=classes[:, 0], target_classes=classes, target_relevance=relevance)
    archive = found.archive(run())
    assert archive.target_relevance is not None
    assert archive.target_relevance.shape == (2, 2, 3, 2, 4)
    assert archive.target_relevance[:, :, 0, 0, 0].tolist() == [[0, 2], [1, 3]]
    result = described(folder, run(), archive)
    assert result.target_classes is not None
    indices = [[of_clip.index for of_clip in target] for target in result.target_classes]
    assert indices == [[7, 1], [2, 2]]
    assert result.targets == result.target_classes[0]


def test_a_single_target_needs_no_array_of_its_own(folder: Path):
    found, classes = result_arrays(), np.array([[7], [1]])
    found.add(targets=classes[:, 0], target_classes=classes)
    found.add(target_relevance=np.zeros((2, 1, 3, 2, 4), np.float32))
    archive = found.archive(run())
    assert (archive.target_relevance, archive.target_classes) == (None, None)
    assert described(folder, run(), archive).target_classes is None


def test_negative_relevance_has_no_share_of_a_frame():
    relevance = np.array([[[[1.0, -5.0]], [[3.0, 0.0]], [[-1.0, -1.0]]]], np.float32)
    assert frame_shares(relevance).tolist() == [[0.25, 0.75, 0]]


def test_result_has_the_patches_of_points(folder: Path):
    patch = PatchQuery(frame=1, row=2, column=3)
    asked = run(patch, query={"x": 30, "y": 20, "seconds": 1})
    result = described(folder, asked)
    assert result.queries == (patch,)
    assert result.request.query == asked.request.query


def test_faithfulness_adds_its_plot(folder: Path):
    curves = np.ones((len(FILLS), 2 + RANDOM_ORDERS, STEPS + 1), np.float32)
    measured = summarize(curves, target_of(3, SPEC))
    result = described(folder, run(faithfulness=True, overlay=None), faithfulness=measured)
    assert result.faithfulness == measured
    names = [artifact.name for artifact in result.artifacts]
    assert names == ["rollout.npz", "sheet.png", "faithfulness.png"]
    assert ExplainResult.model_validate_json(result.model_dump_json()) == result


def test_preview_adds_its_files_and_tells_where_each_frame_is(folder: Path):
    result = described(folder, run(preview=True))
    names = [artifact.name for artifact in result.artifacts]
    assert names == ["rollout.npz", "overlay.mp4", "sheet.png", "preview.mp4", "thumbnails.jpg"]
    tiles = result.thumbnails
    assert tiles is not None
    assert tiles.frame_index == (0, 1, 2, 100, 101, 102)
    assert (tiles.tile_width, tiles.tile_height, tiles.columns) == (108, 90, 6)
    assert ExplainResult.model_validate_json(result.model_dump_json()) == result
    assert described(folder, run()).thumbnails is None


def sheet_of(frame_index: list[list[int]], width: int = 96, height: int = 80) -> ThumbnailSheet:
    found = replace(result_arrays().archive(run()), frame_index=np.array(frame_index))
    source = SOURCE.model_copy(update={"width": width, "height": height})
    sheet = thumbnail_sheet(run(preview=True).request, found, source)
    assert sheet is not None
    return sheet


def test_frame_sampled_twice_has_one_tile_and_tiles_are_in_time_order():
    assert sheet_of([[8, 9, 9], [3, 8, 30]]).frame_index == (3, 8, 9, 30)


def test_of_many_frames_256_are_chosen_evenly_with_the_first_and_the_last():
    chosen = sheet_of([list(range(5, 5 + 3 * 1000, 3))])
    assert len(chosen.frame_index) == 256
    assert chosen.columns == 16
    assert (chosen.frame_index[0], chosen.frame_index[-1]) == (5, 5 + 3 * 999)
    steps = set(np.diff(chosen.frame_index).tolist())
    assert steps <= {9, 12}  # 1000 / 256 is between 3 and 4 frames, each 3 apart
    assert sheet_of([list(range(256))]).frame_index == tuple(range(256))


@pytest.mark.parametrize(
    ("size", "width"),
    [
        ((1920, 1080), 160),
        ((1080, 1920), 50),
        ((640, 480), 120),
        ((65, 49), 120),
        ((4000, 1000), 200),
        ((1, 5000), 2),
    ],
)
def test_tiles_have_the_shape_of_the_displayed_frame(size: tuple[int, int], width: int):
    sheet = sheet_of([[0, 1]], *size)
    assert (sheet.tile_width, sheet.tile_height, sheet.columns) == (width, 90, 2)


def test_result_of_an_older_version_has_no_thumbnails(folder: Path):
    fields = described(folder, run()).model_dump(mode="json")
    del fields["thumbnails"], fields["request"]["preview"]
    older = ExplainResult.model_validate(fields)
    assert (older.thumbnails, older.request.preview) == (None, False)


def test_missing_file_raises(folder: Path):
    (folder / "sheet.png").unlink()
    with pytest.raises(FileNotFoundError):
        described(folder, run())


def test_probabilities_are_the_softmax_of_the_logits():
    logits = np.log(np.array([[1, 2, 3, 4, 0.5, 0.5, 0.5, 0.5]], dtype=np.float32))
    top = top_predictions(logits, SPEC)
    assert [prediction.index for prediction in top] == [3, 2, 1, 0, 4]
    assert [prediction.label for prediction in top][:2] == ["down", "up"]
    assert top[0].probability == pytest.approx(4 / 12)


def test_clips_are_averaged_as_probabilities_not_as_logits():
    # One certain clip and one that says nothing: (1 + 1/8) / 2, not softmax of the mean logits.
    logits = np.zeros((2, 8), dtype=np.float32)
    logits[0, 6] = 100
    top = top_predictions(logits, SPEC)
    assert top[0].index == 6
    assert top[0].probability == pytest.approx((1 + 1 / 8) / 2)


def test_probabilities_of_all_classes_sum_to_one():
    logits = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32) * 10
    top = top_predictions(logits, SPEC, count=8)
    assert sum(prediction.probability for prediction in top) == pytest.approx(1)
    assert sorted(prediction.index for prediction in top) == list(range(8))


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4] + [-1e4] * 7], dtype=np.float32)
    assert top_predictions(logits, SPEC)[0].probability == 1


@pytest.mark.parametrize("target", [7, "7", "blink"])
def test_target_may_be_index_digits_or_label(target: int | str):
    assert target_of(target, SPEC) == Target(label="blink", index=7)


def test_unknown_class_is_refused():
    with pytest.raises(InvalidRequest, match="no class 'jump'"):
        target_of("jump", SPEC)


@pytest.mark.parametrize(
    ("request_", "size", "detail"),
    [
        ({}, (60, 60), "motions · rollout"),
        (
            {"method": "attention"},
            (80, 60),
            "motions · attention · the model sees 60 by 60 of 80 by 60 pixels",
        ),
        ({"method": "gradient_rollout"}, (60, 60), "motions · gradient_rollout of up, left"),
    ],
)
def test_caption_tells_the_prediction_and_how_it_is_explained(request_, size, detail):
    job = run(**request_)
    found = result_arrays(clips=2).archive(job)
    if request_.get("method") == "gradient_rollout":
        found = replace(found, targets=np.array([2, 0]))
    assert caption_of(job, found, size) == Caption(title="left, 50 %", detail=detail)
    assert caption_of(job, found, (60, 60), has_method=False).detail == (
        "motions · each row of maps is another method's"
    )


def test_caption_of_a_patch_says_so():
    patch = PatchQuery(clip=0, frame=1, row=1, column=1)
    job = run(patch)
    caption = caption_of(job, result_arrays(clips=1).archive(job), (60, 60))
    assert caption.detail == "motions · rollout · for one patch"
