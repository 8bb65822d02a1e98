"""Tests show that each limit is enforced, and that without it the video would do harm."""

from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np
import pytest

from rollout_core.errors import (
    VideoTooLarge,
    VideoTooLong,
    VideoUndecodable,
)
from rollout_core.video import decoder
from rollout_core.video.decoder import Limits, open_video
from tests.rollout_core import films

LIMITS = Limits()


def frames_of(path, limits=LIMITS):
    with open_video(path, limits) as video:
        return list(video.frames())


@contextmanager
def unchecked_headers(monkeypatch):
    """Accept every header, so that only the checks while decoding are left."""
    with monkeypatch.context() as patch:
        patch.setattr(decoder.Decoder, "check_headers", lambda self: None)
        yield


def overwrite_packets(path) -> int:
    """Overwrite every packet of a video; return their number."""
    with av.open(path) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    for packet in packets:
        content = content.replace(packet, b"\xff" * len(packet))
    path.write_bytes(content)
    return len(packets)


def concatenated(path, other):
    joined = path.with_name("joined.ts")
    joined.write_bytes(path.read_bytes() + other.read_bytes())
    return joined


CONTAINERS_AND_CODECS = [
    ("film.mp4", "libx264", "yuv420p"),
    ("film.mp4", "libx264", "yuv420p10le"),
    ("film.mp4", "libx264", "yuv444p"),
    ("film.mp4", "libsvtav1", "yuv420p"),
    ("film.mov", "libx265", "yuv420p"),
    ("film.mkv", "libx265", "yuv420p10le"),
    ("film.mkv", "libx264", "yuvj420p"),
    ("film.mkv", "libsvtav1", "yuv420p10le"),
    ("film.webm", "libvpx", "yuv420p"),
    ("film.webm", "libvpx-vp9", "yuv420p"),
    ("film.avi", "mpeg4", "yuv420p"),
    ("film.avi", "libx264", "yuv420p"),
    ("film.ts", "libx264", "yuv420p"),
    ("film.ts", "libx265", "yuv420p"),
]


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), CONTAINERS_AND_CODECS)
def test_every_container_and_codec_is_decoded(film, name, codec, pix_fmt):
    frames = frames_of(film(name, codec=codec, pix_fmt=pix_fmt, width=64, height=64))
    assert [films.index_of(frame.rgb()) for frame in frames] == list(range(10))
    assert [frame.index for frame in frames] == list(range(10))
    np.testing.assert_allclose([frame.pts_seconds for frame in frames], np.arange(10) / 25)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts", "film.avi"])
def test_reordered_frames_come_in_display_order(film, name):
    path = film(name, options={"preset": "medium", "bf": "3", "b-adapt": "0"})
    packets = [packet.pts for packet in av.open(path).demux(video=0) if packet.size]
    if name != "film.avi":  # which stores no times of display
        assert packets != sorted(packets)
    frames = frames_of(path)
    assert [films.index_of(frame.rgb()) for frame in frames] == list(range(10))
    assert (np.diff([frame.ticks for frame in frames]) > 0).all()


def test_variable_frame_rate_is_kept(film):
    ticks = [0, 40, 100, 130, 300, 333]
    path = film("film.mkv", ticks=ticks, time_base=Fraction(1, 1000), rate=30)
    frames = frames_of(path)
    np.testing.assert_allclose([frame.pts_seconds for frame in frames], np.array(ticks) / 1000)


def test_times_begin_with_the_first_frame(film):
    path = film("film.mkv", ticks=[5000, 5040, 5080], time_base=Fraction(1, 1000))
    assert [frame.ticks for frame in frames_of(path)] == [0, 40, 80]


