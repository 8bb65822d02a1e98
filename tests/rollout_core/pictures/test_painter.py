"""Tests of the painting of heat maps, also against a slow and obvious reference."""

import numpy as np
import pytest
from PIL import Image

from rollout_core.contract import Overlay
from rollout_core.pictures import painter
from rollout_core.pictures.heat import rgb_table, yuv_table
from rollout_core.pictures.painter import HEAT_TOLERANCE, Painter
from rollout_core.video.clips import Crop
from rollout_core.video.color import BT709

WIDTH, HEIGHT = 96, 64
CROP = Crop(16, 0, 64, 64)
GREY = 120
FADED = 125
"""Chroma of the same value below a heat map of the usual opacity, 0.6: nearer to 128."""

BT601 = BT709.model_copy(update={"matrix": "smpte170m"})


def grey_planes():
    shapes = [(HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2), (HEIGHT // 2, WIDTH // 2)]
    return [np.full(shape, GREY, np.uint8) for shape in shapes]


def paint(heat, overlay=None, crop=CROP):
    """Return the planes of a grey frame with heat painted on."""
    source, target = grey_planes(), [np.zeros_like(plane) for plane in grey_planes()]
    Painter(overlay or Overlay(), crop, BT601).paint(source, target, np.float32(heat))
    return target


def test_crop_without_heat_keeps_its_brightness_and_the_rest_is_dimmed():
    luma, u, v = paint(np.zeros((4, 4)))
    assert (luma[:, 16:80] == GREY).all()
    assert (u[:, 8:40] == FADED).all()
    outside = np.r_[0:16, 80:96]
    assert (luma[:, outside] == GREY // 2 + 8).all()
    assert (v[:, np.r_[0:8, 40:48]] == GREY // 2 + 64).all()


def test_full_heat_at_full_opacity_has_the_colour_of_the_colormap():
    overlay = Overlay(colormap="viridis", opacity=1)
    hottest = yuv_table(rgb_table("viridis"), BT601)[255]
    for plane, expected in zip(paint(np.ones((4, 4)), overlay), hottest, strict=True):
        middle = plane[plane.shape[0] // 2, plane.shape[1] // 2]
        assert middle == expected


@pytest.mark.parametrize("opacity", [0.25, 0.6])
def test_colour_is_blended_by_opacity_times_heat(opacity):
    colours = yuv_table(rgb_table("plasma"), BT601).astype(float)
    heat = 128
    weight = opacity * heat / 255
    found = paint(np.full((4, 4), heat / 255), Overlay(opacity=opacity))
    faded = opacity * 128 + (1 - opacity) * GREY
    for plane, below, colour in zip(found, (GREY, faded, faded), colours[heat], strict=True):
        middle = plane[plane.shape[0] // 2, plane.shape[1] // 2]
        assert middle == pytest.approx((1 - weight) * below + weight * colour, abs=1)


def test_zero_opacity_paints_nothing():
    luma, u, v = paint(np.ones((4, 4)), Overlay(opacity=0))
    assert (luma[:, 16:80] == GREY).all()
    assert (u[:, 8:40] == GREY).all()
    assert (v[:, 8:40] == GREY).all()


def test_heat_is_drawn_at_its_patch():
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
def test_heat_is_cut_and_not_squeezed_at_the_edge_of_the_frame(crop):
    """The result equals that of a larger frame, cut to the size."""
    heat = np.float32(np.linspace(0, 1, 15).reshape(5, 3))
    overlay = Overlay(colormap="gray", opacity=1)
    source = [np.pad(plane, (0, 4), mode="edge") for plane in grey_planes()]
    larger = [np.zeros_like(plane) for plane in source]
    Painter(overlay, crop, BT601).paint(source, larger, heat)
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


def noise_planes(width, height):
    random = np.random.default_rng(3)
    return [
        random.integers(0, 256, (height // scale, width // scale), dtype=np.uint8)
        for scale in (1, 2, 2)
    ]


def reference(source, heat, overlay, crop):
    """Return the planes, painted pixel by pixel in floating point."""
    colours = yuv_table(rgb_table(overlay.colormap), BT601).astype(float)
    planes = []
    for channel, (plane, scale) in enumerate(zip(source, (1, 2, 2), strict=True)):
        size = scale * plane.shape[1], scale * plane.shape[0]
        grown = Image.fromarray(heat).resize((crop.width, crop.height), Image.Resampling.BICUBIC)
        whole = Image.new("F", size, -1.0)
        whole.paste(grown, (crop.x, crop.y))
        cells = np.asarray(whole).reshape(plane.shape[0], scale, plane.shape[1], scale)
        is_inside, shares = (cells != -1).all(axis=(1, 3)), cells.mean(axis=(1, 3)).clip(0, 1)
        black = 16 if channel == 0 else 128
        weight = overlay.opacity * shares
        fade = 0 if channel == 0 else overlay.opacity
        blended = (1 - weight) * (fade * 128 + (1 - fade) * plane) + weight * colours[
            np.rint(255 * shares).astype(int), channel
        ]
        planes.append(np.where(is_inside, blended, (plane.astype(float) + black) / 2))
    return planes


@pytest.mark.parametrize("opacity", [0.6, 1.0])
@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((320, 240), Crop(40, 0, 240, 240)),
        ((322, 302), Crop(11, 13, 289, 257)),
        ((200, 150), Crop(0, 0, 201, 151)),
        ((96, 400), Crop(1, 199, 95, 131)),
    ],
)
def test_painted_planes_equal_those_of_the_reference(size, crop, opacity):
    heat = np.random.default_rng(0).random((5, 7), np.float32)
    overlay, source = Overlay(opacity=opacity), noise_planes(*size)
    target = [np.zeros_like(plane) for plane in source]
    Painter(overlay, crop, BT601).paint(source, target, heat)
    for found, expected in zip(target, reference(source, heat, overlay, crop), strict=True):
        difference = np.abs(found - expected)
        assert difference.mean() < 0.5
        assert difference.max() < 6  # by so much may one level's colour differ from the next


def test_heat_that_hardly_changes_is_kept(monkeypatch):
    made = []
    monkeypatch.setattr(painter, "_grown", lambda *_: made.append(0) or iter(()))
    heat, brush = np.zeros((4, 4), np.float32), Painter(Overlay(), CROP, BT601)
    for step in range(9):
        heat = heat.copy()
        heat[1, 2] = step * HEAT_TOLERANCE / 4
        brush.paint(grey_planes(), grey_planes(), heat)
    assert (
        len(made) == 2 * 2
    )  # luma and chroma, of the first heat and of the one that is 5 steps on


def test_heat_that_changes_is_painted_anew():
    brush, target = Painter(Overlay(), CROP, BT601), grey_planes()
    for value in (0, 0.2, 0.7):
        heat = np.full((4, 4), value, np.float32)
        brush.paint(grey_planes(), target, heat)
        for found, expected in zip(target, paint(heat), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_products_are_too_small_for_threads_of_openblas():
    """Its threshold is 2^18 products; above, it starts threads, which wait busily."""
    largest_grid, most_pixels = 28, 2304
    assert painter.PRODUCT_LINES * largest_grid * most_pixels < 1 << 18
    assert painter.BAND_LINES % painter.PRODUCT_LINES == 0
