"""Tests of the displayed picture: against FFmpeg's, and of what FFmpeg does not apply."""

import sys
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from rollout_core.errors import VideoUndecodable
from rollout_core.video import display as module
from rollout_core.video.aperture import WHOLE, Aperture
from rollout_core.video.color import BT709, FULL_RGB
from rollout_core.video.convert import converted, views
from rollout_core.video.decoder import Limits, open_video
from rollout_core.video.display import display_of
from rollout_core.video.geometry import Box, Orientation
from tests.benchmarks.display import ALL, ORIENTATIONS, covering, errors
from tests.rollout_core import films
from tests.rollout_core.containers import clap, pasp, with_sample_boxes

LIMITS = Limits()
BT601 = BT709.model_copy(update={"matrix": "smpte170m"})
EVERY_ELEVENTH = 11

YUV_TOLERANCE, RGB_TOLERANCE = 1, 2
OVERLAY_TOLERANCE = 5
"""Of 255. The overlay has chroma of half size and in 8 bits, which is converted to RGB here."""


def displays_of(path, limits=LIMITS):
    with open_video(path, limits) as decoder:
        return [frame.display for frame in decoder.frames()]


def first_of(path):
    with open_video(path, LIMITS) as decoder:
        return next(decoder.frames())


def shown(picture, *, aspect=1, aperture=WHOLE):
    return display_of(
        picture, pixel_aspect=Fraction(aspect), aperture=aperture, max_pixels=LIMITS.max_pixels
    )


def picture_of(fmt, yuv, width=64, height=48, *, colorspace=1, full=False):
    """Return a picture whose planes each hold one value, given as of 8 bits."""
    picture = VideoFrame(width, height, fmt)
    depth = picture.format.components[0].bits
    kind = np.uint8 if depth == 8 else np.uint16
    for plane, value in zip(picture.planes, yuv, strict=False):
        np.frombuffer(memoryview(plane), kind)[:] = value << (depth - 8)
    picture.colorspace, picture.color_range = colorspace, 2 if full else 1
    return picture


def ramp(width, height, fmt="yuv420p"):
    """Return a picture whose brightness grows from left to right."""
    line = np.linspace(20, 230, width).astype(np.uint8)
    pixels = np.broadcast_to(line[None, :, None], (height, width, 3)).copy()
    return converted(VideoFrame.from_ndarray(pixels), fmt, FULL_RGB, BT601)


# Against FFmpeg


def test_displayed_frames_equal_those_of_ffmpeg(tmp_path):
    cases = covering(EVERY_ELEVENTH)
    found = errors(cases, tmp_path)
    rgb, overlay = (max(error[kind] for error in found.values()) for kind in (0, 1))
    report = f"{len(found)} cases: largest errors {rgb} (RGB) and {overlay} (overlay) of 255"
    print(report)
    assert rgb <= RGB_TOLERANCE, report
    assert overlay <= OVERLAY_TOLERANCE, report


def test_cases_cover_all_pairs_of_properties():
    cases = covering(EVERY_ELEVENTH)
    for one, other in combinations(range(len(ALL[0])), 2):
        assert {(case[one], case[other]) for case in cases} == {
            (case[one], case[other]) for case in ALL
        }
    assert {case.orientation for case in cases} == set(ORIENTATIONS)


# Shape


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("film.mp4", "libx264"),
        ("film.mkv", "libx264"),
        ("film.ts", "libx264"),
        ("film.avi", "mpeg4"),
        ("film.mov", "libx265"),
    ],
)
def test_pixels_are_made_square(film, name, codec):
    path = film(name, codec=codec, pixel_aspect=Fraction(2), frames=20)
    frame = first_of(path)
    assert frame.display.pixel_aspect_ratio == 2
    assert frame.displayed_size == (128, 48)
    assert frame.rgb().shape == (48, 128, 3)


@pytest.mark.parametrize(("rotation", "size"), [(90, (48, 128)), (180, (128, 48))])
def test_pixels_are_made_square_before_the_turn(film, rotation, size):
    frame = first_of(film(pixel_aspect=Fraction(2), rotation=rotation))
    assert frame.displayed_size == size
    assert frame.rgb().shape == (*size[::-1], 3)


def test_circle_stored_as_an_ellipse_is_a_circle(film):
    def ellipse(index, width, height):
        down, across = np.mgrid[0:height, 0:width].astype(float)
        inside = (across - width / 2) ** 2 / 16**2 + (down - height / 2) ** 2 / 32**2 < 1
        return np.repeat(np.where(inside, 230, 20)[..., None], 3, axis=2).astype(np.uint8)

    frame = first_of(film(picture=ellipse, width=128, height=96, pixel_aspect=Fraction(2)))
    bright = frame.rgb().mean(axis=2) > 128
    assert bright.any(axis=0).sum() == pytest.approx(bright.any(axis=1).sum(), abs=2)


