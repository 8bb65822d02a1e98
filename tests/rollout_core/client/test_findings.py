from datetime import UTC, datetime

import numpy as np
import pytest

from rollout_core.archive import Archive
from rollout_core.client.findings import describe_findings, tell_findings
from rollout_core.contract import ExplainRequest, ExplainResult, Prediction, VideoWarning


@pytest.fixture
def result():
    return ExplainResult(
        model="fake",
        checkpoint_sha256=None,
        request=ExplainRequest(),
        predictions=(
            Prediction(label="left", index=0, probability=0.75),
            Prediction(label="right", index=1, probability=0.2),
        ),
        clips=1,
        frames=3,
        warnings=(VideoWarning(code="video_incomplete", detail="a part is missing"),),
        artifacts=(),
        timings_seconds={},
        attempt=1,
        started_at=datetime.now(UTC),
        ended_at=datetime.now(UTC),
    )


def archive(relevance, crop=(20, 10, 400, 200)):
    clips, frames = relevance.shape[:2]
    shares = relevance.sum(axis=(2, 3))
    return Archive(
        relevance=relevance.astype(np.float32),
        frame_relevance=(shares / np.maximum(shares.sum(1, keepdims=True), 1e-9)).astype(
            np.float32
        ),
        temporal_rollout=np.zeros((clips, frames, frames), np.float32),
        pts_seconds=np.tile(np.arange(frames) * 0.5, (clips, 1)),
        frame_index=np.zeros((clips, frames), np.int64),
        crop_xywh=np.array(crop),
        logits=np.zeros((clips, 2), np.float32),
        meta={},
    )


def test_the_peak_is_found_in_time_and_in_source_pixels(result):
    relevance = np.full((1, 3, 2, 4), 0.01)
    relevance[0, 2, 1, 3] = 0.77
    (clip,) = describe_findings(result, archive(relevance))["clips"]
    assert clip["peak"] == {"seconds": 1.0, "region": "lower right", "x": 370, "y": 160}
    assert clip["top_frames"][0] == {"seconds": 1.0, "share": 0.84}
    assert (clip["start_seconds"], clip["end_seconds"]) == (0.0, 1.0)
    assert clip["top_tenth_share"] == pytest.approx(0.78, abs=1e-3)


@pytest.mark.parametrize(
    ("row", "column", "region"),
    [(0, 0, "upper left"), (1, 1, "centre"), (1, 2, "middle right"), (2, 1, "lower centre")],
)
def test_regions_have_names(result, row, column, region):
    relevance = np.zeros((1, 1, 3, 3))
    relevance[0, 0, row, column] = 1
    (clip,) = describe_findings(result, archive(relevance))["clips"]
    assert clip["peak"]["region"] == region


def test_a_map_without_relevance_does_no_harm(result):
    (clip,) = describe_findings(result, archive(np.zeros((1, 2, 2, 2))))["clips"]
    assert clip["top_tenth_share"] == 0


def test_many_clips_are_counted_not_told(result):
    findings = describe_findings(result, archive(np.ones((11, 2, 2, 2))))
    assert (len(findings["clips"]), findings["clips_not_described"]) == (8, 3)
    assert "3 more clips" in tell_findings(findings)


def test_the_words_have_the_numbers(result):
    relevance = np.full((1, 3, 2, 4), 0.01)
    relevance[0, 2, 1, 3] = 0.77
    text = tell_findings(describe_findings(result, archive(relevance)))
    assert text.startswith("fake predicts 'left' (75.0%).\nThen: 'right' 20.0%.")
    assert "1.00 s in the lower right" in text
    assert "pixel (370, 160)" in text
    assert text.endswith("Warning: a part is missing")
