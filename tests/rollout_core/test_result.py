from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollout_core.archive import Archive
from rollout_core.contract import ExplainRequest, ExplainResult, PatchQuery, Target, TokenQuery
from rollout_core.errors import InvalidRequest
from rollout_core.model.specs import MOVING_SHAPES
from rollout_core.relevance.faithfulness import FILLS, RANDOM_ORDERS, STEPS, summarize
from rollout_core.resolve import ResolvedRun
from rollout_core.result import ResultArrays, describe_result, target_of, top_predictions
from tests.rollout_core.sources import SOURCE

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(*queries: TokenQuery, **request: object) -> ResolvedRun:
    return ResolvedRun(
        spec=MOVING_SHAPES,
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
    for name in ("rollout.npz", "overlay.mp4", "sheet.png", "faithfulness.png"):
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
        timings_seconds={"explain": 0.123456},
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
    assert (meta["model"], meta["checkpoint_sha256"]) == ("moving-shapes", "ab" * 32)
    assert meta["method"]["head_fusion"] == "max"
    assert (meta["sampling"]["name"], meta["sampling"]["end_seconds"]) == ("uniform", 2.0)


def test_request_in_result_has_all_defaults_filled_in(folder: Path):
    request = described(folder, run(discard_ratio=0.25)).request
    assert (request.model, request.sampling) == ("moving-shapes", "uniform")
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
    assert result.timings_seconds == {"explain": 0.1235}
    assert result.started_at == NOW <= result.ended_at


def test_result_has_the_share_of_each_frame(folder: Path):
    result = described(folder, run())
    assert result.frame_relevance == ((0, 0, 0), (0.3333, 0.3333, 0.3333))


def test_result_has_the_class_of_each_clip_if_there_is_one(folder: Path):
    found = result_arrays()
    found.add(targets=np.array([7, 1]))
    targets = described(folder, run(), found.archive(run())).targets
    assert targets == (target_of("blink", MOVING_SHAPES), target_of(1, MOVING_SHAPES))
    assert described(folder, run()).targets is None


def test_result_has_the_patches_of_points(folder: Path):
    patch = PatchQuery(frame=1, row=2, column=3)
    asked = run(patch, query={"x": 30, "y": 20, "seconds": 1})
    result = described(folder, asked)
    assert result.queries == (patch,)
    assert result.request.query == asked.request.query


def test_faithfulness_adds_its_plot(folder: Path):
    curves = np.ones((len(FILLS), 2 + RANDOM_ORDERS, STEPS + 1), np.float32)
    measured = summarize(curves, target_of(3, MOVING_SHAPES))
    result = described(folder, run(faithfulness=True, overlay=None), faithfulness=measured)
    assert result.faithfulness == measured
    names = [artifact.name for artifact in result.artifacts]
    assert names == ["rollout.npz", "sheet.png", "faithfulness.png"]
    assert ExplainResult.model_validate_json(result.model_dump_json()) == result


def test_missing_file_raises(folder: Path):
    (folder / "sheet.png").unlink()
    with pytest.raises(FileNotFoundError):
        described(folder, run())


def test_probabilities_are_the_softmax_of_the_logits():
    logits = np.log(np.array([[1, 2, 3, 4, 0.5, 0.5, 0.5, 0.5]], dtype=np.float32))
    top = top_predictions(logits, MOVING_SHAPES)
    assert [prediction.index for prediction in top] == [3, 2, 1, 0, 4]
    assert [prediction.label for prediction in top][:2] == ["down", "up"]
    assert top[0].probability == pytest.approx(4 / 12)


def test_clips_are_averaged_as_probabilities_not_as_logits():
    # One certain clip and one that says nothing: (1 + 1/8) / 2, not softmax of the mean logits.
    logits = np.zeros((2, 8), dtype=np.float32)
    logits[0, 6] = 100
    top = top_predictions(logits, MOVING_SHAPES)
    assert top[0].index == 6
    assert top[0].probability == pytest.approx((1 + 1 / 8) / 2)


def test_probabilities_of_all_classes_sum_to_one():
    logits = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32) * 10
    top = top_predictions(logits, MOVING_SHAPES, count=8)
    assert sum(prediction.probability for prediction in top) == pytest.approx(1)
    assert sorted(prediction.index for prediction in top) == list(range(8))


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4] + [-1e4] * 7], dtype=np.float32)
    assert top_predictions(logits, MOVING_SHAPES)[0].probability == 1


@pytest.mark.parametrize("target", [7, "7", "blink"])
def test_target_may_be_index_digits_or_label(target: int | str):
    assert target_of(target, MOVING_SHAPES) == Target(label="blink", index=7)


def test_unknown_class_is_refused():
    with pytest.raises(InvalidRequest, match="no class 'jump'"):
        target_of("jump", MOVING_SHAPES)
