from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from rollout_core.archive import Run
from rollout_core.contract import ExplainRequest, ExplainResult
from rollout_core.results import Findings, describe_result
from rollout_core.specs import MOVING_SHAPES

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(**request: object) -> Run:
    return Run(
        spec=MOVING_SHAPES,
        checkpoint_sha256="ab" * 32,
        request=ExplainRequest.model_validate(request),
        crop=(10, 0, 60, 60),
        sampling="uniform",
        start_seconds=0.5,
        end_seconds=2.0,
    )


def findings(clips: int = 2, t: int = 3, h: int = 2, w: int = 4) -> Findings:
    found = Findings()
    for clip in range(clips):
        found.relevance.append(np.full((1, t, h, w), clip, np.float32))
        found.logits.append(np.eye(8, dtype=np.float32)[[clip]] * 50)
        found.pts_seconds.append(np.arange(t) + 10.0 * clip)
        found.frame_index.append(np.arange(t) + 100 * clip)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the finished files of an attempt."""
    for name in ("rollout.npz", "overlay.mp4", "sheet.png"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def described(folder: Path, asked: Run) -> ExplainResult:
    return describe_result(
        asked,
        findings().archive(asked),
        folder,
        timings_seconds={"explain": 0.123456},
        attempt=2,
        started_at=NOW,
    )


def test_clips_are_put_together_in_their_order():
    found = findings().archive(run())
    assert found.relevance.shape == (2, 3, 2, 4)
    assert found.relevance[:, 0, 0, 0].tolist() == [0, 1]
    assert found.pts_seconds.tolist() == [[0, 1, 2], [10, 11, 12]]
    assert found.frame_index.tolist() == [[0, 1, 2], [100, 101, 102]]
    assert found.logits.argmax(axis=1).tolist() == [0, 1]
    assert found.crop_xywh.tolist() == [10, 0, 60, 60]


def test_the_archive_says_how_it_was_made():
    meta = findings().archive(run(head_fusion="max")).meta
    assert (meta["model"], meta["checkpoint_sha256"]) == ("moving-shapes", "ab" * 32)
    assert meta["method"]["head_fusion"] == "max"
    assert (meta["sampling"]["name"], meta["sampling"]["end_seconds"]) == ("uniform", 2.0)


def test_the_request_of_a_result_has_every_default_filled_in(folder: Path):
    request = described(folder, run(discard_ratio=0.25)).request
    assert (request.model, request.sampling) == ("moving-shapes", "uniform")
    assert (request.start_seconds, request.end_seconds) == (0.5, 2.0)
    assert request.discard_ratio == 0.25


def test_a_result_describes_its_files(folder: Path):
    result = described(folder, run())
    names = [artifact.name for artifact in result.artifacts]
    assert names == ["rollout.npz", "overlay.mp4", "sheet.png"]
    assert result.artifacts[0].bytes == len("rollout.npz")


def test_a_result_without_overlay_has_none(folder: Path):
    names = [artifact.name for artifact in described(folder, run(overlay=None)).artifacts]
    assert names == ["rollout.npz", "sheet.png"]


def test_a_result_sums_up_the_clips(folder: Path):
    result = described(folder, run())
    assert (result.clips, result.frames, result.attempt) == (2, 6, 2)
    assert {p.label for p in result.predictions[:2]} == {"left", "right"}
    assert result.predictions[0].probability == pytest.approx(0.5)
    assert result.timings_seconds == {"explain": 0.1235}
    assert result.started_at == NOW <= result.ended_at


def test_a_missing_file_is_our_own_bug(folder: Path):
    (folder / "sheet.png").unlink()
    with pytest.raises(FileNotFoundError):
        described(folder, run())
