"""Tests of the preview video: its pixels and times against the source, also in a browser."""

import base64
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from rollout_core.contract import Overlay
from rollout_core.pictures.heat import heat_track
from rollout_core.pictures.overlay import write_overlay
from rollout_core.pictures.preview import KEY_FRAME_SECONDS, preview_size, write_preview
from rollout_core.video.clips import Crop
from rollout_core.video.decoder import Limits, open_video
from tests.benchmarks.display import ORIENTATIONS
from tests.rollout_core import films
from tests.rollout_core.containers import clap, pasp, with_sample_boxes
from tests.system.browser import open_page

LIMITS = Limits()
TOLERANCE = 5.0
"""Of 255, on average. The preview is compressed, and its chroma has half size."""

HDR = "colormatrix=bt2020nc:colorprim=bt2020:transfer={}"
FINE = {"ticks": [0, 40, 100, 130, 300, 333, 1333], "time_base": Fraction(1, 1000)}
LATE = {"ticks": [1400, 1440, 1480, 1600], "time_base": Fraction(1, 1000)}


def gradient(index, width, height):
    """Return a picture, `H W c`, that differs from itself however it is turned."""
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = 30 + 170 * across, 30 + 170 * down, 40 + 10 * index + 0 * down
    return np.stack(channels, axis=-1).astype(np.uint8)


def preview_of(path):
    """Write the preview of a video next to it; return its path."""
    target = path.with_name("preview.mp4")
    with open_video(path, LIMITS) as decoder:
        frames = list(decoder.frames())
        with write_preview(target, decoder, frames[0]) as write:
            for frame in frames:
                write(frame)
    return target


def shown_by(path):
    """Return the displayed frames of a video, `H W c`, RGB, and their times in seconds."""
    with open_video(path, LIMITS) as decoder:
        frames = list(decoder.frames())
        return [frame.rgb().astype(float) for frame in frames], [f.pts_seconds for f in frames]


def packets_of(path):
    with av.open(path) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def matrix(name):
    a, b, c, d = (65536 * value for value in ORIENTATIONS[name])
    return [a, b, 0, c, d, 0, 0, 0, 1 << 30]


# Pixels


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_picture_is_turned_and_mirrored_as_the_source_says(film, orientation, size):
    source = film(
        display_matrix=matrix(orientation),
        width=size[0],
        height=size[1],
        pix_fmt="yuv444p",
        picture=gradient,
        frames=2,
        options={"qp": "1"},
    )
    expected, _ = shown_by(source)
    found, _ = shown_by(preview_of(source))
    height, width = found[0].shape[:2]
    assert (height % 2, width % 2) == (0, 0)
    for before, after in zip(expected, found, strict=True):
        assert {before.shape[0] - height, before.shape[1] - width} <= {0, 1}
        assert np.abs(before[:height, :width] - after).mean() < TOLERANCE
    assert films.decode(preview_of(source))[0].rotation == 0


