import pytest

from rollout_core.contract import ExplainRequest, Overlay
from rollout_core.video.clips import open_clips
from rollout_core.video.decoder import Limits
from worker import rehearsal
from worker.fake_engine import SPECS
from worker.rehearsal import media_seconds


@pytest.fixture
def estimate(video, tmp_path):
    def estimate(overlay=None, *, seconds_left=0.0, **fields: object) -> float:
        request = ExplainRequest.model_validate({"overlay": overlay, **fields})
        opened = open_clips(video, request, SPECS["fake"], Limits())
        return media_seconds(
            video,
            opened,
            request,
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
    ("overlay", "preview", "drawn"),
    [
        (None, False, 0),
        (Overlay(), False, 96 * 80),
        (Overlay(max_height=64), False, 76 * 64),
        (Overlay(max_height=64, layout="side_by_side"), False, 2 * 76 * 64),
        (None, True, 96 * 80),
        (Overlay(max_height=64), True, 76 * 64 + 96 * 80),
    ],
)
def test_pixels_of_the_videos_count(estimate, monkeypatch, overlay, preview, drawn):
    monkeypatch.setattr(rehearsal, "_frame_seconds", lambda frames, use: 1.0)
    bound = 2 * 24 * (96 * 80 + drawn) * rehearsal.SLOW_SECONDS_PER_PIXEL
    assert estimate(overlay, preview=preview, seconds_left=1.01 * bound) == 0.0
    assert estimate(overlay, preview=preview, seconds_left=0.99 * bound) > 0.0


def test_decoding_and_drawing_are_measured(estimate, tmp_path):
    assert 0 < estimate() < 5
    assert 0 < estimate(Overlay()) < 5
    assert 0 < estimate(preview=True) < 5
    assert list(tmp_path.iterdir()) == []


def test_time_grows_with_the_number_of_frames(estimate, monkeypatch):
    """24 frames are drawn; of a span of one third, a third is decoded."""
    monkeypatch.setattr(rehearsal, "_frame_seconds", lambda frames, use: 0.5)
    assert estimate() == pytest.approx(24 * 0.5)
    assert estimate(end_seconds=1.0) == pytest.approx(8 * 0.5)
    assert estimate(Overlay(), end_seconds=1.0) == pytest.approx((8 + 24) * 0.5)


def test_overlay_and_preview_are_measured_together(estimate, tmp_path, monkeypatch):
    seen = []

    def frame_seconds(frames, use):
        for frame in frames:
            use(frame)
        seen.append({path.name for path in tmp_path.iterdir()})
        return 0.5

    monkeypatch.setattr(rehearsal, "_frame_seconds", frame_seconds)
    assert estimate(Overlay(), preview=True) == pytest.approx((24 + 24) * 0.5)
    assert estimate(preview=True) == pytest.approx((24 + 24) * 0.5)
    assert seen == [set(), {"overlay.mp4", "preview.mp4"}, set(), {"preview.mp4"}]
    assert list(tmp_path.iterdir()) == []


def test_start_of_decoder_and_encoder_is_not_measured(monkeypatch):
    clock = iter([10.0, 10.0, 18.0])
    monkeypatch.setattr(rehearsal.time, "monotonic", lambda: next(clock, 18.0))
    monkeypatch.setattr(rehearsal.time, "process_time", lambda: next(clock, 14.0))
    used = []
    seconds = rehearsal._frame_seconds(iter(range(100)), used.append)
    assert used[0] == 0
    assert seconds * (len(used) - rehearsal.STARTING_FRAMES) == pytest.approx(4.0)
