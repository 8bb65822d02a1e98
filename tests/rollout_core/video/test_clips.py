from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from rollout_core.contract import ExplainRequest
from rollout_core.errors import EmptySpan, VideoTooLarge, VideoTooLong, VideoUndecodable
from rollout_core.model.specs import ModelSpec
from rollout_core.video import clips, decoder
from rollout_core.video.clips import (
    Crop,
    Limits,
    OpenedVideo,
    crop_of,
    displayed_at,
    open_clips,
    probe,
    read_clips,
    resize,
)
from rollout_core.video.sampling import Plan, plan
from tests.rollout_core import films

LIMITS = Limits()
SPEC = ModelSpec(name="u", frames=4, sampling="uniform", clip_seconds=0.2, classes=2)
WHOLE = Crop(0, 0, 64, 48)


def info_of(width, height):
    """Return what `crop_of` needs of a video."""
    return SimpleNamespace(width=width, height=height)


def plan_of(*clips):
    return Plan(np.array(clips, dtype=np.float64), "uniform", 0.0, 1.0)


def read(path, plan, crop=WHOLE, height=8, width=12):
    return list(read_clips(path, plan, crop, height=height, width=width, limits=LIMITS))


def indices_of(clip):
    return [films.index_of(frame) for frame in clip.frames]


# Properties of a video


def test_probe_returns_the_properties_of_a_video(plain_film):
    found = probe(plain_film, LIMITS)
    assert (found.width, found.height, found.display.stored_size) == (64, 48, (64, 48))
    assert (found.codec, found.container) == ("h264", "mov,mp4,m4a,3gp,3g2,mj2")
    assert (found.stream, found.streams, found.rotation) == (0, None, 0)
    assert found.duration_seconds == pytest.approx(0.4)
    assert found.frame_rate_hz == pytest.approx(25)
    assert found.timeline.promised_seconds == pytest.approx(0.4)
    assert (found.frames, found.timeline.frames_promised) == (10, 10)
    assert found.timeline.missing == ()


@pytest.mark.parametrize(
    ("name", "codec", "expected"),
    [
        ("film.webm", "libvpx-vp9", "vp9"),
        ("film.ts", "libx265", "hevc"),
        ("film.mp4", "libsvtav1", "av1"),
        ("film.avi", "mpeg4", "mpeg4"),
    ],
)
def test_probe_reports_codec_and_length_of_every_container(film, name, codec, expected):
    found = probe(film(name, codec=codec, width=64, height=64), LIMITS)
    assert found.codec == expected
    assert found.duration_seconds == pytest.approx(0.4, abs=0.001)
    assert found.frame_rate_hz == pytest.approx(25, rel=0.01)


@pytest.mark.parametrize(("rotation", "expected"), [(90, 90), (180, 180), (-90, 270)])
def test_probe_reports_the_displayed_size(film, rotation, expected):
    found = probe(film(rotation=rotation, frames=2), LIMITS)
    assert found.rotation == expected
    assert (found.width, found.height) == ((64, 48) if rotation == 180 else (48, 64))


def test_probe_measures_a_video_without_a_stated_length(film):
    path = film("film.webm", codec="libvpx-vp9", container_options={"live": "1"})
    with av.open(path) as container:
        assert container.duration is None
        assert container.streams.video[0].duration is None
    assert probe(path, LIMITS).duration_seconds == pytest.approx(0.4)


def test_probe_counts_the_duration_of_the_last_frame(film):
    path = film(ticks=[0, 100, 300], time_base=Fraction(1, 1000), last_ticks=250)
    found = probe(path, LIMITS)
    assert found.duration_seconds == pytest.approx(0.55)
    assert found.frame_rate_hz == pytest.approx(3 / 0.55)


def test_probe_measures_negative_timestamps(film):
    ticks = [-450_000, -446_400, -442_800, -439_200]  # of 90 kHz
    path = film(
        "film.ts",
        ticks=ticks,
        time_base=Fraction(1, 90_000),
        container_options=films.TIMES_AS_GIVEN,
    )
    with av.open(path) as container:
        assert next(container.demux(video=0)).pts == ticks[0]
    assert probe(path, LIMITS).duration_seconds == pytest.approx(0.16)