def test_container_prevails_over_the_codec(film):
    path = with_sample_boxes(film(pixel_aspect=Fraction(2)), pasp(3, 1))
    assert displays_of(path)[0].size == (192, 48)


@pytest.mark.parametrize("aspect", [0, Fraction(1, 1000), 1000])
def test_implausible_pixels_stay_square(aspect):
    assert shown(ramp(64, 48), aspect=aspect).size == (64, 48)


def test_displayed_frame_stays_within_the_limits():
    display = display_of(
        ramp(64, 48), pixel_aspect=Fraction(4), aperture=WHOLE, max_pixels=64 * 48 * 2
    )
    assert display.size == (64, 12)


# Parts


PARTS = [Box(0, 0, 1, 1), Box(21, 17, 40, 31), Box(30, 0, 60, 92), Box(89, 91, 1, 1)]


def assert_parts_are_those_of_the_whole(display, picture):
    whole = display.rgb(picture)
    for part in PARTS:
        np.testing.assert_array_equal(display.rgb(picture, part), whole[part.slices])


@pytest.mark.parametrize(
    "fmt",
    ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv440p", "yuv420p10le", "gray", "gbrp", "nv12"],
)
@pytest.mark.parametrize("size", [(96, 98), (93, 93), (100, 93)])
@pytest.mark.parametrize("aperture", [WHOLE, Aperture(2, 1, 1, 0)])
@pytest.mark.parametrize("transfer", [1, 16])
def test_part_of_a_picture_equals_the_same_part_of_the_whole(fmt, size, aperture, transfer):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    picture = VideoFrame.from_ndarray(noise).reformat(format=fmt)
    if picture.format.name.startswith("yuv"):
        picture.colorspace, picture.color_trc = (9, 16) if transfer == 16 else (1, 1)
    display = shown(picture, aperture=aperture)
    assert_parts_are_those_of_the_whole(display, picture)


@pytest.mark.parametrize("aspect", [1, Fraction(4, 3)])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_part_of_a_turned_picture_equals_the_same_part_of_the_whole(
    film, aspect, rotation, mirrored
):
    a, b, c, d = (
        1 << 16 if value == 1 else -(1 << 16) if value else 0
        for value in list(ORIENTATIONS.values())[rotation // 90 + 4 * mirrored]
    )

    def noise(index, width, height):
        return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)

    path = film(
        frames=1,
        width=96,
        height=98,
        picture=noise,
        pixel_aspect=Fraction(aspect),
        display_matrix=[a, b, 0, c, d, 0, 0, 0, 1 << 30],
    )
    frame = first_of(path)
    assert_parts_are_those_of_the_whole(frame.display, frame.picture)


def test_only_the_part_is_converted(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        module, "converted", lambda *args: sizes.append(args[0].width) or converted(*args)
    )
    picture = ramp(640, 360)
    assert shown(picture).rgb(picture, Box(200, 0, 100, 360)).shape == (360, 100, 3)
    assert sizes[0] < 200


# Aperture


@pytest.mark.parametrize("corner", [(0, 0), (8, 6), (7, 5), (1, 0), (0, 1)])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_aperture_is_cut_before_the_turn(film, corner, rotation, mirrored):
    def texture(index, width, height):
        down, across = np.mgrid[0:height, 0:width]
        return np.stack([across * 3, down * 4, across + down], axis=-1).astype(np.uint8)

    matrix = [
        1 << 16 if value == 1 else -(1 << 16) if value else 0
        for value in list(ORIENTATIONS.values())[rotation // 90 + 4 * mirrored]
    ]
    a, b, c, d = matrix
    left, top = corner
    width, height = 33, 27
    centre = Fraction(2 * left + width - 64, 2), Fraction(2 * top + height - 48, 2)
    path = film(
        picture=texture,
        frames=1,
        pix_fmt="yuv444p",
        display_matrix=[a, b, 0, c, d, 0, 0, 0, 1 << 30],
    )
    whole = first_of(path)
    stored = shown(ramp(64, 48)).rgb(whole.picture)
    cut = first_of(with_sample_boxes(path, clap(width, height, *centre), pasp(1, 1)))
    part = stored[top : top + height, left : left + width]
    assert cut.display.mirrored == mirrored
    assert cut.display.rotation == rotation
    expected = cut.display.orientation.apply(part)
    np.testing.assert_array_equal(cut.rgb(), expected)
    size = tuple(length - length % 2 for length in cut.displayed_size)
    luma, *_ = cut.display.planes(cut.picture, size, BT601)
    grey = expected[: size[1], : size[0]] @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(luma, 16 + grey * 219 / 255, atol=4)


# Colour


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "fmt",
    [
        "yuv420p",
        "yuv422p",
        "yuv440p",
        "yuv444p",
        "yuv420p10le",
        "yuv422p10le",
        "yuv444p10le",
        "yuv420p12le",
    ],
)
@pytest.mark.parametrize("colorspace", [1, 2, 5, 6, 7, 4, 9, 8, 14, 200])
def test_overlay_has_the_yuv_of_the_source(fmt, full, colorspace):
    yuv = 133, 63, 52
    picture = picture_of(fmt, yuv, 1280, 720, colorspace=colorspace, full=full)
    display = shown(picture)
    assert display.painted_color.range == ("full" if full else "limited")
    planes = display.planes(picture, (1280, 720), display.painted_color)
    assert [plane.shape for plane in planes] == [(720, 1280), (360, 640), (360, 640)]
    for plane, value in zip(planes, yuv, strict=True):
        np.testing.assert_allclose(plane.astype(float), value, atol=YUV_TOLERANCE)