@pytest.mark.parametrize(
    ("rotation", "bright"),  # counterclockwise: which corner the stored top left goes to
    [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))],
)
def test_frames_are_rotated_as_displayed(film, rotation, bright):
    path = film(rotation=rotation, picture=films.corner, frames=2)
    frame = frames_of(path)[0]
    pixels = frame.rgb()
    width, height = frame.displayed_size
    assert (width, height) == ((48, 64) if rotation in (90, -90) else (64, 48))
    assert pixels.shape == (height, width, 3)
    quarters = pixels.reshape(2, height // 2, 2, width // 2, 3).mean(axis=(1, 3, 4))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == bright


@pytest.mark.parametrize(("width", "height"), [(65, 49), (33, 64), (64, 17)])
def test_odd_sizes_are_decoded(film, width, height):
    path = film("film.mkv", codec="libvpx-vp9", width=width, height=height, frames=3)
    assert frames_of(path)[0].rgb().shape == (height, width, 3)


def test_reordered_frames_of_a_container_without_timestamps_are_evenly_spaced(film):
    path = film("film.avi", options={"preset": "medium", "bf": "3", "b-adapt": "0"})
    guessed = [frame.pts for frame in films.decode(path)]
    assert guessed != sorted(guessed)  # unprotected, this happens
    assert [frame.ticks for frame in frames_of(path)] == list(range(10))


def test_frames_that_an_avi_omits_keep_their_time(film):
    path = film("film.avi", codec="mpeg4", ticks=[0, 1, 5, 6], time_base=Fraction(1, 25))
    assert [frame.ticks for frame in frames_of(path)] == [0, 1, 5, 6]


@pytest.mark.parametrize("name", ["film.mkv", "film.mp4"])
def test_unsupported_stream_does_not_hide_a_supported_one(tmp_path, name):
    path = tmp_path / name
    with av.open(path, "w") as output:
        preview = output.add_stream("mjpeg", rate=25, width=32, height=32, pix_fmt="yuvj420p")
        video = output.add_stream("libx264", rate=25, width=64, height=48)
        for stream in (preview, video):
            for index in range(3):
                pixels = films.grey(index, stream.width, stream.height)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            output.mux(stream.encode(None))
    assert {frame.displayed_size for frame in frames_of(path)} == {(64, 48)}


def test_sound_is_ignored(tmp_path):
    path = tmp_path / "film.mp4"
    with av.open(path, "w") as output:
        video = output.add_stream("libx264", rate=25, width=64, height=48)
        sound = output.add_stream("aac", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        samples.sample_rate = 8000
        for packet in sound.encode(samples):
            output.mux(packet)
        for index in range(3):
            output.mux(video.encode(av.VideoFrame.from_ndarray(films.grey(index, 64, 48))))
        output.mux(video.encode(None))
        output.mux(sound.encode(None))
    assert len(frames_of(path)) == 3


# Limits


def test_large_frames_are_refused_from_the_header(plain_film):
    assert frames_of(plain_film, Limits(max_pixels=64 * 48))
    with pytest.raises(VideoTooLarge, match="64×48"):
        frames_of(plain_film, Limits(max_pixels=64 * 48 - 1))


def test_long_videos_are_refused_from_the_header(plain_film):
    assert frames_of(plain_film, Limits(max_seconds=0.4))
    with pytest.raises(VideoTooLong, match=r"more than 0\.39 s"):
        frames_of(plain_film, Limits(max_seconds=0.39))


def test_many_frames_are_refused_from_the_header(plain_film):
    assert frames_of(plain_film, Limits(max_frames=10))
    with pytest.raises(VideoTooLong, match="more than 9 frames"):
        frames_of(plain_film, Limits(max_frames=9))


def test_frames_too_wide_for_the_encoder_are_refused(film):
    path = film("film.webm", codec="libvpx-vp9", width=8194, height=16, frames=1)
    with pytest.raises(VideoTooLarge, match="a side of more than 8192 pixels"):
        frames_of(path)


@pytest.mark.parametrize(
    ("limits", "error", "decoded"),
    [
        (Limits(max_pixels=64 * 48 - 1), VideoTooLarge, 0),
        (Limits(max_frames=7), VideoTooLong, 7),
        (Limits(max_seconds=0.2), VideoTooLong, 6),
    ],
)
def test_limits_are_enforced_while_decoding(plain_film, monkeypatch, limits, error, decoded):
    count = 0
    with (
        unchecked_headers(monkeypatch),
        open_video(plain_film, limits) as video,
        pytest.raises(error),
    ):
        for _ in video.frames():
            count += 1
    assert count == decoded


def test_padding_of_frames_to_blocks_does_not_count(film):
    path = film(width=66, height=50)  # coded as 80×64
    assert len(frames_of(path, Limits(max_pixels=66 * 50))) == 10


# Streams that change, and damaged ones


@pytest.fixture
def growing(film):
    """Ten frames of 64×48, then ten of 128×96, in one stream."""
    path = film("small.ts")
    return concatenated(path, film("large.ts", width=128, height=96))


def test_frames_are_scaled_to_the_size_of_the_first_one(growing):
    assert {(frame.width, frame.height) for frame in films.decode(growing)} == {
        (64, 48),
        (128, 96),
    }
    frames = frames_of(growing)
    assert len(frames) > 15
    assert {frame.displayed_size for frame in frames} == {(64, 48)}
    assert {frame.rgb().shape for frame in frames} == {(48, 64, 3)}


def test_stream_that_grows_beyond_the_limit_is_refused(growing):
    with pytest.raises(VideoTooLarge, match="128×96"):
        frames_of(growing, Limits(max_pixels=100 * 96))


def test_stream_that_grows_far_beyond_the_limit_is_truncated(growing):
    frames = frames_of(growing, Limits(max_pixels=64 * 48))
    assert {frame.displayed_size for frame in frames} == {(64, 48)}
    assert len(frames) <= 10


def test_time_continues_across_concatenated_recordings(film):
    joined = concatenated(film("a.ts", frames=60), film("b.ts", frames=10))
    frames = frames_of(joined)
    steps = np.diff([frame.pts_seconds for frame in frames])
    assert len(frames) >= 68
    assert steps.min() > 0.01
    assert steps.max() < 0.2


def test_frames_with_the_same_timestamp_get_different_times(plain_film, monkeypatch):
    def same_time(self):
        for picture in pictures(self):
            picture.pts = 512 * (picture.pts // 1024)
            yield picture

    pictures = decoder.Decoder._pictures
    monkeypatch.setattr(decoder.Decoder, "_pictures", same_time)
    ticks = [frame.ticks for frame in frames_of(plain_film)]
    assert ticks[:4] == [0, 1, 512, 513]


def test_frames_without_timestamps_follow_at_the_frame_rate(plain_film, monkeypatch):
    def timeless(self):
        for picture in pictures(self):
            picture.pts = None
            yield picture

    pictures = decoder.Decoder._pictures
    monkeypatch.setattr(decoder.Decoder, "_pictures", timeless)
    frames = frames_of(plain_film)
    np.testing.assert_allclose(np.diff([frame.pts_seconds for frame in frames]), 1 / 25)


def test_first_frame_without_a_timestamp_begins_at_zero(plain_film, monkeypatch):
    def timeless(self):
        for packet in packets(self):
            packet.pts = packet.dts = None
            yield packet

    packets = decoder.Decoder.packets
    monkeypatch.setattr(decoder.Decoder, "packets", timeless)
    times = [frame.pts_seconds for frame in frames_of(plain_film)]
    np.testing.assert_allclose(times, np.arange(10) / 25)


def test_damaged_packets_are_skipped(film):
    path = film("film.mkv", frames=10, options={"g": "1"})
    content = bytearray(path.read_bytes())
    with av.open(path) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for packet in packets[4:6]:
        begin = content.find(packet)
        content[begin : begin + len(packet)] = b"\xff" * len(packet)
    path.write_bytes(content)
    with pytest.raises(av.FFmpegError):  # unprotected, this happens
        films.decode(path)
    found = [films.index_of(frame.rgb()) for frame in frames_of(path)]
    assert found == [0, 1, 2, 3, 6, 7, 8, 9]


def test_truncated_file_is_decoded_up_to_its_end(film):
    path = film("film.mkv", options={"g": "1"})
    with av.open(path) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    path.write_bytes(content[: content.find(packets[6]) + len(packets[6]) // 2])
    found = [films.index_of(frame.rgb()) for frame in frames_of(path)]
    assert found[:6] == [0, 1, 2, 3, 4, 5]
    assert len(found) <= 7


def test_video_without_any_decodable_frame_is_refused(film):
    path = film("film.mkv")
    overwrite_packets(path)
    with pytest.raises(VideoUndecodable, match="no frame"):
        frames_of(path)


def test_heartbeat_continues_while_nothing_can_be_decoded(film):
    """A supervisor must not mistake a process without decodable frames for one that hangs."""
    path = film("film.mkv")
    packets = overwrite_packets(path)
    beats = []
    with (
        pytest.raises(VideoUndecodable),
        open_video(path, LIMITS, lambda: beats.append(0)) as video,
    ):
        next(video.frames())
    assert len(beats) >= packets