def test_probe_ignores_packets_before_the_first_decodable_frame(film):
    path = film("film.ts", frames=60, options={"g": "30"})
    with av.open(path) as container:
        cut = [packet.pos for packet in container.demux(video=0) if packet.size][20]
    path.write_bytes(path.read_bytes()[cut:])
    with decoder.open_video(path, LIMITS) as opened:
        frames = list(opened.frames())
    found = probe(path, LIMITS)
    assert found.duration_seconds == pytest.approx(len(frames) / 25)
    assert found.frame_rate_hz == pytest.approx(25)


def test_probing_and_reading_call_the_heartbeat(plain_film):
    beats = []
    probe(plain_film, LIMITS, lambda: beats.append("probe"))
    assert beats.count("probe") > 10
    clips = read_clips(
        plain_film,
        plan_of([0.0, 0.1, 0.2, 0.39]),
        WHOLE,
        height=8,
        width=12,
        limits=LIMITS,
        heartbeat=lambda: beats.append("read"),
    )
    assert len([*clips]) == 1
    assert beats.count("read") >= 10


@pytest.mark.parametrize("name", ["film.avi", "film.mp4"])
def test_probe_measures_reordered_frames(film, name):
    path = film(name, options={"preset": "medium", "bf": "3", "b-adapt": "0"})
    assert probe(path, LIMITS).duration_seconds == pytest.approx(0.4)


def test_duration_ends_with_the_last_displayed_frame(film):
    """MP4 stores the distance between packets, which is not the duration of reordered frames."""
    path = film(
        ticks=[0, 900, 1800, 1900, 1917, 2817, 2834, 2874],
        time_base=Fraction(1, 1000),
        options={"preset": "medium", "bf": "3", "b-adapt": "0"},
    )
    frames = films.decode(path)
    ends = [frame.pts + frame.duration for frame in frames]
    assert ends[-1] < max(ends)  # the latest end is not that of the last frame
    expected = float(ends[-1] * frames[-1].time_base)
    assert probe(path, LIMITS).duration_seconds == pytest.approx(expected)


def test_probe_measures_frames_without_timestamps(plain_film, monkeypatch):
    def timeless(self):
        for packet in packets(self):
            packet.pts = packet.dts = None
            yield packet

    packets = decoder.Decoder.packets
    monkeypatch.setattr(decoder.Decoder, "packets", timeless)
    assert probe(plain_film, LIMITS).duration_seconds == pytest.approx(0.4)


def test_probe_accepts_a_single_frame(film):
    found = probe(film(frames=1), LIMITS)
    assert found.duration_seconds == pytest.approx(0.04)


def test_probe_enforces_limits_without_a_stated_length(film):
    path = film("film.webm", codec="libvpx-vp9", container_options={"live": "1"})
    with pytest.raises(VideoTooLong, match="more than 9 frames"):
        probe(path, Limits(max_frames=9))
    with pytest.raises(VideoTooLong, match=r"more than 0\.3 s"):
        probe(path, Limits(max_seconds=0.3))
    with pytest.raises(VideoTooLarge):
        probe(path, Limits(max_pixels=3071))


def test_probe_opens_and_reads_the_file_once(plain_film, monkeypatch):
    opened, packets = [], []
    original = decoder.OpenFile.open
    monkeypatch.setattr(
        decoder.OpenFile, "open", lambda *args: opened.append(args) or original(*args)
    )
    assert probe(plain_film, LIMITS, lambda: packets.append(0)).frames == 10
    assert (len(opened), len(packets)) == (1, 11)  # the last packet is empty


def test_probe_refuses_a_video_without_a_decodable_frame(plain_film, monkeypatch):
    monkeypatch.setattr(decoder, "one_by_one", lambda *_, **options: iter(()))
    with pytest.raises(VideoUndecodable):
        probe(plain_film, LIMITS)


# Opening a video for its clips


def test_open_clips_probes_plans_and_crops(plain_film):
    request = ExplainRequest(clips="tile")
    spec = SPEC.model_copy(update={"height": 16, "width": 16})
    beats = []
    opened = open_clips(plain_film, request, spec, LIMITS, lambda: beats.append(0))
    info = probe(plain_film, LIMITS)
    assert opened == OpenedVideo(info, opened.plan, Crop(8, 0, 48, 48))
    expected = plan(info.duration_seconds, request, spec)
    np.testing.assert_array_equal(opened.plan.times_seconds, expected.times_seconds)
    assert opened.plan.times_seconds.shape == (2, 4)
    assert len(beats) > 10