@pytest.mark.parametrize(
    ("colorspace", "weights"),
    [
        (1, (0.2126, 0.0722)),
        (4, (0.30, 0.11)),
        (5, (0.299, 0.114)),
        (7, (0.212, 0.087)),
        (9, (0.2627, 0.0593)),
        (10, (0.2627, 0.0593)),
        (8, (0.2126, 0.0722)),
    ],
)
@pytest.mark.parametrize("fmt", ["yuv420p", "yuv444p10le"])
@pytest.mark.parametrize("full", [False, True])
def test_rgb_agrees_with_the_standards(colorspace, weights, fmt, full):
    yuv = 120, 110, 150
    picture = picture_of(fmt, yuv, 1280, 720, colorspace=colorspace, full=full)
    white, chroma, black = (255, 255, 0) if full else (219, 224, 16)
    luma, u, v = (yuv[0] - black) / white, (yuv[1] - 128) / chroma, (yuv[2] - 128) / chroma
    kr, kb = weights
    red, blue = luma + 2 * (1 - kr) * v, luma + 2 * (1 - kb) * u
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    found = shown(picture).rgb(picture)[300, 300]
    np.testing.assert_allclose(found, np.multiply(255, [red, green, blue]), atol=1)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("fmt", ["gray", "gray10le", "gray12le"])
def test_grey_films_keep_their_range(fmt, full):
    picture = picture_of(fmt, (126,), full=full)
    display = shown(picture)
    expected = 126 if full else 255 * (126 - 16) / 219
    np.testing.assert_allclose(display.rgb(picture), expected, atol=1)
    luma, u, v = display.planes(picture, (64, 48), display.painted_color)
    np.testing.assert_allclose([luma[0, 0], u[0, 0], v[0, 0]], [126, 128, 128], atol=1)


def test_grey_film_is_decoded(film):
    """FFmpeg's scaler, which made the film, stores the grey as it is."""
    stored = 118
    picture = np.full((48, 64, 3), stored, np.uint8)
    path = film("film.mkv", codec="libx265", pix_fmt="gray", frames=1, picture=lambda *_: picture)
    frame = first_of(path)
    assert frame.display.pixel_format == "gray"
    assert frame.rgb().mean() == pytest.approx(255 * (stored - 16) / 219, abs=2)


def test_rgb_films_become_bt709(film):
    picture = picture_of("gbrp", (200, 30, 90), colorspace=0)  # green, blue, red
    display = shown(picture)
    assert display.color.matrix == "gbr"
    assert display.rgb(picture)[20, 20].tolist() == [90, 200, 30]
    assert display.painted_color == BT709
    found = [int(plane[10, 10]) for plane in display.planes(picture, (64, 48), BT709)]
    red, green, blue = 90 / 255, 200 / 255, 30 / 255
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    expected = (
        16 + 219 * luma,
        128 + 224 * (blue - luma) / 1.8556,
        128 + 224 * (red - luma) / 1.5748,
    )
    np.testing.assert_allclose(found, expected, atol=1)


def test_planes_are_converted_to_the_colour_of_the_overlay():
    """A film whose colour changes: the overlay keeps that of the first frame."""
    picture = picture_of("yuv420p", (120, 110, 150), colorspace=6, full=True)
    display = shown(picture)
    rgb = display.rgb(picture)
    planes = display.planes(picture, (64, 48), BT709)
    overlay = VideoFrame(64, 48, "yuv420p")
    for view, plane in zip(views(overlay), planes, strict=True):
        view[:] = plane
    found = converted(overlay, "rgb24", BT709, FULL_RGB).to_ndarray()
    np.testing.assert_allclose(found.astype(float), rgb.astype(float), atol=3)


