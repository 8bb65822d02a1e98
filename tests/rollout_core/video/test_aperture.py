"""Tests of the clean aperture in MP4 and the crop in Matroska, in sound and in damaged files."""

import struct
from fractions import Fraction

import pytest

from rollout_core.video import aperture as module
from rollout_core.video.aperture import WHOLE, Aperture, read_aperture
from rollout_core.video.decoder import Limits, open_video
from tests.hostile.mp4_boxes import box
from tests.rollout_core.containers import (
    clap,
    pasp,
    with_sample_boxes,
    with_track_size,
    with_video_elements,
)

LEFT, TOP, RIGHT, BOTTOM = "54cc", "54bb", "54dd", "54aa"
DISPLAY_WIDTH, DISPLAY_HEIGHT = "54b0", "54ba"


def read(path):
    return read_aperture(path, track_id=1, place=0)


def display_of(path):
    with open_video(path, Limits()) as decoder:
        return next(decoder.frames()).display


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((32, 24), (16, 12, 16, 12)),
        ((32, 24, 4, -3), (20, 9, 12, 15)),
        ((63, 47, Fraction(1, 2), Fraction(1, 2)), (1, 1, 0, 0)),
        ((Fraction(95, 3), 48), (16, 0, 16, 0)),
        ((64, 48), (0, 0, 0, 0)),
    ],
)
def test_clean_aperture_is_placed_by_its_centre(film, values, expected):
    assert read(with_sample_boxes(film(), clap(*values), pasp(1, 1))) == (*expected, None)


def test_film_without_an_aperture_is_shown_whole(film):
    assert read(film()) == WHOLE
    assert read(film("film.mkv")) == WHOLE
    assert read(film("film.avi", codec="mpeg4")) == WHOLE
    assert read(film("film.ts", frames=20)) == WHOLE


@pytest.mark.parametrize(
    ("track_size", "expected"), [((32, 48), 1), ((64, 48), 1), ((64, 96), 1), ((64, 24), 4)]
)
def test_track_of_the_apertures_size_has_square_pixels(film, track_size, expected):
    """FFmpeg compares the size of the track with that of the whole frame."""
    path = with_track_size(with_sample_boxes(film(), clap(32, 48)), *track_size)
    display = display_of(path)
    assert display.pixel_aspect_ratio == expected
    assert display.size == (32 * expected, 48)


def test_stated_pixel_shape_prevails_over_the_tracks_size(film):
    path = with_sample_boxes(film(), clap(32, 48), pasp(2, 1))
    assert display_of(with_track_size(path, 32, 48)).size == (64, 48)


def test_aperture_belongs_to_its_track(film):
    path = with_sample_boxes(film(), clap(32, 24), pasp(1, 1))
    assert read_aperture(path, track_id=2, place=0) == WHOLE


@pytest.mark.parametrize(
    "fields",
    [
        (32, 0, 24, 1, 0, 1, 0, 1),
        (32, 1, 24, 1, 0, 0, 0, 1),
        (0, 1, 0, 1, 0, 1, 0, 1),
        (65, 1, 24, 1, 0, 1, 0, 1),
        (32, 1, 24, 1, 17, 1, 0, 1),
        (32, 1, 24, 1, -(2**31), 1, 2**31 - 1, 1),
        (2**32 - 1, 1, 2**32 - 1, 1, 0, 1, 0, 1),
    ],
)
def test_impossible_aperture_is_ignored(film, fields):
    path = with_sample_boxes(film(), box(b"clap", struct.pack(">IIIIiIiI", *fields)))
    assert display_of(path).size == (64, 48)


@pytest.mark.parametrize("content", [b"", b"\0" * 31])
def test_short_box_is_ignored(film, content):
    assert read(with_sample_boxes(film(), box(b"clap", content))) == WHOLE


def test_damaged_files_never_fail(film):
    """Every byte of the headers is damaged once."""
    path = with_sample_boxes(film(frames=1), clap(32, 24))
    content = path.read_bytes()
    begin = content.index(b"moov") - 4
    for place in range(begin, len(content)):
        for value in (0, 1, 0xFF):
            damaged = content[:place] + bytes([value]) + content[place + 1 :]
            path.write_bytes(damaged)
            assert len(read(path)) == 5
            if place % 16:
                break


@pytest.mark.parametrize("length", [0, 3, 7, 8, 12, 100])
def test_cut_files_never_fail(film, length):
    for path in (film(), film("film.mkv")):
        path.write_bytes(path.read_bytes()[:length])
        assert read(path) == WHOLE


@pytest.mark.parametrize("content", [bytes.fromhex("1a45dfa3") + b"\0" * 64, b"\xff" * 64])
def test_garbage_is_ignored(tmp_path, content):
    path = tmp_path / "film"
    path.write_bytes(content)
    assert read(path) == WHOLE


def test_number_of_boxes_is_bounded(film, monkeypatch):
    path = with_sample_boxes(film(), clap(32, 24), pasp(1, 1))
    assert read(path) != WHOLE
    monkeypatch.setattr(module, "MAX_BOXES", 10)
    assert read(path) == WHOLE


def test_crop_of_a_matroska_film(film):
    path = with_video_elements(film("film.mkv"), {LEFT: 16, TOP: 4, RIGHT: 8, BOTTOM: 2})
    assert read(path) == Aperture(16, 4, 8, 2)
    assert display_of(path).size == (40, 42)
    assert read_aperture(path, track_id=1, place=1) == WHOLE


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
def test_display_size_of_matroska_is_that_of_the_cut_frame(film, codec):
    values = {LEFT: 16, RIGHT: 16, DISPLAY_WIDTH: 64, DISPLAY_HEIGHT: 48}
    display = display_of(with_video_elements(film("film.mkv", codec=codec), values))
    assert (display.size, display.pixel_aspect_ratio) == ((64, 48), 2)