def test_open_clips_enforces_the_limits_and_the_span(plain_film):
    with pytest.raises(VideoTooLong):
        open_clips(plain_film, ExplainRequest(), SPEC, Limits(max_frames=9))
    with pytest.raises(EmptySpan):
        open_clips(plain_film, ExplainRequest(start_seconds=9.0), SPEC, LIMITS)


# The part of a frame that the model sees


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1280, 720), Crop(280, 0, 720, 720)),
        ((720, 1280), Crop(0, 280, 720, 720)),
        ((64, 64), Crop(0, 0, 64, 64)),
        ((65, 48), Crop(8, 0, 48, 48)),
        ((1, 100), Crop(0, 49, 1, 1)),
    ],
)
def test_crop_for_a_square_input(size, expected):
    assert crop_of(info_of(*size), height=224, width=224) == expected


def test_crop_for_an_oblong_input():
    assert crop_of(info_of(100, 100), height=32, width=64) == Crop(0, 25, 100, 50)
    assert crop_of(info_of(100, 100), height=64, width=32) == Crop(25, 0, 50, 100)
    assert crop_of(info_of(200, 10), height=64, width=32) == Crop(97, 0, 5, 10)


def test_crop_may_be_a_share_of_the_largest_one():
    assert crop_of(info_of(320, 240), height=224, width=224, share=0.875) == Crop(55, 15, 210, 210)
    assert crop_of(info_of(3, 3), height=224, width=224, share=0.01) == Crop(1, 1, 1, 1)


def test_stretched_crop_is_the_whole_frame_or_its_middle():
    assert crop_of(info_of(320, 240), height=8, width=8, stretch=True) == Crop(0, 0, 320, 240)
    found = crop_of(info_of(320, 240), height=8, width=8, stretch=True, share=0.5)
    assert found == Crop(80, 60, 160, 120)


def test_resampling_can_be_chosen():
    edge = np.zeros((4, 4, 3), np.uint8)
    edge[:, 2:] = 255
    sharp = resize(edge, height=16, width=16, resample="nearest")
    assert set(np.unique(sharp)) == {0, 255}
    smooth = resize(edge, height=16, width=16)
    assert len(np.unique(smooth)) > 2
    bicubic = resize(edge, height=16, width=16, resample="bicubic")
    assert not np.array_equal(bicubic, smooth)


def test_resize_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    found = resize(stripes, height=8, width=8)
    assert np.abs(found.astype(int) - 127).max() < 20  # without, all black or all white


def test_resize_enlarges():
    frame = np.full((4, 4, 3), 77, np.uint8)
    assert (resize(frame, height=16, width=16) == 77).all()


# The frames that are chosen


def test_frame_on_display_is_chosen(plain_film):
    # frames begin every 40 ms
    [clip] = read(plain_film, plan_of([0.0, 0.039, 0.041, 0.2]))
    assert clip.frame_index.tolist() == [0, 0, 1, 5]
    assert indices_of(clip) == [0, 0, 1, 5]
    np.testing.assert_allclose(clip.pts_seconds, [0, 0, 0.04, 0.2])
    assert clip.frames.shape == (4, 8, 12, 3)
    assert (clip.frames.dtype, clip.pts_seconds.dtype) == (np.uint8, np.float64)
    assert clip.frame_index.dtype == np.int64


def test_frames_are_chosen_by_time_not_by_index(film):
    path = film("film.mkv", ticks=[0, 40, 100, 130, 900, 933], time_base=Fraction(1, 1000))
    [clip] = read(path, plan_of([0.05, 0.12, 0.5, 0.91]))
    assert clip.frame_index.tolist() == [1, 2, 3, 4]
    assert indices_of(clip) == [1, 2, 3, 4]


def test_last_frame_repeats_beyond_the_end(plain_film):
    [clip] = read(plain_film, plan_of([0.32, 0.36, 0.5, 99.0]))
    assert clip.frame_index.tolist() == [8, 9, 9, 9]