@pytest.mark.parametrize("matrix", ["ycgco", "2020_cl", "chroma-derived-nc", "ICtCp"])
def test_film_with_an_unusable_matrix_is_decoded(film, matrix):
    options = {
        "x265-params": f"log-level=none:pools=1:frame-threads=1:colormatrix={matrix.lower()}"
    }
    if matrix in ("ycgco", "2020_cl"):
        options["x265-params"] = options["x265-params"].replace("2020_cl", "bt2020c")
    path = film("film.mkv", codec="libx265", options=options, frames=1)
    frame = first_of(path)
    assert [warning.code for warning in frame.display.warnings] == ["color_assumed"]
    assert frame.rgb().shape == (48, 64, 3)


# HDR


@pytest.mark.parametrize(("transfer", "hdr"), [("smpte2084", "pq"), ("arib-std-b67", "hlg")])
def test_hdr_is_tone_mapped(film, transfer, hdr):
    params = (
        "log-level=none:pools=1:frame-threads=1:"
        f"colormatrix=bt2020nc:colorprim=bt2020:transfer={transfer}"
    )
    path = film(
        "film.mkv",
        codec="libx265",
        pix_fmt="yuv420p10le",
        options={"x265-params": params},
        frames=1,
    )
    frame = first_of(path)
    assert frame.display.hdr == hdr
    assert frame.display.color.transfer == transfer
    assert [warning.code for warning in frame.display.warnings] == ["hdr_tone_mapped"]
    assert frame.display.painted_color == BT709


@pytest.mark.parametrize(
    ("transfer", "code", "grey"),
    [(16, 500, 182), (16, 940, 255), (16, 64, 0), (18, 721, 228), (18, 940, 255)],
)
def test_hdr_greys_have_the_same_brightness_in_rgb_and_overlay(transfer, code, grey):
    """Code 500 in PQ is 92 nits, and 721 in HLG is reference white."""
    picture = VideoFrame(64, 48, "yuv420p10le")
    for plane, value in zip(picture.planes, (code, 512, 512), strict=True):
        np.frombuffer(memoryview(plane), np.uint16)[:] = value
    picture.colorspace, picture.color_range, picture.color_trc = 9, 1, transfer
    display = shown(picture)
    np.testing.assert_allclose(display.rgb(picture).astype(float), grey, atol=2)
    luma, u, v = display.planes(picture, (64, 48), BT709)
    np.testing.assert_allclose(luma.astype(float), 16 + grey * 219 / 255, atol=2)
    np.testing.assert_allclose(np.stack([u, v]).astype(float), 128, atol=1)


def test_hdr_is_scaled_and_turned():
    picture = ramp(64, 48, "yuv420p10le")
    picture.color_trc = 16
    display = shown(picture, aspect=2)
    luma, *_ = display.planes(picture, (64, 24), BT709)
    assert luma.shape == (24, 64)
    assert (np.diff(luma[12].astype(int)) >= -1).all()


# Changes within a film


def test_later_frames_of_another_shape_get_black_bars(film, tmp_path):
    wide = film("a.ts", frames=20)
    high = film("b.ts", frames=20, width=48, height=64, picture=bright)
    both = tmp_path / "both.ts"
    both.write_bytes(wide.read_bytes() + high.read_bytes())
    with open_video(both, LIMITS) as decoder:
        frame = list(decoder.frames())[-1]
    assert frame.displayed_size == (64, 48)
    pixels = frame.rgb()
    assert pixels[:, :13].max() == pixels[:, 51:].max() == 0
    assert pixels[:, 16:48].min() > 200
    luma, u, _ = frame.display.planes(frame.picture, (64, 48), BT601)
    assert (luma[:, :13] == 16).all()
    assert luma[:, 16:48].min() > 180
    np.testing.assert_allclose(u.astype(float), 128, atol=1)


def test_change_of_the_pixels_shape_is_followed(film, tmp_path):
    """Both parts are displayed in the same shape, so neither gets bars."""
    narrow = film("a.ts", frames=20, pixel_aspect=Fraction(2), width=64, height=96, picture=bright)
    square = film("b.ts", frames=20, width=128, height=96, picture=bright)
    both = tmp_path / "both.ts"
    both.write_bytes(narrow.read_bytes() + square.read_bytes())
    with open_video(both, LIMITS) as decoder:
        frames = list(decoder.frames())
    assert frames[-1].picture.width == 128
    assert frames[-1].display.pixel_aspect_ratio == 1
    assert {frame.displayed_size for frame in frames} == {(128, 96)}
    assert frames[-1].rgb().min() > 200


