import numpy as np
import pytest
from einops import repeat

from rollout_core.contract import Caption, Color, Overlay
from rollout_core.pictures.caption_band import BEHIND, INK, CaptionBand, band_lines
from rollout_core.pictures.heat import colour_table, yuv_table

BT709 = Color(matrix="bt709", range="limited", primaries="bt709", transfer="bt709")
PAPER = int(yuv_table(np.uint8([BEHIND]), BT709)[0, 0])
BRIGHT = int(yuv_table(np.uint8([INK]), BT709)[0, 0])


def drawn(width, height, title="a thing moves left, 98 %", seconds=1.5, **style):
    """Return the planes of a band below a picture of this size."""
    lines = band_lines((width, height))
    band = CaptionBand(width, lines, BT709, Caption(title=title), Overlay(**style))
    shape = height + lines, width
    planes = [np.zeros(shape, np.uint8), *np.zeros((2, shape[0] // 2, width // 2), np.uint8)]
    band.draw(planes, seconds)
    assert not planes[0][:height].any()
    assert not np.any([plane[: height // 2] for plane in planes[1:]])
    return planes[0][height:], planes[1][height // 2 :], planes[2][height // 2 :]


def ink_rows(luma):
    """Return the first and the last row with text."""
    rows = np.flatnonzero((luma > (PAPER + BRIGHT) // 2).any(axis=1))
    return rows[0], rows[-1]


@pytest.mark.parametrize("size", [(320, 240), (640, 360), (406, 720), (1280, 720), (3840, 2160)])
def test_text_is_large_enough_to_read_and_has_a_margin(size):
    luma, _, _ = drawn(*size)
    assert len(luma) <= max(20, size[1] / 20)
    first, last = ink_rows(luma)
    assert last - first >= max(8, 0.4 * len(luma))
    assert first > 0
    assert last < len(luma) - 1


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (64, 36), (34, 720)])
def test_tiny_pictures_have_a_band_too(size):
    assert drawn(*size)[0].shape == (band_lines(size), size[0])


def test_the_time_alone_changes():
    early, late, again = (drawn(640, 360, seconds=each)[0] for each in (0.25, 61.5, 0.25))
    assert np.array_equal(early, again)
    changed = np.flatnonzero((early != late).any(axis=0))
    assert changed[0] > 500


def test_a_later_time_leaves_nothing_of_the_one_before():
    band = CaptionBand(320, 20, BT709, Caption(title="x"), Overlay())
    planes = [np.zeros((20, 320), np.uint8), *np.zeros((2, 10, 160), np.uint8)]
    band.draw(planes, 600.0)
    band.draw(planes, 0.5)
    assert np.array_equal(planes[0], drawn(320, 240, title="x", seconds=0.5)[0])


def test_a_long_title_ends_before_the_key():
    short, long = (drawn(640, 360, title=title)[0] for title in ("x", "a long word " * 20))
    assert np.array_equal(short[:, 380:], long[:, 380:])


@pytest.mark.parametrize("style", [{"opacity": 1}, {"opacity": 1, "signed": True}])
def test_the_key_has_the_colours_of_the_heat(style):
    planes = drawn(1280, 720, **style)
    height = len(planes[0])
    chroma = np.stack([repeat(plane, "y x -> (y 2) (x 2)") for plane in planes[1:]], axis=-1)
    middle = np.concatenate((planes[0][height // 2, :, None], chroma[height // 2]), axis=-1)
    hottest = yuv_table(colour_table(Overlay(**style)), BT709)[-1]
    assert np.abs(middle - hottest.astype(float)).max(axis=-1).min() < 8


def test_a_narrow_band_has_a_key_without_words():
    planes = drawn(320, 240)
    paper = yuv_table(np.uint8([BEHIND]), BT709)[0, 2]
    colourful = np.flatnonzero((np.abs(planes[2] - float(paper)) > 3).any(axis=0))
    assert 30 < 2 * (colourful[-1] - colourful[0]) < 60
