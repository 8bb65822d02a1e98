"""Tests of the encoder that writes every video of a result; see also `test_overlay`."""

from fractions import Fraction

import av
import numpy as np
import pytest

from rollout_core.pictures.encoder import VideoFormat, even_size, write_video
from rollout_core.video.color import BT709
from rollout_core.video.decoder import Limits, open_video
from tests.rollout_core import films

PATTERN = np.random.default_rng(0).integers(16, 48, (16, 32), dtype=np.uint8)


def encoded(source, *, key_frame_seconds=float("inf")):
    """Encode a pattern that grows brighter with each frame of the source; return the path.

    A flat picture would be a scene cut wherever it changes, and so a key frame.
    """
    target = source.with_name("encoded.mp4")
    form = VideoFormat((32, 16), BT709, 18, key_frame_seconds)

    def draw(frame, planes):
        luma, *chroma = planes
        luma[:] = PATTERN + frame.index
        for plane in chroma:
            plane[:] = 128

    with open_video(source, Limits()) as decoder, write_video(target, decoder, form, draw) as write:
        for frame in decoder.frames():
            write(frame)
    return target


def key_times(path):
    """Return the time of each key frame, and that of the end, in seconds."""
    with av.open(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        times = [float(packet.pts * packet.time_base) for packet in packets if packet.is_keyframe]
        last = packets[-1]
        return [*times, float((last.pts + last.duration) * last.time_base)]


def test_what_is_drawn_is_encoded(film):
    frames = films.decode(encoded(film(frames=30)))
    for index, frame in enumerate(frames):
        luma = frame.to_ndarray()[:16].astype(float)
        assert (luma - PATTERN).mean() == pytest.approx(index, abs=1)
        assert np.abs(luma - PATTERN - index).mean() < 3
    assert len(frames) == 30
    assert {(frame.width, frame.height, frame.format.name) for frame in frames} == {
        (32, 16, "yuv420p")
    }


def test_first_frame_is_shown_at_time_zero_without_an_edit_list(film):
    ticks = [500, 540, 580, 700]
    target = encoded(film(ticks=ticks, time_base=Fraction(1, 1000)))
    content = target.read_bytes()
    assert b"elst" not in content
    assert b"ctts" not in content  # all frames are stored in display order
    with av.open(target) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        times = [packet.pts * packet.time_base for packet in packets]
    assert times == [Fraction(tick - 500, 1000) for tick in ticks]


@pytest.mark.parametrize("rate", [8, 25, 60])
def test_key_frames_come_as_often_as_asked(film, rate):
    times = key_times(encoded(film(frames=3 * rate, rate=rate), key_frame_seconds=1.0))
    np.testing.assert_allclose(times, [0, 1, 2, 3], atol=1e-6)


def test_key_frames_follow_the_time_and_not_the_number_of_frames(film):
    """From 0.9 s, the next frame is beyond the second; from 3.0 s on, every frame is."""
    ticks = [0, 100, 500, 900, 1100, 1300, 3000, 5000]
    source = film(ticks=ticks, time_base=Fraction(1, 1000), last_ticks=2000)
    times = key_times(encoded(source, key_frame_seconds=1.0))
    np.testing.assert_allclose(times, [0, 0.9, 1.3, 3.0, 5.0, 7.0], atol=1e-6)


def test_key_frames_are_left_to_the_encoder_by_default(film):
    assert len(key_times(encoded(film(frames=100, rate=25)))) == 2


@pytest.mark.parametrize(
    ("displayed", "max_height", "expected"),
    [
        ((3840, 2160), 1080, (1920, 1080)),
        ((1080, 1920), 1080, (608, 1080)),
        ((1920, 1080), 1080, (1920, 1080)),
        ((1920, 1081), 1080, (1918, 1080)),
        ((65, 49), 1080, (64, 48)),
        ((65, 49), 17, (22, 16)),
        ((1, 5000), 1080, (2, 1080)),
    ],
)
def test_size_is_even_and_at_most_the_height_asked_for(displayed, max_height, expected):
    assert even_size(displayed, max_height) == expected