def test_change_of_the_orientation_is_followed():
    picture = ramp(64, 48)
    turned = shown(picture).fitted((48, 64))
    pixels = turned.rgb(picture)
    assert pixels.shape == (64, 48, 3)
    assert pixels[:10].max() == pixels[54:].max() == 0
    assert pixels[32, 5].max() < pixels[32, 42].min()


def bright(index, width, height):
    return np.full((height, width, 3), 230, np.uint8)


# Planes


@pytest.mark.parametrize("fmt", ["yuv420p", "yuv420p10le", "yuv444p"])
def test_planes_are_the_same_for_every_pixel_format(fmt):
    picture = ramp(64, 32, fmt)
    luma, u, v = shown(picture).planes(picture, (64, 32), shown(picture).color)
    assert luma.shape == (32, 64)
    assert u.shape == v.shape == (16, 32)
    expected = 16 + np.linspace(20, 230, 64) * 219 / 255
    np.testing.assert_allclose(luma[16], expected, atol=3)
    np.testing.assert_allclose(u, 128, atol=2)


def test_plain_planes_are_not_copied():
    picture = ramp(64, 48)
    planes = shown(picture).planes(picture, (64, 48), BT601)
    assert all(
        np.shares_memory(plane, view) for plane, view in zip(planes, views(picture), strict=True)
    )


@pytest.mark.parametrize("orientation", [*product((False, True), range(4))])
def test_rows_of_turned_planes_are_contiguous(orientation):
    """Reading along the columns of a frame in memory takes many times as long."""
    picture = ramp(64, 48)
    turned = replace(shown(picture), orientation=Orientation(*orientation))
    size = turned.orientation.turned((64, 48))
    display = replace(turned, size=size, natural_size=size)
    for plane, stored in zip(display.planes(picture, size, BT601), views(picture), strict=True):
        assert plane.strides[1] == 1
        np.testing.assert_array_equal(plane, display.orientation.apply(stored))


def test_views_share_the_memory_of_the_picture():
    picture = VideoFrame(66, 34, "yuv420p")  # wider in memory than on display
    for plane in views(picture):
        plane[:] = 7
    assert [plane.shape for plane in views(picture)] == [(34, 66), (17, 33), (17, 33)]
    assert all((plane == 7).all() for plane in views(picture))


def test_odd_pixel_is_cut_without_scaling():
    picture = ramp(65, 33)
    luma, u, _ = shown(picture).planes(picture, (64, 32), BT601)
    np.testing.assert_array_equal(luma, views(picture)[0][:32, :64])
    assert u.shape == (16, 32)


@pytest.mark.parametrize("size", [(64, 32), (16, 8), (2, 2)])
def test_planes_are_scaled(size):
    picture = ramp(20, 10)
    luma, u, _ = shown(picture).planes(picture, size, BT601)
    assert luma.shape == size[::-1]
    assert u.shape == (size[1] // 2, size[0] // 2)


def test_frame_of_one_pixel_is_displayed():
    picture = picture_of("yuv420p", (126, 128, 128), 1, 1)
    display = shown(picture)
    assert display.rgb(picture).shape == (1, 1, 3)
    assert display.planes(picture, (2, 2), BT709)[0].tolist() == [[126, 126], [126, 126]]


def test_frame_that_cannot_be_converted_is_undecodable(monkeypatch):
    def fail(*_):
        raise av.error.ArgumentError(22, "unsupported")

    picture = ramp(65, 49, "yuv444p")
    display = shown(picture)
    monkeypatch.setattr(module, "converted", fail)
    with pytest.raises(VideoUndecodable, match="converted"):
        display.rgb(picture)
    with pytest.raises(VideoUndecodable, match="converted"):
        display.planes(picture, (64, 48), BT709)


def test_unknown_side_data_does_not_hide_the_rotation():
    class Sealed:
        """A frame with side data of a kind that PyAV does not know."""

        rotation = -90

        @property
        def side_data(self):
            raise ValueError("99 is not a valid Type")

    assert module._orientation(Sealed()) == (False, 3)


def test_frames_are_freed_without_the_garbage_collector(film):
    path = film(display_matrix=[-(1 << 16), 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30])
    picture = films.decode(path)[0]
    before = sys.getrefcount(picture)
    assert shown(picture).mirrored
    assert sys.getrefcount(picture) == before