def test_timestamp_rounded_up_by_the_container_is_accepted(film):
    path = film("film.mkv", rate=30, ticks=[0, 33, 67, 100], time_base=Fraction(1, 1000))
    [clip] = read(path, plan_of([0, 1 / 30, 2 / 30, 3 / 30]))
    assert clip.frame_index.tolist() == [0, 1, 2, 3]


def test_video_with_fewer_frames_than_the_model_repeats_them(film):
    path = film(frames=2)
    moments = plan(probe(path, LIMITS).duration_seconds, ExplainRequest(), SPEC)
    [clip] = read(path, moments)
    assert clip.frame_index.tolist() == [0, 0, 1, 1]


def test_tiled_clips_are_consecutive(plain_film):
    moments = plan(0.4, ExplainRequest(clips="tile"), SPEC)
    clips = read(plain_film, moments)
    assert [clip.frame_index.tolist() for clip in clips] == [[0, 1, 3, 4], [5, 6, 8, 9]]
    assert [indices_of(clip) for clip in clips] == [[0, 1, 3, 4], [5, 6, 8, 9]]


def test_clips_are_streamed(plain_film, monkeypatch):
    """A clip is yielded as soon as its frames are decoded, before the rest of the video."""
    decoded = []
    original = decoder.Decoder._pictures

    def watched(self):
        for picture in original(self):
            decoded.append(picture.pts)
            yield picture

    monkeypatch.setattr(decoder.Decoder, "_pictures", watched)
    clips = read_clips(
        plain_film, plan_of([0.0, 0.04], [0.2, 0.24]), WHOLE, height=8, width=8, limits=LIMITS
    )
    next(clips)
    assert len(decoded) == 3
    next(clips)
    assert len(decoded) == 8
    assert next(clips, None) is None
    assert len(decoded) == 8


def test_repeated_frame_is_converted_once(plain_film, monkeypatch):
    converted = []
    original = clips.resize
    monkeypatch.setattr(clips, "resize", lambda *a, **k: converted.append(1) or original(*a, **k))
    read(plain_film, plan_of([0.0, 0.01, 0.02, 9.0], [9.0, 9.0, 9.0, 9.0]))
    assert len(converted) == 2


def test_each_sampled_frame_is_handed_on_once(film):
    path, crop, kept = film(picture=films.corner), Crop(16, 8, 32, 40), []
    list(
        read_clips(
            path,
            plan_of([0.0, 0.01, 0.1], [0.1, 0.2, 0.3]),
            crop,
            height=8,
            width=8,
            limits=LIMITS,
            keep=lambda *item: kept.append(item),
        )
    )
    assert [frame.index for frame, _ in kept] == [0, 2, 5, 7]
    for frame, seen in kept:
        np.testing.assert_array_equal(seen, frame.rgb()[8:48, 16:48])


def test_rotated_frames_are_cropped_as_displayed(film):
    path = film(rotation=90, picture=films.corner, frames=2)  # bright at the bottom left
    crop = crop_of(probe(path, LIMITS), height=8, width=8)
    assert crop == Crop(0, 8, 48, 48)
    [clip] = read(path, plan_of([0.0]), crop=Crop(0, 32, 24, 32), height=8, width=8)
    assert clip.frames.min() > 200
    [clip] = read(path, plan_of([0.0]), crop=Crop(0, 0, 48, 32), height=8, width=8)
    assert clip.frames.max() < 60


def test_frames_are_rgb(film):
    def red(index, width, height):
        return np.broadcast_to(np.array([230, 20, 30], np.uint8), (height, width, 3)).copy()

    [clip] = read(film(picture=red, frames=1), plan_of([0.0]))
    np.testing.assert_allclose(clip.frames.mean(axis=(0, 1, 2)), [230, 20, 30], atol=6)


@pytest.mark.parametrize("limits", [Limits(max_frames=5), Limits(max_seconds=0.2)])
def test_reading_enforces_the_limits(plain_film, limits):
    clips = read_clips(plain_film, plan_of([9.0]), WHOLE, height=8, width=8, limits=limits)
    with pytest.raises(VideoTooLong):
        next(clips)


def test_displayed_at_accepts_no_frames():
    assert list(displayed_at(iter(()), np.array([0.0, 1.0]))) == []
