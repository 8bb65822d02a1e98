from types import SimpleNamespace

import av
import numpy as np
import pytest

from rollout_core.colormap import rgb_table, yuv_table
from rollout_core.contract import Overlay
from rollout_core.decoder import Frame
from rollout_core.painter import Painter, matrix_of, planes_of, views
from rollout_core.video import Crop

WIDTH, HEIGHT = 96, 64
CROP = Crop(16, 0, 64, 64)
GREY = 120


def grey_planes():
    shapes = [(HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2), (HEIGHT // 2, WIDTH // 2)]
    return [np.full(shape, GREY, np.uint8) for shape in shapes]


def paint(heat, overlay=None, crop=CROP):
    source, target = grey_planes(), [np.zeros_like(plane) for plane in grey_planes()]
    Painter(overlay or Overlay(), crop, "bt601").paint(source, target, np.float32(heat))
    return target


def frame_of(picture, quarter_turns=0):
    return Frame(0, 0, 0.0, 1, quarter_turns, picture)


def ramp(width, height, fmt="yuv420p"):
    """A picture whose brightness grows from left to right."""
    line = np.linspace(20, 230, width).astype(np.uint8)
    pixels = np.broadcast_to(line[None, :, None], (height, width, 3)).copy()
    return av.VideoFrame.from_ndarray(pixels).reformat(format=fmt, dst_color_range="MPEG")


def test_without_heat_the_crop_is_as_it_was_and_the_rest_is_dimmed():
    luma, u, v = paint(np.zeros((4, 4)))
    assert (luma[:, 16:80] == GREY).all()
    assert (u[:, 8:40] == GREY).all()
    outside = np.r_[0:16, 80:96]
    assert (luma[:, outside] == GREY // 2 + 8).all()
    assert (v[:, np.r_[0:8, 40:48]] == GREY // 2 + 64).all()


def test_full_heat_at_full_opacity_is_the_colour_itself():
    overlay = Overlay(colormap="viridis", opacity=1)
    hottest = yuv_table(rgb_table("viridis"), "bt601")[255]
    for plane, expected in zip(paint(np.ones((4, 4)), overlay), hottest, strict=True):
        middle = plane[plane.shape[0] // 2, plane.shape[1] // 2]
        assert middle == expected


@pytest.mark.parametrize("opacity", [0.25, 0.6])
def test_colour_is_blended_by_opacity_times_heat(opacity):
    colours = yuv_table(rgb_table("turbo"), "bt601").astype(float)
    heat = 128
    weight = opacity * heat / 255
    found = paint(np.full((4, 4), heat / 255), Overlay(opacity=opacity))
    for plane, colour in zip(found, colours[heat], strict=True):
        middle = plane[plane.shape[0] // 2, plane.shape[1] // 2]
        assert middle == pytest.approx((1 - weight) * GREY + weight * colour, abs=1)


def test_no_opacity_paints_nothing():
    luma, _, _ = paint(np.ones((4, 4)), Overlay(opacity=0))
    assert (luma[:, 16:80] == GREY).all()


def test_heat_stands_where_its_patch_is():
    heat = np.zeros((4, 8))
    heat[3, 1] = 1  # rows 48..63, columns 16+8..16+15
    luma, u, _ = paint(heat, Overlay(colormap="gray", opacity=1))
    changed = np.abs(luma[:, 16:80].astype(int) - GREY)
    row, column = np.unravel_index(changed.argmax(), changed.shape)
    assert 48 <= row < 64
    assert 8 <= column < 16
    assert changed[:32].max() == 0
    assert u.shape == (32, 48)


@pytest.mark.parametrize(
    "crop", [Crop(0, 0, WIDTH + 1, HEIGHT + 1), Crop(15, 1, 66, HEIGHT), Crop(16, 0, 81, 8)]
)
def test_heat_is_not_squeezed_where_the_frame_lacks_the_crops_edge(crop):
    """It is drawn as on a larger frame, from which the edge is then cut."""
    heat = np.float32(np.linspace(0, 1, 15).reshape(5, 3))
    overlay = Overlay(colormap="gray", opacity=1)
    source = [np.pad(plane, (0, 4), mode="edge") for plane in grey_planes()]
    larger = [np.zeros_like(plane) for plane in source]
    Painter(overlay, crop, "bt601").paint(source, larger, heat)
    luma, whole = paint(heat, overlay, crop)[0], larger[0][:HEIGHT, :WIDTH]
    np.testing.assert_allclose(luma.astype(float), whole.astype(float), atol=1)


def test_heat_is_scaled_smoothly():
    heat = np.zeros((2, 2))
    heat[:, 1] = 1
    luma, _, _ = paint(heat, Overlay(colormap="gray", opacity=1))
    steps = np.abs(np.diff(luma[32, 16:80].astype(int)))
    assert steps.max() < 20


@pytest.mark.parametrize("crop", [Crop(15, 1, 33, 41), Crop(95, 63, 1, 1), Crop(0, 0, 97, 65)])
def test_nothing_is_painted_outside_odd_crops(crop):
    for plane, scale in zip(paint(np.ones((3, 3)), Overlay(), crop), (1, 2, 2), strict=True):
        rows, columns = np.indices(plane.shape) * scale
        outside = (
            (rows < crop.y)
            | (rows + scale > crop.y + crop.height)
            | (columns < crop.x)
            | (columns + scale > crop.x + crop.width)
        )
        dimmed = GREY // 2 + (8 if scale == 1 else 64)
        assert (plane[outside] == dimmed).all()


@pytest.mark.parametrize("fmt", ["yuv420p", "yuv420p10le", "yuv444p", "gbrp", "gray"])
def test_planes_of_any_format_are_the_same_picture(fmt):
    luma, u, v = planes_of(frame_of(ramp(64, 32, fmt)), 64, 32, "bt601")
    assert luma.shape == (32, 64)
    assert u.shape == v.shape == (16, 32)
    expected = 16 + np.linspace(20, 230, 64) * 219 / 255
    np.testing.assert_allclose(luma[16], expected, atol=3)
    np.testing.assert_allclose(u, 128, atol=2)


def test_full_range_becomes_limited():
    picture = av.VideoFrame.from_ndarray(np.full((32, 64, 3), 255, np.uint8)).reformat(
        format="yuv420p", dst_color_range="JPEG"
    )
    assert bytes(picture.planes[0])[0] == 255
    assert planes_of(frame_of(picture), 64, 32, "bt601")[0].max() == 235


def test_planes_share_the_memory_of_a_plain_picture():
    picture = av.VideoFrame(66, 34, "yuv420p")  # wider in memory than on display
    for plane in views(picture):
        plane[:] = 7
    assert [plane.shape for plane in views(picture)] == [(34, 66), (17, 33), (17, 33)]
    assert all((plane == 7).all() for plane in views(picture))


@pytest.mark.parametrize(("quarter_turns", "top"), [(1, 230), (3, 20)])
def test_planes_are_turned(quarter_turns, top):
    luma, u, _ = planes_of(frame_of(ramp(64, 32), quarter_turns), 32, 64, "bt601")
    assert luma.shape == (64, 32)
    assert u.shape == (32, 16)
    assert luma[0, 0] == pytest.approx(16 + top * 219 / 255, abs=3)


def test_an_odd_pixel_is_cut_and_the_others_are_kept():
    picture = ramp(65, 33)
    luma, u, _ = planes_of(frame_of(picture), 64, 32, "bt601")
    np.testing.assert_array_equal(luma, views(picture)[0][:32, :64])
    assert u.shape == (16, 32)


def test_another_size_is_scaled():
    luma, u, _ = planes_of(frame_of(ramp(20, 10)), 64, 32, "bt601")
    assert luma.shape == (32, 64)
    assert u.shape == (16, 32)


@pytest.mark.parametrize(
    ("colorspace", "height", "expected"),
    [
        (2, 480, "bt601"),
        (2, 720, "bt709"),
        (1, 480, "bt709"),
        (5, 1080, "bt601"),
        (9, 64, "bt2020"),
    ],
)
def test_matrix_is_the_tagged_one_or_the_players_guess(colorspace, height, expected):
    picture = SimpleNamespace(colorspace=colorspace)
    assert matrix_of(picture, height) == expected
