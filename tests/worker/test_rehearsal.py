import pytest

from rollout_core.contract import ExplainRequest, Overlay
from rollout_core.video.clips import open_clips
from rollout_core.video.decoder import Limits
from worker import rehearsal
from worker.fake_engine import SPECS
from worker.rehearsal import media_seconds


@pytest.fixture
def estimate(video, tmp_path):
    def estimate(overlay=None, *, seconds_left=0.0, **request: object) -> float:
        opened = open_clips(video, ExplainRequest.model_validate(request), SPECS["fake"], Limits())
        return media_seconds(
            video,
            opened,
            overlay,
            tmp_path,
            limits=Limits(),
            seconds_left=seconds_left,
            heartbeat=lambda: None,
        )

    return estimate


def test_small_video_is_not_measured(estimate, monkeypatch):
    monkeypatch.setattr(rehearsal, "_frame_seconds", None)
    assert estimate(Overlay(), seconds_left=900) == 0.0


@pytest.mark.parametrize(
    ("overlay", "drawn"),
    [
        (None, 0),
        (Overlay(), 96 * 80),
        (Overlay(max_height=64), 76 * 64),
        (Overlay(max_height=64, layout="side_by_side"), 2 * 76 * 64),
    ],
)
def test_pixels_of_the_scaled_overlay_count(estimate, monkeypatch, overlay, drawn):
    monkeypatch.setattr(rehearsal, "_frame_seconds", lambda frames, use: 1.0)
    bound = 2 * 24 * (96 * 80 + drawn) * rehearsal.SLOW_SECONDS_PER_PIXEL
    assert estimate(overlay, seconds_left=1.01 * bound) == 0.0
    assert estimate(overlay, seconds_left=0.99 * bound) > 0.0


def test_decoding_and_drawing_are_measured(estimate, tmp_path):
    assert 0 < estimate() < 5
    assert 0 < estimate(Overlay()) < 5
    assert list(tmp_path.iterdir()) == []


def test_time_grows_with_the_number_of_frames(estimate, monkeypatch):
    """24 frames are drawn; of a span of one third, a third is decoded."""
    monkeypatch.setattr(rehearsal, "_frame_seconds", lambda frames, use: 0.5)
    assert estimate() == pytest.approx(24 * 0.5)
    assert estimate(end_seconds=1.0) == pytest.approx(8 * 0.5)
    assert estimate(Overlay(), end_seconds=1.0) == pytest.approx((8 + 24) * 0.5)


def test_start_of_decoder_and_encoder_is_not_measured(monkeypatch):
    clock = iter([10.0, 10.0, 18.0])
    monkeypatch.setattr(rehearsal.time, "monotonic", lambda: next(clock, 18.0))
    monkeypatch.setattr(rehearsal.time, "process_time", lambda: next(clock, 14.0))
    used = []
    seconds = rehearsal._frame_seconds(iter(range(100)), used.append)
    assert used[0] == 0
    assert seconds * (len(used) - rehearsal.STARTING_FRAMES) == pytest.approx(4.0)