def test_pixels_are_square_and_nothing_outside_the_aperture_is_shown(film):
    def framed(index, width, height):
        picture = np.full((height, width, 3), (250, 0, 0), np.uint8)
        picture[8:40, 16:48] = gradient(index, 32, 32)
        return picture

    source = with_sample_boxes(film(picture=framed, frames=2), clap(32, 32), pasp(2, 1))
    (picture, _), _ = shown_by(preview_of(source))
    assert picture.shape == (32, 64, 3)
    np.testing.assert_allclose(picture[16, 4:60, 0], np.linspace(40, 190, 56), atol=15)
    with av.open(source.with_name("preview.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == 1


@pytest.mark.parametrize(
    ("displayed", "expected"),
    [
        ((1920, 1080), (1280, 720)),
        ((1080, 1920), (404, 720)),
        ((1280, 720), (1280, 720)),
        ((320, 240), (320, 240)),
        ((65, 49), (64, 48)),
    ],
)
def test_preview_has_at_most_720_lines_and_is_never_scaled_up(displayed, expected):
    assert preview_size(displayed) == expected


def test_high_picture_is_scaled_as_a_whole(film):
    source = film(picture=gradient, width=480, height=960, frames=1)
    (before,), _ = shown_by(source)
    (after,), _ = shown_by(preview_of(source))
    assert after.shape == (720, 360, 3)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        corners = (p[-9 * row :, -9 * column :][:9, :9].mean(axis=(0, 1)) for p in (before, after))
        np.testing.assert_allclose(*corners, atol=4)


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_tone_mapped_as_in_the_overlay(film, transfer):
    options = {"x264-params": HDR.format(transfer)}
    source = film(picture=gradient, options=options, frames=2, pix_fmt="yuv420p10le")
    preview, overlay = preview_of(source), source.with_name("overlay.mp4")
    track = heat_track(
        np.ones((1, 1, 1, 1), np.float32),
        pts_seconds=np.zeros((1, 1)),
        frame_index=np.zeros((1, 1), np.int64),
    )
    with open_video(source, LIMITS) as decoder:
        frames = list(decoder.frames())
        invisible = {
            "overlay": Overlay(opacity=0, caption=False),
            "crop": Crop(0, 0, 64, 48),
            "track": track,
        }
        with write_overlay(overlay, decoder, frames[0], **invisible) as write:
            for frame in frames:
                write(frame)
    found, expected = shown_by(preview)[0], shown_by(overlay)[0]
    assert np.abs(np.subtract(found, expected)).mean() < TOLERANCE
    frame = films.decode(preview)[0]
    assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (1, 1, 1)


def test_colours_and_their_tags_are_those_of_the_source(film):
    params = "colormatrix=bt470bg:colorprim=bt470bg:transfer=bt470bg:fullrange=on"
    picture = np.full((48, 64, 3), (200, 60, 90), np.uint8)
    source = film(options={"x264-params": params}, picture=lambda *_: picture, frames=2)
    preview = preview_of(source)
    frame = films.decode(preview)[0]
    tags = frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range
    assert tags == (5, 5, 5, 2)
    np.testing.assert_allclose(shown_by(preview)[0], shown_by(source)[0], atol=3)


# The file


def test_preview_has_a_format_that_browsers_play_and_no_sound(film):
    target = preview_of(film(frames=3))
    with av.open(target) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    content = target.read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")
    assert b"elst" not in content


def test_every_second_has_a_key_frame(film):
    packets = packets_of(preview_of(film(frames=90, picture=films.corner)))
    times = [float(packet.pts * packet.time_base) for packet in packets if packet.is_keyframe]
    end = float((packets[-1].pts + packets[-1].duration) * packets[-1].time_base)
    assert max(np.diff([*times, end])) <= KEY_FRAME_SECONDS
    assert len(times) == 4


# Times


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("film.mp4", {}),
        ("film.mp4", {"rate": 30, "time_base": Fraction(1001, 30000)}),
        ("film.mp4", FINE),
        ("film.mkv", FINE),
        ("film.mkv", LATE),
        ("film.mp4", LATE),
        ("film.ts", LATE),
        ("film.mp4", {"options": {"preset": "medium", "bf": "3"}}),
        ("film.webm", {"codec": "libvpx-vp9", **FINE}),
        ("film.avi", {"codec": "mpeg4"}),
    ],
)
def test_frame_times_are_those_of_the_source_from_its_first_frame(film, name, recipe):
    source = film(name, **recipe)
    _, expected = shown_by(source)
    packets = packets_of(preview_of(source))
    found = [float(packet.pts * packet.time_base) for packet in packets]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert found[0] == 0


@pytest.mark.parametrize("name", ["film.mkv", "film.mp4", "film.ts"])
def test_late_films_begin_after_time_zero(film, name):
    first = packets_of(film(name, **LATE))[0]
    assert first.pts * first.time_base == Fraction(7, 5)


SEEK = """async ([data, times]) => {
    const video = document.createElement("video");
    video.muted = true;
    video.src = "data:video/mp4;base64," + data;
    document.body.append(video);
    await new Promise((done, fail) => {
        video.onloadeddata = done;
        video.onerror = () => fail(new Error(video.error.message));
    });
    const shown = [];
    for (const time of times) {
        const frame = new Promise((done) =>
            video.requestVideoFrameCallback((now, data) => done(data.mediaTime)));
        video.currentTime = time;
        shown.push(await frame);
    }
    return shown;
}"""
"""Seeks to each time; returns the times of the frames that are then shown."""


def test_a_browser_shows_every_frame_at_its_time(film):
    """Seeks go backwards, so that each one shows another frame than the one before."""
    recipes = {"constant.mp4": {"rate": 30}, "variable.mkv": FINE, "late.mkv": LATE}
    with open_page() as page:
        for name, recipe in recipes.items():
            source = film(name, **recipe)
            _, times = shown_by(source)
            data = base64.b64encode(preview_of(source).read_bytes()).decode()
            middles = [(begin + end) / 2 for begin, end in pairwise(times)]
            found = page.evaluate(SEEK, [data, middles[::-1]])
            np.testing.assert_allclose(found[::-1], times[:-1], atol=1e-3, err_msg=name)
